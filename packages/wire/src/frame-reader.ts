/**
 * Turns received chunks, cut anywhere, into frames. A payload is copied once, from the chunks straight to where `accept` says; where
 * that says nothing, one that lies whole in a chunk is viewed there, and any other put together in a buffer. Headers are judged
 * before a byte is written or allocated for their payload. Chunks must not be changed after they were pushed.
 */
import { ProtocolError } from '@glinthawk/core';
import { decodeHeader, type Frame, type FrameHeader } from './frame.ts';
import { paddingAfter } from './frame-type.ts';
import { HEADER_BYTES } from './limits.ts';
import { totalBytes } from './transport.ts';

/**
 * Where a payload is written: pieces that follow one another, payloadBytes long in all. Asked anew for each chunk, since views of a
 * WebAssembly memory end when that grows.
 */
export type PayloadTarget = () => readonly Uint8Array[];

/**
 * What shall become of a header's frame: its payload is written to a target, thrown away as it comes, or (undefined) given out
 * with the frame. Or nothing is read any more until a promise resolves; then it is asked again.
 */
export type Acceptance = PayloadTarget | 'drop' | Promise<void> | undefined;

export interface FrameReaderOptions {
  /** Called with every header before its payload is received. May throw ProtocolError to refuse it. */
  readonly accept?: (header: FrameHeader) => Acceptance;
  /** Where payloads go that are given out and lie in several chunks; `payloadBytes` long, 4-byte aligned. */
  readonly allocate?: (bytes: number) => Uint8Array;
}

const nothing = new Uint8Array(0);

export class FrameReader {
  accept: (header: FrameHeader) => Acceptance;
  allocate: (bytes: number) => Uint8Array;
  readonly #chunks: Uint8Array[] = [];
  /** Read so far of the first chunk. */
  #offset = 0;
  #available = 0;
  #padding = 0;
  #header: FrameHeader | undefined;
  /** Of #header; null until it was accepted. */
  #acceptance: PayloadTarget | 'drop' | undefined | null = null;
  #held: Promise<void> | undefined;
  /** Where a payload is put together that is given out. */
  #assembled: Uint8Array | undefined;
  #filled = 0;
  #bytesPlaced = 0;
  #failure: unknown;
  readonly #scratch = new Uint8Array(HEADER_BYTES);

  constructor(options: FrameReaderOptions = {}) {
    this.accept = options.accept ?? (() => undefined);
    this.allocate = options.allocate ?? ((bytes) => new Uint8Array(bytes));
  }

  /** Bytes that were copied to targets: the one copy that a payload takes. */
  get bytesPlaced(): number {
    return this.#bytesPlaced;
  }

  /** Bytes received and not yet given out as frames, nor written to a target. */
  get bufferedBytes(): number {
    return this.#available + (this.#assembled === undefined ? 0 : this.#filled);
  }

  /** Set while `accept` has a frame wait: until it resolves there are no more frames, whatever is pushed. */
  get held(): Promise<void> | undefined {
    return this.#held;
  }

  /** Whether the stream may end here: nothing of a frame has been received. */
  get atBoundary(): boolean {
    return this.#header === undefined && this.#available === 0 && this.#padding === 0;
  }

  push(chunk: Uint8Array): void {
    if (chunk.byteLength === 0) return;
    this.#chunks.push(chunk);
    this.#available += chunk.byteLength;
  }

  /**
   * The next whole frame, or undefined until more chunks come.
   * @throws ProtocolError; the stream is then useless, and every later call throws the same
   */
  next(): Frame | undefined {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      return this.#next();
    } catch (error) {
      this.#failure = error;
      this.abandon();
      throw error;
    }
  }

  #next(): Frame | undefined {
    if (!this.#skipPadding()) return undefined;
    if (this.#header === undefined) {
      if (this.#available < HEADER_BYTES) return undefined;
      this.#header = this.#readHeader();
    }
    const header = this.#header;
    if (this.#acceptance === null && !this.#accepted(header)) return undefined;
    const payload = this.#readPayload(header.payloadBytes);
    if (payload === undefined) return undefined;
    this.#forgetFrame();
    this.#padding = paddingAfter(header.payloadBytes);
    return { header, payload };
  }

  /** Drops what was received, and lets go of where it was being written. To be used no more. */
  abandon(): void {
    this.#chunks.length = 0;
    this.#offset = 0;
    this.#available = 0;
    this.#padding = 0;
    this.#forgetFrame();
  }

  #forgetFrame(): void {
    this.#header = undefined;
    this.#acceptance = null;
    this.#assembled = undefined;
    this.#filled = 0;
  }

  #accepted(header: FrameHeader): boolean {
    if (this.#held !== undefined) return false;
    const acceptance = this.accept(header);
    if (acceptance instanceof Promise) {
      this.#held = acceptance.finally(() => {
        this.#held = undefined;
      });
      return false;
    }
    if (typeof acceptance === 'function') {
      const bytes = totalBytes(acceptance());
      if (bytes !== header.payloadBytes) throw new RangeError(`a target of ${bytes} bytes for ${header.payloadBytes}`);
    }
    this.#acceptance = acceptance;
    return true;
  }

  #skipPadding(): boolean {
    while (this.#padding > 0) {
      const chunk = this.#chunks[0];
      if (chunk === undefined) return false;
      if (chunk[this.#offset] !== 0) throw new ProtocolError('BAD_PADDING', 'padding after a payload is not zero');
      this.#padding--;
      this.#consume(1);
    }
    return true;
  }

  #readHeader(): FrameHeader {
    const first = this.#chunks[0] as Uint8Array;
    if (first.byteLength - this.#offset >= HEADER_BYTES) {
      const header = decodeHeader(first, this.#offset);
      this.#consume(HEADER_BYTES);
      return header;
    }
    this.#copyInto(this.#scratch, 0, HEADER_BYTES);
    return decodeHeader(this.#scratch);
  }

  #readPayload(bytes: number): Uint8Array | undefined {
    if (bytes === 0) return nothing;
    const to = this.#acceptance;
    if (typeof to === 'function' || to === 'drop') {
      const take = Math.min(bytes - this.#filled, this.#available);
      if (take > 0) {
        if (to === 'drop') this.#skip(take);
        else this.#scatter(to(), this.#filled, take);
      }
      this.#filled += take;
      return this.#filled === bytes ? nothing : undefined;
    }
    if (this.#assembled === undefined) {
      const chunk = this.#chunks[0];
      if (chunk === undefined) return undefined;
      // Only views that a Float32Array can be laid over; the rest is copied.
      if (chunk.byteLength - this.#offset >= bytes && (chunk.byteOffset + this.#offset) % 4 === 0) {
        const view = chunk.subarray(this.#offset, this.#offset + bytes);
        this.#consume(bytes);
        return view;
      }
      this.#assembled = this.allocate(bytes);
    }
    const take = Math.min(bytes - this.#filled, this.#available);
    this.#copyInto(this.#assembled, this.#filled, take);
    this.#filled += take;
    return this.#filled === bytes ? this.#assembled : undefined;
  }

  #skip(bytes: number): void {
    for (let left = bytes; left > 0; ) {
      const take = Math.min(left, (this.#chunks[0] as Uint8Array).byteLength - this.#offset);
      this.#consume(take);
      left -= take;
    }
  }

  /** Writes `bytes` received ones to `pieces`, from their byte `at` on. */
  #scatter(pieces: readonly Uint8Array[], at: number, bytes: number): void {
    let start = 0; // of the piece
    for (const piece of pieces) {
      const from = Math.max(at, start);
      const to = Math.min(at + bytes, start + piece.byteLength);
      if (from < to) {
        this.#copyInto(piece, from - start, to - from);
        this.#bytesPlaced += to - from;
      }
      start += piece.byteLength;
    }
  }

  #copyInto(target: Uint8Array, at: number, bytes: number): void {
    let left = bytes;
    let to = at;
    while (left > 0) {
      const chunk = this.#chunks[0] as Uint8Array;
      const take = Math.min(left, chunk.byteLength - this.#offset);
      target.set(chunk.subarray(this.#offset, this.#offset + take), to);
      this.#consume(take);
      to += take;
      left -= take;
    }
  }

  /** Never more than the first chunk holds. */
  #consume(bytes: number): void {
    this.#offset += bytes;
    this.#available -= bytes;
    if (this.#offset === (this.#chunks[0] as Uint8Array).byteLength) {
      this.#chunks.shift();
      this.#offset = 0;
    }
  }
}
