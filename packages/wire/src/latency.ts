/** A transport whose bytes arrive later than they do: a distant node on one machine, for tests and benchmarks. */
import { ChunkQueue, type Transport } from './transport.ts';

/** @param delayMs added to everything received; with a local peer that is the round trip */
export function withLatency(transport: Transport, delayMs: number): Transport {
  return delayMs > 0 ? new DelayedTransport(transport, delayMs) : transport;
}

class DelayedTransport implements Transport {
  readonly #inner: Transport;
  readonly #delayMs: number;

  constructor(inner: Transport, delayMs: number) {
    this.#inner = inner;
    this.#delayMs = delayMs;
  }

  get name(): string {
    return this.#inner.name;
  }
  get bytesSent(): number {
    return this.#inner.bytesSent;
  }
  get bytesReceived(): number {
    return this.#inner.bytesReceived;
  }
  get receiveCopies(): number {
    return this.#inner.receiveCopies;
  }
  get closed(): Promise<Error | undefined> {
    return this.#inner.closed;
  }
  send(parts: readonly Uint8Array[]): Promise<void> {
    return this.#inner.send(parts);
  }
  close(reason?: Error): Promise<void> {
    return this.#inner.close(reason);
  }

  [Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    const queue = new ChunkQueue();
    void this.#pump(queue);
    return queue.iterator();
  }

  // Timers of equal delay fire in the order in which they were set, so the stream's order holds.
  async #pump(queue: ChunkQueue): Promise<void> {
    for await (const chunk of this.#inner) setTimeout(() => queue.push(chunk), this.#delayMs);
    setTimeout(() => queue.end(), this.#delayMs);
  }
}
