/**
 * Text that grows at its end. What is new is appended as a text node in the next animation frame, so that a long answer costs no
 * more a token than a short one; only a text that began anew is written whole.
 */
import { useEffect, useRef } from 'preact/hooks';

export function StreamingText({ text, epoch }: { readonly text: string; readonly epoch: number }) {
  const span = useRef<HTMLSpanElement>(null);
  const latest = useRef({ text, epoch });
  const shown = useRef({ length: 0, epoch });
  const frame = useRef<number | null>(null);
  latest.current = { text, epoch };

  useEffect(() => {
    // A frame that is due takes whatever is the latest by then.
    frame.current ??= requestAnimationFrame(() => {
      frame.current = null;
      const element = span.current;
      if (element === null) return;
      const now = latest.current;
      if (shown.current.epoch !== now.epoch || now.text.length < shown.current.length) element.textContent = now.text;
      else if (now.text.length > shown.current.length) element.append(now.text.slice(shown.current.length));
      shown.current = { length: now.text.length, epoch: now.epoch };
      keepEndInView(element.closest('.output-text'));
    });
  }, [text, epoch]);
  useEffect(
    () => () => {
      if (frame.current !== null) cancelAnimationFrame(frame.current);
    },
    [],
  );

  return <span ref={span} class="written" />;
}

/** Near enough to the end to count as reading along. */
const FOLLOW_PX = 80;

function keepEndInView(box: Element | null): void {
  if (box === null) return;
  const below = box.scrollHeight - box.scrollTop - box.clientHeight;
  if (below > 0 && below < FOLLOW_PX) box.scrollTop = box.scrollHeight;
}
