/**
 * How many micro-batches are kept in flight: as told, or from measured stage times (policy.ts has the formula). It starts small,
 * since each holds buffers on the dense device, and moves one at a time.
 */
import { SmoothedTime } from '../meters.ts';
import { inFlightTarget } from './policy.ts';

/** Never more, however long the round trip. */
export const MOST_IN_FLIGHT = 32;
/** Sequences that a micro-batch should have before another one is worth while. */
const FEWEST_SEQUENCES = 8;
/** More of them than this change nothing. */
export const MOST_COUNTED_SEQUENCES = MOST_IN_FLIGHT * FEWEST_SEQUENCES;
/** Attention stages that must have been measured before the first change, and between changes. */
const SETTLE_SAMPLES = 24;

export class InFlight {
  readonly #told: number | null;
  readonly #attention = new SmoothedTime();
  #current: number;
  #most = MOST_IN_FLIGHT;
  #samplesAtChange = 0;

  constructor(setting: number | 'auto') {
    this.#told = setting === 'auto' ? null : setting;
    this.#current = setting === 'auto' ? 2 : setting;
  }

  get current(): number {
    return this.#current;
  }

  /** No more than this from now on: the device has no room for another micro-batch. */
  limit(most: number): void {
    this.#most = Math.max(1, most);
    this.#current = Math.min(this.#current, this.#most);
  }

  /** Without the time that it waited behind others at its nodes. */
  addAttention(ms: number): void {
    this.#attention.add(ms);
  }

  /**
   * Looks at what was measured since the last change; true when the number changed.
   * @param sequences asked only when it matters: those running, and those that wait for nothing but room in a micro-batch: what waits for KV fills no other one
   * @param rows of a micro-batch at most
   * @param busy what one stage of one micro-batch occupies of the dense device, and of the busiest attention node
   */
  adapt(
    sequences: () => number,
    rows: number,
    busy: { readonly denseMs: number; readonly attentionMs: number },
  ): boolean {
    if (this.#told !== null) return false;
    if (this.#attention.samples - this.#samplesAtChange < SETTLE_SAMPLES) return false;
    this.#samplesAtChange = this.#attention.samples;
    const most = Math.max(1, Math.min(this.#most, Math.floor(sequences() / Math.min(FEWEST_SEQUENCES, rows))));
    const target = inFlightTarget(
      {
        denseMs: busy.denseMs,
        attentionMs: this.#attention.meanMs,
        attentionJitterMs: this.#attention.deviationMs,
        attentionBusyMs: busy.attentionMs,
      },
      this.#current,
      most,
    );
    const before = this.#current;
    this.#current += Math.sign(target - before);
    return this.#current !== before;
  }
}
