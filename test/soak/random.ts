/** The numbers of one seed: the same on every machine, whatever the order of what runs at the same time. */
import { randomSource } from '../kernels/attention-cases.ts';

export class Random {
  readonly #next: () => number;

  constructor(seed: number) {
    this.#next = randomSource(Math.imul(seed, 0x9e3779b1) ^ 0x5bd1e995);
    for (let i = 0; i < 8; i++) this.#next(); // neighbouring seeds begin alike
  }

  /** From 0 to below 1. */
  fraction(): number {
    return this.#next();
  }

  chance(probability: number): boolean {
    return this.#next() < probability;
  }

  /** A whole number, both ends included. */
  whole(from: number, to: number): number {
    return from + Math.floor(this.#next() * (to - from + 1));
  }

  /** @throws RangeError of an empty list */
  pick<T>(list: readonly T[]): T {
    const one = list[this.whole(0, list.length - 1)];
    if (one === undefined) throw new RangeError('nothing to pick from');
    return one;
  }

  /** Some `count` of the list, in the list's order. */
  some<T>(list: readonly T[], count: number): T[] {
    let left = list.length;
    let wanted = Math.min(count, left);
    return list.filter(() => {
      const taken = this.#next() * left < wanted;
      left--;
      if (taken) wanted--;
      return taken;
    });
  }
}
