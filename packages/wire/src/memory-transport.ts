/**
 * Two ends of a connection in one thread, for tests: deterministic, and able to be as unkind as a network. Bytes are copied at
 * send, as a kernel would.
 */
import { ChunkQueue, ConnectionClosedError, concatenate, type Transport } from './transport.ts';

/** What happens to the bytes that one end sends. */
export interface MemoryFaults {
  /** Chunks arrive this much later. */
  readonly latencyMs?: number;
  /** The connection breaks when this many bytes were sent; the ones before still arrive. */
  readonly dropAfterBytes?: number;
  /** From this many bytes on, nothing arrives and nothing is told: a cable pulled out. */
  readonly stallAfterBytes?: number;
  /** These bytes of the stream arrive inverted. */
  readonly corruptAt?: readonly number[];
  /** The size of the next chunk that arrives, at most; called for each. */
  readonly chunkBytes?: () => number;
  /** Bytes that may be on their way and unread before send waits. */
  readonly windowBytes?: number;
}

export interface MemoryPairOptions {
  readonly name?: string;
  /** Of what the first end sends, and the second. */
  readonly faults?: readonly [MemoryFaults, MemoryFaults];
}

export function memoryTransportPair(options: MemoryPairOptions = {}): [MemoryTransport, MemoryTransport] {
  const name = options.name ?? 'memory';
  const first = new MemoryTransport(`${name}:a`, options.faults?.[0] ?? {});
  const second = new MemoryTransport(`${name}:b`, options.faults?.[1] ?? {});
  first.attach(second);
  second.attach(first);
  return [first, second];
}

export class MemoryTransport implements Transport {
  readonly name: string;
  readonly closed: Promise<Error | undefined>;
  bytesSent = 0;
  bytesReceived = 0;
  readonly receiveCopies = 0;
  readonly #faults: MemoryFaults;
  readonly #queue: ChunkQueue;
  readonly #resolveClosed: (reason: Error | undefined) => void;
  #peer: MemoryTransport | undefined;
  #isClosed = false;
  #room: (() => void)[] = [];

  constructor(name: string, faults: MemoryFaults) {
    this.name = name;
    this.#faults = faults;
    this.#queue = new ChunkQueue();
    const { promise, resolve } = Promise.withResolvers<Error | undefined>();
    this.closed = promise;
    this.#resolveClosed = resolve;
  }

  attach(peer: MemoryTransport): void {
    this.#peer = peer;
  }

  async send(parts: readonly Uint8Array[]): Promise<void> {
    if (this.#isClosed) throw new ConnectionClosedError(this.name);
    const start = this.bytesSent;
    let bytes = concatenate(parts);
    this.bytesSent += bytes.byteLength;
    for (const at of this.#faults.corruptAt ?? []) {
      const i = at - start;
      if (i >= 0 && i < bytes.byteLength) bytes[i] = ~(bytes[i] as number);
    }
    const stallAt = this.#faults.stallAfterBytes ?? Infinity;
    const dropAt = this.#faults.dropAfterBytes ?? Infinity;
    const arriving = Math.max(0, Math.min(bytes.byteLength, stallAt - start, dropAt - start));
    bytes = bytes.subarray(0, arriving);
    for (let at = 0; at < bytes.byteLength; ) {
      const chunk = bytes.subarray(at, at + Math.max(1, this.#faults.chunkBytes?.() ?? bytes.byteLength));
      this.#later((peer) => peer.#arrive(chunk));
      at += chunk.byteLength;
    }
    if (this.bytesSent > dropAt) {
      const broken = new Error('connection reset (injected)');
      this.#later((peer) => peer.close(broken));
      await this.close(broken);
      throw new ConnectionClosedError(this.name, broken);
    }
    const window = this.#faults.windowBytes ?? Infinity;
    while (!this.#isClosed && (this.#peer?.unreadBytes ?? 0) > window) {
      await new Promise<void>((resolve) => this.#room.push(resolve));
    }
  }

  get unreadBytes(): number {
    return this.#queue.bytes;
  }

  [Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    return {
      next: () => {
        const result = this.#queue.next();
        this.#peer?.wake();
        return result;
      },
    };
  }

  wake(): void {
    for (const resolve of this.#room.splice(0)) resolve();
  }

  async close(reason?: Error): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.wake();
    this.#queue.abort();
    const stalled = this.bytesSent > (this.#faults.stallAfterBytes ?? Infinity);
    if (!stalled) this.#later((peer) => peer.#peerClosed(reason));
    this.#resolveClosed(reason);
  }

  #peerClosed(reason: Error | undefined): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.wake();
    this.#queue.end();
    this.#resolveClosed(reason);
  }

  #arrive(chunk: Uint8Array): void {
    if (this.#isClosed) return;
    this.bytesReceived += chunk.byteLength;
    this.#queue.push(chunk);
  }

  #later(act: (peer: MemoryTransport) => void): void {
    const peer = this.#peer;
    if (peer === undefined) return;
    const latencyMs = this.#faults.latencyMs ?? 0;
    if (latencyMs === 0) {
      queueMicrotask(() => act(peer));
      return;
    }
    setTimeout(() => act(peer), latencyMs);
  }
}
