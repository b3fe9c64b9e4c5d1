/** For tests: the events of an engine, kept, and waited for. */
import type { Command, Event, SamplingControls, TierSettings } from './protocol.ts';

type EventOf<T extends Event['type']> = Extract<Event, { readonly type: T }>;

export class RecordedEvents {
  readonly all: Event[] = [];
  readonly #waiting = new Set<() => void>();

  add(event: Event): void {
    this.all.push(event);
    for (const wake of [...this.#waiting]) wake();
  }

  of<T extends Event['type']>(type: T): EventOf<T>[] {
    return this.all.filter((event): event is EventOf<T> => event.type === type);
  }

  /** The first such event after `since` events. */
  async next<T extends Event['type']>(
    type: T,
    matches: (event: EventOf<T>) => boolean = () => true,
    since = 0,
  ): Promise<EventOf<T>> {
    for (;;) {
      const found = this.all
        .slice(since)
        .filter((event): event is EventOf<T> => event.type === type)
        .find(matches);
      if (found !== undefined) return found;
      const failed = this.all.slice(since).find((event) => event.type === 'failed');
      if (failed !== undefined && type !== 'failed') throw new Error(`failed: ${JSON.stringify(failed)}`);
      await new Promise<void>((resolve) => {
        const wake = () => {
          this.#waiting.delete(wake);
          resolve();
        };
        this.#waiting.add(wake);
      });
    }
  }
}

export const greedyControls: SamplingControls = {
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  repetitionPenalty: 1,
  seed: 0n,
  maxTokens: 16,
  stop: [],
};

export const twoTiers: TierSettings = {
  mode: 'two-tiers',
  dense: 'wasm',
  allowSoftwareGpu: true,
  weightDtype: 'auto',
  workers: 2,
  remotes: [],
  kvDtype: 'f16',
  kvBytes: 64 * 2 ** 20,
  inFlight: 2,
  microBatchRows: 'auto',
  latencyMs: 0,
};

export function generateCommand(
  run: number,
  texts: readonly string[],
  controls: Partial<SamplingControls> = {},
): Extract<Command, { type: 'generate' }> {
  return {
    type: 'generate',
    run,
    prompts: texts.map((text) => ({ kind: 'text', text })),
    sampling: { ...greedyControls, ...controls },
  };
}
