/** What the engine measures while it runs: shares of time, and stage times as one micro-batch sees them. */

/** Time in which at least one of something was under way. */
export class BusyMeter {
  #underWay = 0;
  #since = 0;
  #totalMs = 0;

  begin(now: number): void {
    if (this.#underWay++ === 0) this.#since = now;
  }

  end(now: number): void {
    if (--this.#underWay === 0) this.#totalMs += now - this.#since;
  }

  totalMs(now: number): number {
    return this.#totalMs + (this.#underWay > 0 ? now - this.#since : 0);
  }
}

/** Mean and mean deviation that forget, as TCP keeps its round trip (RFC 6298). */
export class SmoothedTime {
  #mean = 0;
  #deviation = 0;
  #samples = 0;

  add(ms: number): void {
    // The first samples weigh alike; later ones are forgotten over some 32.
    const weight = 1 / Math.min(32, ++this.#samples);
    this.#deviation += weight * (Math.abs(ms - this.#mean) - this.#deviation);
    this.#mean += weight * (ms - this.#mean);
    if (this.#samples === 1) this.#deviation = 0;
  }

  get samples(): number {
    return this.#samples;
  }

  get meanMs(): number {
    return this.#mean;
  }

  get deviationMs(): number {
    return this.#deviation;
  }
}
