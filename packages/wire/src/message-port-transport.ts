/**
 * A MessagePort (to a worker, an iframe, another tab) as a transport. Bytes are copied into a buffer that is then transferred, so
 * the receiver views them in place. A port has no flow control and, in older browsers, doesn't tell that the other end is
 * gone: the receiver acknowledges bytes as they are read, and an end says so when it closes.
 */
import { toError } from '@glinthawk/core';
import { ChunkQueue, ConnectionClosedError, concatenate, type Transport, totalBytes } from './transport.ts';

const WINDOW_BYTES = 8 * 1024 * 1024;

/** What is posted: bytes, an acknowledgement of bytes that were read, or the end. */
type PortMessage = ArrayBuffer | number | null;

/** What this file needs of a MessagePort, of a browser's or of Node's. */
export interface PortLike {
  postMessage(message: PortMessage, transfer: ArrayBuffer[]): void;
  addEventListener(
    type: 'message' | 'messageerror' | 'close',
    listener: (event: { readonly data?: unknown }) => void,
  ): void;
  start(): void;
  close(): void;
}

export function messagePortTransport(port: PortLike, name = 'port'): Transport {
  return new MessagePortTransport(port, name);
}

class MessagePortTransport implements Transport {
  readonly name: string;
  readonly closed: Promise<Error | undefined>;
  bytesSent = 0;
  bytesReceived = 0;
  readonly receiveCopies = 0;
  readonly #port: PortLike;
  readonly #queue = new ChunkQueue();
  readonly #resolveClosed: (reason: Error | undefined) => void;
  #isClosed = false;
  #unacknowledged = 0;
  #room: (() => void) | undefined;

  constructor(port: PortLike, name: string) {
    this.name = name;
    this.#port = port;
    const { promise, resolve } = Promise.withResolvers<Error | undefined>();
    this.closed = promise;
    this.#resolveClosed = resolve;
    port.addEventListener('message', (event) => this.#receive(event.data));
    port.addEventListener('messageerror', () => void this.close(new Error('a message could not be read')));
    port.addEventListener('close', () => this.#end(undefined));
    port.start();
  }

  #receive(data: unknown): void {
    if (this.#isClosed) return;
    if (data instanceof ArrayBuffer) {
      this.bytesReceived += data.byteLength;
      this.#queue.push(new Uint8Array(data));
    } else if (typeof data === 'number') {
      this.#unacknowledged -= data;
      this.#wake();
    } else {
      this.#port.close();
      this.#end(undefined);
    }
  }

  async send(parts: readonly Uint8Array[]): Promise<void> {
    if (this.#isClosed) throw new ConnectionClosedError(this.name);
    const bytes = totalBytes(parts);
    const buffer = concatenate(parts, bytes).buffer;
    this.bytesSent += bytes;
    this.#unacknowledged += bytes;
    this.#post(buffer, [buffer]);
    while (this.#unacknowledged > WINDOW_BYTES && !this.#isClosed) {
      await new Promise<void>((resolve) => {
        this.#room = resolve;
      });
    }
  }

  #post(message: PortMessage, transfer: ArrayBuffer[]): void {
    try {
      this.#port.postMessage(message, transfer);
    } catch (error) {
      this.#end(toError(error));
    }
  }

  #wake(): void {
    this.#room?.();
    this.#room = undefined;
  }

  [Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    return {
      next: async () => {
        const result = await this.#queue.next();
        if (!result.done && !this.#isClosed) this.#post(result.value.byteLength, []);
        return result;
      },
    };
  }

  async close(reason?: Error): Promise<void> {
    if (this.#isClosed) return;
    this.#post(null, []);
    this.#port.close();
    this.#end(reason);
  }

  #end(reason: Error | undefined): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#queue.end();
    this.#wake();
    this.#resolveClosed(reason);
  }
}
