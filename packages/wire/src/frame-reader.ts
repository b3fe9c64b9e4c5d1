/**
 * Turns received chunks, cut anywhere, into frames. A payload that lies whole in one chunk is viewed there; any other is copied
 * once, straight into the buffer that it will be read from. Headers are judged before a byte is allocated for their payload.
 * Chunks must not be changed after they were pushed.
 */
import { ProtocolError } from '@glinthawk/core';
import { decodeHeader, type Frame, type FrameHeader } from './frame.ts';
import { paddingAfter } from './frame-type.ts';
import { HEADER_BYTES } from './limits.ts';

export interface FrameReaderOptions {
  /**
   * Called with every header before its payload is received. May throw ProtocolError to refuse it, or return where the payload
   * shall be written (exactly payloadBytes long).
   */
  readonly accept?: (header: FrameHeader) => Uint8Array | undefined;
  /** Where payloads go that lie in several chunks; `payloadBytes` long, 4-byte aligned. */
  readonly allocate?: (bytes: number) => Uint8Array;
}

const nothing = new Uint8Array(0);

export class FrameReader {
  accept: (header: FrameHeader) => Uint8Array | undefined;
  allocate: (bytes: number) => Uint8Array;
  readonly #chunks: Uint8Array[] = [];
  /** Read so far of the first chunk. */
  #offset = 0;
  #available = 0;
  #padding = 0;
  #header: FrameHeader | undefined;
  #target: Uint8Array | undefined;
  #filled = 0;
  #failure: unknown;
  readonly #scratch = new Uint8Array(HEADER_BYTES);

  constructor(options: FrameReaderOptions = {}) {
    this.accept = options.accept ?? (() => undefined);
    this.allocate = options.allocate ?? ((bytes) => new Uint8Array(bytes));
  }

  /** Bytes received and not yet given out as frames. */
  get bufferedBytes(): number {
    return this.#available + this.#filled;
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
      this.#chunks.length = 0;
      this.#available = 0;
      this.#filled = 0;
      this.#target = undefined;
      throw error;
    }
  }

  #next(): Frame | undefined {
    if (!this.#skipPadding()) return undefined;
    if (this.#header === undefined) {
      if (this.#available < HEADER_BYTES) return undefined;
      this.#header = this.#readHeader();
      this.#target = this.accept(this.#header);
      if (this.#target !== undefined && this.#target.byteLength !== this.#header.payloadBytes) {
        throw new RangeError(`accept() gave ${this.#target.byteLength} bytes for ${this.#header.payloadBytes}`);
      }
      this.#filled = 0;
    }
    const header = this.#header;
    const payload = this.#readPayload(header.payloadBytes);
    if (payload === undefined) return undefined;
    this.#header = undefined;
    this.#target = undefined;
    this.#filled = 0;
    this.#padding = paddingAfter(header.payloadBytes);
    return { header, payload };
  }

  /** Drops what was received, and lets go of where it was being written. To be used no more. */
  abandon(): void {
    this.#chunks.length = 0;
    this.#offset = 0;
    this.#available = 0;
    this.#filled = 0;
    this.#target = undefined;
    this.#header = undefined;
    this.#padding = 0;
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
    if (this.#target === undefined) {
      const chunk = this.#chunks[0];
      if (chunk === undefined) return undefined;
      // Only views that a Float32Array can be laid over; the rest is copied.
      if (chunk.byteLength - this.#offset >= bytes && (chunk.byteOffset + this.#offset) % 4 === 0) {
        const view = chunk.subarray(this.#offset, this.#offset + bytes);
        this.#consume(bytes);
        return view;
      }
      this.#target = this.allocate(bytes);
    }
    const take = Math.min(bytes - this.#filled, this.#available);
    this.#copyInto(this.#target, this.#filled, take);
    this.#filled += take;
    return this.#filled === bytes ? this.#target : undefined;
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
