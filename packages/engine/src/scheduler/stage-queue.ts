/**
 * The queue in front of the dense tier: micro-batches whose next stage is ready wait here, at most `concurrency` calls run. Bounded,
 * as each micro-batch in flight waits at most once. Which one goes next is policy.ts's choice, made when a call ends and not
 * when one arrives, so that it sees everybody who waits.
 */
import { pickStage, type StagePolicy } from './policy.ts';

export interface StageTicket {
  readonly depth: number;
  /** Asked when a choice is made. */
  outstandingRows(): number;
}

interface Waiting {
  readonly arrival: number;
  readonly ticket: StageTicket;
  readonly start: () => void;
}

export class StageQueue {
  readonly #policy: StagePolicy;
  readonly #concurrency: number;
  readonly #capacity: number;
  readonly #waiting: Waiting[] = [];
  #arrivals = 0;
  #running = 0;

  constructor(options: { readonly policy: StagePolicy; readonly concurrency: number; readonly capacity: number }) {
    this.#policy = options.policy;
    this.#concurrency = Math.max(1, options.concurrency);
    this.#capacity = options.capacity;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  get running(): number {
    return this.#running;
  }

  /** Waits for the turn, then runs the call; what it gives or throws comes through. */
  async run<T>(ticket: StageTicket, call: () => Promise<T>): Promise<T> {
    if (this.#running >= this.#concurrency) {
      if (this.#waiting.length >= this.#capacity) throw new Error(`stage queue over its bound of ${this.#capacity}`);
      await new Promise<void>((start) => {
        this.#waiting.push({ arrival: this.#arrivals++, ticket, start });
      });
    } else {
      this.#running++;
    }
    try {
      return await call();
    } finally {
      this.#next();
    }
  }

  /** Hands the ended call's place on, without letting a newcomer slip in between. */
  #next(): void {
    if (this.#waiting.length === 0) {
      this.#running--;
      return;
    }
    const stages = this.#waiting.map(({ arrival, ticket }) => ({
      arrival,
      depth: ticket.depth,
      outstandingRows: this.#policy === 'starvation-first' ? ticket.outstandingRows() : 0,
    }));
    const [next] = this.#waiting.splice(pickStage(this.#policy, stages), 1);
    next?.start();
  }
}
