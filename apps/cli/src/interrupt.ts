/** Ctrl-C and SIGTERM: the first asks to stop, the second doesn't ask. */
import { AbortedError } from '@glinthawk/core';
import { EXIT } from './failure.ts';

export interface Interrupt {
  readonly signal: AbortSignal;
  /** Leaves the signals to Node again. */
  dispose(): void;
}

export function onInterrupt(announce: (signal: NodeJS.Signals) => void): Interrupt {
  const controller = new AbortController();
  const handle = (signal: NodeJS.Signals) => {
    if (controller.signal.aborted) process.exit(EXIT.interrupted);
    announce(signal);
    controller.abort(new AbortedError(`stopped by ${signal}`));
  };
  process.on('SIGINT', handle);
  process.on('SIGTERM', handle);
  return {
    signal: controller.signal,
    dispose() {
      process.off('SIGINT', handle);
      process.off('SIGTERM', handle);
    },
  };
}
