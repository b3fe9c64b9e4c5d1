/**
 * Waits of a few milliseconds that are about as long as asked for. A timer set by a timer's callback waits 4 ms at least after a
 * few such (HTML, timers, step 5), so each wait is begun from a message's task, which has no such past. No spinning: a wait
 * is right to half a millisecond or so, and a caller that cares makes up in its next one for what this one took too long.
 */
export class Delays {
  #channel: MessageChannel | null = null;
  readonly #starting: (() => void)[] = [];

  /** Resolves at `dueMs` of performance.now(), give or take; at once when that is nearer than timers can tell. */
  until(dueMs: number): Promise<void> {
    if (dueMs - performance.now() < 0.5) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#starting.push(() => {
      const leftMs = Math.round(dueMs - performance.now());
      if (leftMs < 1) resolve();
      else setTimeout(resolve, leftMs);
    });
    this.#open().port2.postMessage(null);
    return promise;
  }

  /** Waits that were begun end as they would; a closed one may be used again. */
  close(): void {
    if (this.#channel === null) return;
    this.#channel.port1.close();
    this.#channel = null;
    for (const start of this.#starting.splice(0)) start();
  }

  #open(): MessageChannel {
    if (this.#channel !== null) return this.#channel;
    const channel = new MessageChannel();
    channel.port1.onmessage = () => this.#starting.shift()?.();
    this.#channel = channel;
    return channel;
  }
}
