/**
 * Ctrl-C and SIGTERM: the first asks to stop, the second doesn't ask. They come as signals, and as messages of a launcher that
 * was told; of what a terminal tells both, one is counted.
 */
import { AbortedError } from '@glinthawk/core';
import { EXIT } from './failure.ts';

const SIGNALS: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM'];

export interface Interrupt {
  readonly signal: AbortSignal;
  /** Leaves the signals to Node again. */
  dispose(): void;
}

export function onInterrupt(announce: (signal: NodeJS.Signals) => void): Interrupt {
  const controller = new AbortController();
  const counts = { direct: new Map<string, number>(), passedOn: new Map<string, number>() };
  const heard = (way: keyof typeof counts, signal: NodeJS.Signals) => {
    const times = (counts[way].get(signal) ?? 0) + 1;
    counts[way].set(signal, times);
    const other = counts[way === 'direct' ? 'passedOn' : 'direct'].get(signal) ?? 0;
    if (times > other) handle(signal);
  };
  const onSignal = (signal: NodeJS.Signals) => heard('direct', signal);
  const onMessage = (message: unknown) => {
    const { signal } = message as { readonly signal?: NodeJS.Signals };
    if (signal !== undefined && SIGNALS.includes(signal)) heard('passedOn', signal);
  };
  const handle = (signal: NodeJS.Signals) => {
    if (controller.signal.aborted) process.exit(EXIT.interrupted);
    announce(signal);
    controller.abort(new AbortedError(`stopped by ${signal}`));
  };
  for (const signal of SIGNALS) process.on(signal, onSignal);
  process.on('message', onMessage);
  process.channel?.unref(); // A listener for messages would keep the process alive.
  return {
    signal: controller.signal,
    dispose() {
      for (const signal of SIGNALS) process.off(signal, onSignal);
      process.off('message', onMessage);
    },
  };
}
