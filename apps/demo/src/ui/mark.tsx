/** The mark: a hawk in a stoop from four straight strokes, and the glint that it has seen. */
export function Mark({ size = 32 }: { readonly size?: number }) {
  return (
    <svg class="mark" viewBox="0 0 48 48" width={size} height={size} aria-hidden="true" focusable="false">
      <path class="mark-wing-far" d="M45 5 24 16 19 27Z" />
      <path class="mark-wing-near" d="M3 13 24 16 19 27Z" />
      <path class="mark-body" d="M24 16 19 27 13 43 29 25Z" />
      <path class="mark-glint" d="M36 29l1.7 4.3L42 35l-4.3 1.7L36 41l-1.7-4.3L30 35l4.3-1.7Z" />
    </svg>
  );
}
