/**
 * A barrier for workers that run the same steps: nobody passes until all have arrived. Spins briefly, as the others are
 * usually microseconds behind, then sleeps. With one party it is nothing.
 */
const ARRIVED = 0;
const GENERATION = 1;
/** About 20 µs of loads: longer than the usual difference between two workers, shorter than a sleep and a wake. */
const SPINS = 4000;

export const BARRIER_BYTES = 8;

export class Barrier {
  readonly #state: Int32Array | null; // [arrived, generation]
  readonly #parties: number;

  /** @param memory shared by all parties, zeroed; null where there is one party */
  constructor(memory: SharedArrayBuffer | null, parties: number) {
    this.#state = memory === null ? null : new Int32Array(memory);
    this.#parties = parties;
  }

  wait(): void {
    const state = this.#state;
    if (state === null || this.#parties === 1) return;
    const generation = Atomics.load(state, GENERATION);
    if (Atomics.add(state, ARRIVED, 1) === this.#parties - 1) {
      Atomics.store(state, ARRIVED, 0);
      Atomics.add(state, GENERATION, 1);
      Atomics.notify(state, GENERATION);
      return;
    }
    for (let spin = 0; spin < SPINS; spin++) {
      if (Atomics.load(state, GENERATION) !== generation) return;
    }
    while (Atomics.load(state, GENERATION) === generation) Atomics.wait(state, GENERATION, generation);
  }
}
