/**
 * What was told already of causes that strangers can repeat as often as they like: each is told once, and only so many in all, so
 * that neither a screen nor this memory fills up.
 */
export class ToldOnce {
  readonly #most: number;
  readonly #told = new Set<string>();

  constructor(most: number) {
    this.#most = most;
  }

  /** Whether this is the first time, and there is room to remember it. */
  isNew(cause: string): boolean {
    if (this.#told.has(cause) || this.#told.size >= this.#most) return false;
    this.#told.add(cause);
    return true;
  }
}
