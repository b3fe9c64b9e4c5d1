/**
 * Buffers for payloads that come again and again in the same few sizes. Sizes are rounded up to powers of two; what is idle is
 * bounded, so that a burst of large frames doesn't stay allocated for the life of a session.
 */
const SMALLEST = 4096;

export class BufferPool {
  readonly #idle = new Map<number, ArrayBuffer[]>();
  readonly #maxIdleBytes: number;
  #idleBytes = 0;
  #usedBytes = 0;
  #closed = false;

  constructor(maxIdleBytes = 64 * 1024 * 1024) {
    this.#maxIdleBytes = maxIdleBytes;
  }

  /** In use and idle. */
  get allocatedBytes(): number {
    return this.#idleBytes + this.#usedBytes;
  }

  /** In use. */
  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** A view of exactly `bytes`, at the start of its buffer; its content is whatever was there. */
  take(bytes: number): Uint8Array<ArrayBuffer> {
    if (this.#closed) return new Uint8Array(bytes);
    const size = sizeClass(bytes);
    let buffer = this.#idle.get(size)?.pop();
    if (buffer === undefined) buffer = new ArrayBuffer(size);
    else this.#idleBytes -= size;
    this.#usedBytes += size;
    return new Uint8Array(buffer, 0, bytes);
  }

  /** `view` must have come from take, once. */
  give(view: Uint8Array<ArrayBuffer>): void {
    if (this.#closed) return;
    const size = view.buffer.byteLength;
    this.#usedBytes -= size;
    if (this.#idleBytes + size > this.#maxIdleBytes) return;
    const same = this.#idle.get(size);
    if (same === undefined) this.#idle.set(size, [view.buffer]);
    else same.push(view.buffer);
    this.#idleBytes += size;
  }

  /** Lets go of everything; buffers in use are their holders' from now on, and giving them back does nothing. */
  close(): void {
    this.#closed = true;
    this.#idle.clear();
    this.#idleBytes = 0;
    this.#usedBytes = 0;
  }
}

function sizeClass(bytes: number): number {
  let size = SMALLEST;
  while (size < bytes) size *= 2;
  return size;
}
