/**
 * The worker's clock as seen from the page. Messages take a while, so the page learns a worker's time late by a varying bit: the
 * least delay seen lately is the best guess at the offset. It follows a worker that was replaced.
 */

/** A guess that is off by more belongs to another worker, or to a page that slept. */
const LARGEST_CORRECTION_MS = 1_000;
/** How fast the guess forgets a lucky quick message: ms per second. */
const DRIFT_MS_PER_SECOND = 2;

export class WorkerClock {
  #offset: number | null = null;
  #heardMs = 0;

  /** A message sent at `workerMs` arrived at `pageMs`. */
  heard(workerMs: number, pageMs: number): void {
    const offset = workerMs - pageMs;
    if (this.#offset === null || Math.abs(offset - this.#offset) > LARGEST_CORRECTION_MS) {
      this.#offset = offset;
    } else {
      const forgotten = (DRIFT_MS_PER_SECOND * Math.max(0, pageMs - this.#heardMs)) / 1000;
      this.#offset = Math.max(offset, this.#offset - forgotten);
    }
    this.#heardMs = pageMs;
  }

  /** null before anything was heard. */
  at(pageMs: number): number | null {
    return this.#offset === null ? null : pageMs + this.#offset;
  }
}
