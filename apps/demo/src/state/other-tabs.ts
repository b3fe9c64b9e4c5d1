/**
 * Whether other tabs of this page have an engine open, too: each holds a shared Web Lock while it does, and tells the others
 * by a BroadcastChannel to count again. Nothing is forbidden; the visitor is told that memory is shared.
 */
import { type ReadonlySignal, signal } from '@preact/signals';

const NAME = 'glinthawk-engine';
/** A tab that is closed can't say so: while there are others, they are counted again. */
const RECOUNT_MS = 3000;

export interface OtherTabs {
  /** How many others; 0 where the browser can't tell. */
  readonly count: ReadonlySignal<number>;
  /** This tab has an engine open, or no longer. */
  hold(open: boolean): void;
  close(): void;
}

export function watchOtherTabs(): OtherTabs {
  const count = signal(0);
  const locks = 'locks' in navigator ? navigator.locks : null;
  const channel = new BroadcastChannel(NAME);
  let release: (() => void) | null = null;

  async function recount(): Promise<void> {
    if (locks === null) return;
    const { held = [] } = await locks.query();
    const all = held.filter(({ name }) => name === NAME).length;
    count.value = Math.max(0, all - (release === null ? 0 : 1));
  }
  const recountSoon = (): void => {
    recount().catch(() => undefined);
  };
  channel.addEventListener('message', recountSoon);
  document.addEventListener('visibilitychange', recountSoon);
  const clock = setInterval(() => {
    if (count.peek() > 0) recountSoon();
  }, RECOUNT_MS);

  function hold(open: boolean): void {
    if (locks === null || open === (release !== null)) return;
    if (!open) {
      release?.();
      release = null;
    } else {
      const { promise, resolve } = Promise.withResolvers<void>();
      release = resolve;
      const told = async (): Promise<void> => {
        channel.postMessage('changed');
        recountSoon();
        await promise;
      };
      // Refused only where storage is forbidden: then the count stays 0.
      locks.request(NAME, { mode: 'shared' }, told).then(
        () => channel.postMessage('changed'),
        () => undefined,
      );
    }
  }

  return {
    count,
    hold,
    close() {
      release?.();
      release = null;
      channel.close();
      clearInterval(clock);
      document.removeEventListener('visibilitychange', recountSoon);
    },
  };
}
