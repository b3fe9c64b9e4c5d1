/**
 * A Transport moves bytes both ways, in order, and knows nothing of frames: chunks may be cut anywhere. TCP, WebSocket,
 * MessagePort and memory implement it. A chunk that was given out is never changed or used again by the transport.
 */
import { GlinthawkError } from '@glinthawk/core';

export interface Transport extends AsyncIterable<Uint8Array> {
  /** For people: `tcp://host:port`. */
  readonly name: string;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  /** How often what is received is copied in this process before it is given out, decryption aside. */
  readonly receiveCopies: number;
  /**
   * Sends the parts in order, in as few writes as the medium allows. Resolves when they were handed on and may be changed, and
   * there is room for more; not before the previous send resolved may the next begin.
   * @throws ConnectionClosedError
   */
  send(parts: readonly Uint8Array[]): Promise<void>;
  /** What comes; ends when the connection does, for whatever reason. To be iterated once. */
  [Symbol.asyncIterator](): AsyncIterator<Uint8Array>;
  /** Ends the connection now; with a reason, that is what `closed` resolves with. Resolves when all is released. */
  close(reason?: Error): Promise<void>;
  /** Resolves when the connection is over, with what ended it, or undefined after an orderly end; never rejects. */
  readonly closed: Promise<Error | undefined>;
}

export class ConnectionClosedError extends GlinthawkError {
  constructor(name: string, cause?: Error) {
    const why = cause === undefined ? '' : `: ${cause.message}`;
    super('CONNECTION_CLOSED', `the connection ${name} is closed${why}`, cause === undefined ? {} : { cause });
  }
}

/** Bytes received and not yet read, above which a transport stops reading from its medium. */
export const RECEIVE_HIGH_WATER_BYTES = 4 * 1024 * 1024;

/**
 * Between a medium that pushes and a reader that pulls. `pause` and `resume` are called as the queue passes its high water mark
 * and is drained again.
 */
export class ChunkQueue {
  readonly #chunks: Uint8Array[] = [];
  readonly #pause: () => void;
  readonly #resume: () => void;
  #bytes = 0;
  #paused = false;
  #ended = false;
  #waiting: ((result: IteratorResult<Uint8Array>) => void) | undefined;

  constructor(flow: { readonly pause?: () => void; readonly resume?: () => void } = {}) {
    this.#pause = flow.pause ?? (() => {});
    this.#resume = flow.resume ?? (() => {});
  }

  get bytes(): number {
    return this.#bytes;
  }

  push(chunk: Uint8Array): void {
    if (this.#ended) return;
    if (this.#waiting !== undefined) {
      const wake = this.#waiting;
      this.#waiting = undefined;
      wake({ value: chunk, done: false });
      return;
    }
    this.#chunks.push(chunk);
    this.#bytes += chunk.byteLength;
    if (!this.#paused && this.#bytes > RECEIVE_HIGH_WATER_BYTES) {
      this.#paused = true;
      this.#pause();
    }
  }

  /** What is queued can still be read; nothing more comes. */
  end(): void {
    this.#ended = true;
    this.#waiting?.({ value: undefined, done: true });
    this.#waiting = undefined;
  }

  /** Drops what is queued, and ends. */
  abort(): void {
    this.#chunks.length = 0;
    this.#bytes = 0;
    this.end();
  }

  next(): Promise<IteratorResult<Uint8Array>> {
    const chunk = this.#chunks.shift();
    if (chunk !== undefined) {
      this.#bytes -= chunk.byteLength;
      if (this.#paused && this.#bytes === 0) {
        this.#paused = false;
        this.#resume();
      }
      return Promise.resolve({ value: chunk, done: false });
    }
    if (this.#ended) return Promise.resolve({ value: undefined, done: true });
    return new Promise((resolve) => {
      this.#waiting = resolve;
    });
  }

  iterator(): AsyncIterator<Uint8Array> {
    return { next: () => this.next() };
  }
}

export function totalBytes(parts: readonly Uint8Array[]): number {
  let bytes = 0;
  for (const part of parts) bytes += part.byteLength;
  return bytes;
}

/** All parts in one fresh buffer. */
export function concatenate(parts: readonly Uint8Array[], bytes = totalBytes(parts)): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(bytes);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.byteLength;
  }
  return all;
}

/**
 * Joins neighbours as long as the joined part stays within `limit` bytes, since a short copy costs less than a system call's
 * entry; longer parts are passed as they are.
 */
export function joinSmall(parts: readonly Uint8Array[], limit: number): readonly Uint8Array[] {
  if (parts.length === 1) return parts;
  const joined: Uint8Array[] = [];
  let run: Uint8Array[] = [];
  let runBytes = 0;
  const endRun = () => {
    const [only] = run;
    if (run.length === 1 && only !== undefined) joined.push(only);
    else if (run.length > 1) joined.push(concatenate(run, runBytes));
    run = [];
    runBytes = 0;
  };
  for (const part of parts) {
    if (runBytes + part.byteLength > limit) endRun();
    run.push(part);
    runBytes += part.byteLength;
  }
  endRun();
  return joined;
}
