/**
 * Text that grows at its end. What is new is appended as a text node in the next animation frame, so that a long answer costs no
 * more a token than a short one; only a text that began anew is written whole.
 */
import { useEffect, useRef } from 'preact/hooks';

export function StreamingText({ text, epoch }: { readonly text: string; readonly epoch: number }) {
  const span = useRef<HTMLSpanElement>(null);
  const shown = useRef({ length: 0, epoch });

  useEffect(() => {
    const frame = requestAnimationFrame(() => {
      const element = span.current;
      if (element === null) return;
      if (shown.current.epoch !== epoch || text.length < shown.current.length) element.textContent = text;
      else if (text.length > shown.current.length) element.append(text.slice(shown.current.length));
      shown.current = { length: text.length, epoch };
      keepEndInView(element.closest('.output-text'));
    });
    return () => cancelAnimationFrame(frame);
  }, [text, epoch]);

  return <span ref={span} class="written" />;
}

/** Near enough to the end to count as reading along. */
const FOLLOW_PX = 80;

function keepEndInView(box: Element | null): void {
  if (box === null) return;
  const below = box.scrollHeight - box.scrollTop - box.clientHeight;
  if (below > 0 && below < FOLLOW_PX) box.scrollTop = box.scrollHeight;
}
