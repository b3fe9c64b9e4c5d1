/** The server's side of a WebSocket (`ws`), as a transport. Unlike a browser it can pause its peer and knows when bytes have left. */
import { toError } from '@glinthawk/core';
import type { WebSocket } from 'ws';
import { MAX_WEBSOCKET_MESSAGE_BYTES } from '../limits.ts';
import { ChunkQueue, ConnectionClosedError, joinSmall, type Transport } from '../transport.ts';

const JOIN_BYTES = 64 * 1024;
const PONG_BACKLOG_BYTES = 64 * 1024;
const LINGER_MS = 1_000;

export class WsServerTransport implements Transport {
  readonly name: string;
  readonly closed: Promise<Error | undefined>;
  bytesSent = 0;
  bytesReceived = 0;
  /** `ws` puts messages together that came in pieces. */
  readonly receiveCopies = 1;
  readonly #socket: WebSocket;
  readonly #queue: ChunkQueue;
  #reason: Error | undefined;

  constructor(socket: WebSocket, name: string) {
    this.name = name;
    this.#socket = socket;
    socket.binaryType = 'nodebuffer';
    this.#queue = new ChunkQueue({ pause: () => socket.pause(), resume: () => socket.resume() });
    const { promise, resolve } = Promise.withResolvers<Error | undefined>();
    this.closed = promise;
    socket.on('message', (data, isBinary) => {
      if (!isBinary || !Buffer.isBuffer(data)) {
        void this.close(new Error('a text message arrived; frames are binary'));
        return;
      }
      this.bytesReceived += data.byteLength;
      this.#queue.push(data);
    });
    // The server leaves these to us: pongs to a peer that doesn't read must not pile up.
    socket.on('ping', (data) => {
      if (socket.readyState === socket.OPEN && socket.bufferedAmount < PONG_BACKLOG_BYTES) socket.pong(data);
    });
    socket.on('error', (error) => {
      this.#reason ??= error;
    });
    socket.on('close', (code) => {
      if (code !== 1000 && code !== 1005) this.#reason ??= new Error(`WebSocket closed with code ${code}`);
      this.#queue.end();
      resolve(this.#reason);
    });
  }

  async send(parts: readonly Uint8Array[]): Promise<void> {
    const sends: Promise<void>[] = [];
    for (const part of joinSmall(parts, JOIN_BYTES)) {
      for (let at = 0; at < part.byteLength; at += MAX_WEBSOCKET_MESSAGE_BYTES) {
        if (this.#socket.readyState !== this.#socket.OPEN) throw new ConnectionClosedError(this.name, this.#reason);
        const message = part.subarray(at, at + MAX_WEBSOCKET_MESSAGE_BYTES);
        this.bytesSent += message.byteLength;
        const { promise, resolve, reject } = Promise.withResolvers<void>();
        this.#socket.send(message, (error) => (error ? reject(toError(error)) : resolve()));
        sends.push(promise);
      }
    }
    await Promise.all(sends);
  }

  [Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    return this.#queue.iterator();
  }

  async close(reason?: Error): Promise<void> {
    if (this.#socket.readyState !== this.#socket.CLOSED) {
      this.#reason ??= reason;
      this.#queue.abort();
      this.#socket.resume();
      if (reason !== undefined) {
        this.#socket.terminate();
      } else {
        this.#socket.close(1000);
        const timer = setTimeout(() => this.#socket.terminate(), LINGER_MS);
        this.closed.then(() => clearTimeout(timer));
      }
    }
    await this.closed;
  }
}
