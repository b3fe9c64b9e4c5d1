/**
 * One call of generate(): its events, on their way to a consumer that may be slow, and its bounds. The buffer is soft: what is
 * under way when it fills up may still come in (one step's tokens), but nothing new is begun for a job that is full.
 */
import type { GenerationEvent } from './request.ts';

/** Events that wait for the consumer before the job pauses. */
const EVENT_LIMIT = 1024;

export class Job {
  /** Sequences pulled and not yet gone from every queue and micro-batch. */
  held = 0;
  /** Of those, waiting for their first or another placement. */
  waiting = 0;
  /** Nothing of it is wanted any more: failed, aborted or broken out of. */
  closed = false;
  readonly #onRoom: () => void;
  #events: GenerationEvent[] = [];
  #taken = 0;
  #sourceDone = false;
  #error: Error | null = null;
  #wakeConsumer: (() => void) | null = null;
  #wakeSource: (() => void) | null = null;
  #wakeDrained: (() => void) | null = null;

  /** @param onRoom called when a job that was paused may go on */
  constructor(onRoom: () => void) {
    this.#onRoom = onRoom;
  }

  get buffered(): number {
    return this.#events.length - this.#taken;
  }

  get paused(): boolean {
    return this.buffered >= EVENT_LIMIT;
  }

  push(event: GenerationEvent): void {
    if (this.closed) return;
    this.#events.push(event);
    this.#wakeConsumer?.();
  }

  /** The next event; null when all requests were pulled and have ended. @throws what the job failed with */
  async next(): Promise<GenerationEvent | null> {
    for (;;) {
      if (this.#error !== null) throw this.#error;
      const event = this.#events[this.#taken];
      if (event !== undefined) {
        this.#take();
        return event;
      }
      if (this.#sourceDone && this.held === 0) return null;
      await new Promise<void>((wake) => {
        this.#wakeConsumer = wake;
      });
      this.#wakeConsumer = null;
    }
  }

  /** The consumer sees the error instead of further events. */
  fail(error: Error): void {
    this.#error ??= error;
    this.#wakeConsumer?.();
    this.#wakeSource?.();
  }

  sourceDone(): void {
    this.#sourceDone = true;
    this.#wakeConsumer?.();
  }

  close(): void {
    this.closed = true;
    this.#events = [];
    this.#taken = 0;
    this.#wakeSource?.();
  }

  /** Call whenever `held` or `waiting` fell. */
  changed(): void {
    this.#wakeSource?.();
    if (this.held > 0) return;
    this.#wakeConsumer?.();
    this.#wakeDrained?.();
  }

  /** Whether fewer than `lookahead` requests wait and the consumer keeps up; also when the job has ended. */
  hasRoom(lookahead: number): boolean {
    return this.closed || this.#error !== null || (this.waiting < lookahead && !this.paused);
  }

  async roomForMore(lookahead: number): Promise<void> {
    while (!this.hasRoom(lookahead)) {
      await new Promise<void>((wake) => {
        this.#wakeSource = wake;
      });
      this.#wakeSource = null;
    }
  }

  /** Resolves when no sequence of it is left anywhere. */
  async drained(): Promise<void> {
    while (this.held > 0) {
      await new Promise<void>((wake) => {
        this.#wakeDrained = wake;
      });
    }
  }

  #take(): void {
    const wasPaused = this.paused;
    this.#taken++;
    if (this.#taken >= EVENT_LIMIT || this.#taken === this.#events.length) {
      this.#events = this.#events.slice(this.#taken);
      this.#taken = 0;
    }
    if (wasPaused && !this.paused) {
      this.#wakeSource?.();
      this.#onRoom();
    }
  }
}
