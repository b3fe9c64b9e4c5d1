/**
 * The browser's (and Node's global) WebSocket as a client transport. A WebSocket has no way to wait for room or to stop the
 * peer, so sending polls bufferedAmount, and a peer that sends more than was asked for is cut off.
 */
import { NodeLostError, toError } from '@glinthawk/core';
import { MAX_PAYLOAD_BYTES, MAX_WEBSOCKET_MESSAGE_BYTES } from './limits.ts';
import { ChunkQueue, ConnectionClosedError, joinSmall, type Transport } from './transport.ts';

const SEND_HIGH_WATER_BYTES = 4 * 1024 * 1024;
const POLL_MS = 2;

export interface ConnectOptions {
  /** Default 10,000. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/** @throws NodeLostError when the node can't be reached */
export function connectWebSocket(url: string, options: ConnectOptions = {}): Promise<Transport> {
  const { promise, resolve, reject } = Promise.withResolvers<Transport>();
  let socket: WebSocket;
  try {
    socket = new WebSocket(url);
  } catch (cause) {
    return Promise.reject(new NodeLostError(url, `${url} is no usable WebSocket address`, { cause }));
  }
  socket.binaryType = 'arraybuffer';
  const giveUp = (why: string, cause?: unknown) => {
    settle();
    socket.close();
    // WebSockets are not told why a connection failed.
    const hint = 'is a node listening there, and does it accept this address, TLS and origin?';
    reject(new NodeLostError(url, `can't reach ${url}: ${why}`, { hint, ...(cause === undefined ? {} : { cause }) }));
  };
  const timeoutMs = options.timeoutMs ?? 10_000;
  const timer = setTimeout(() => giveUp(`no answer within ${timeoutMs} ms`), timeoutMs);
  const onAbort = () => giveUp('aborted', options.signal?.reason);
  const onOpen = () => {
    settle();
    resolve(new WebSocketTransport(socket, url));
  };
  const onClose = (event: CloseEvent) =>
    giveUp(`closed at once (code ${event.code}${event.reason && `, ${event.reason}`})`);
  const settle = () => {
    clearTimeout(timer);
    options.signal?.removeEventListener('abort', onAbort);
    socket.removeEventListener('open', onOpen);
    socket.removeEventListener('close', onClose);
  };
  socket.addEventListener('open', onOpen);
  socket.addEventListener('close', onClose); // an error event is always followed by a close event
  socket.addEventListener('error', () => {});
  if (options.signal?.aborted) onAbort();
  else options.signal?.addEventListener('abort', onAbort);
  return promise;
}

class WebSocketTransport implements Transport {
  readonly name: string;
  readonly closed: Promise<Error | undefined>;
  bytesSent = 0;
  bytesReceived = 0;
  readonly receiveCopies = 0;
  readonly #socket: WebSocket;
  readonly #queue = new ChunkQueue();
  #reason: Error | undefined;

  constructor(socket: WebSocket, name: string) {
    this.name = name;
    this.#socket = socket;
    const { promise, resolve } = Promise.withResolvers<Error | undefined>();
    this.closed = promise;
    socket.addEventListener('message', (event: MessageEvent) => this.#receive(event.data));
    socket.addEventListener('error', (event) => {
      this.#reason ??= toError((event as ErrorEvent).error ?? new Error('WebSocket error'));
    });
    socket.addEventListener('close', (event) => {
      if (event.code !== 1000 && event.code !== 1005) {
        this.#reason ??= new Error(`WebSocket closed with code ${event.code}${event.reason && ` (${event.reason})`}`);
      }
      this.#queue.end();
      resolve(this.#reason);
    });
  }

  #receive(data: unknown): void {
    if (!(data instanceof ArrayBuffer)) {
      void this.close(new Error('a text message arrived; frames are binary'));
      return;
    }
    this.bytesReceived += data.byteLength;
    this.#queue.push(new Uint8Array(data));
    if (this.#queue.bytes > 2 * MAX_PAYLOAD_BYTES) void this.close(new Error('the peer sends more than is read'));
  }

  async send(parts: readonly Uint8Array[]): Promise<void> {
    for (const part of joinSmall(parts, MAX_WEBSOCKET_MESSAGE_BYTES / 4)) {
      for (let at = 0; at < part.byteLength; at += MAX_WEBSOCKET_MESSAGE_BYTES) {
        const message = part.subarray(at, at + MAX_WEBSOCKET_MESSAGE_BYTES);
        if (this.#socket.readyState !== WebSocket.OPEN) throw new ConnectionClosedError(this.name, this.#reason);
        // send() takes no views of shared memory, and copies what it takes.
        this.#socket.send(isUnshared(message) ? message : new Uint8Array(message));
        this.bytesSent += message.byteLength;
      }
    }
    while (this.#socket.bufferedAmount > SEND_HIGH_WATER_BYTES && this.#socket.readyState === WebSocket.OPEN) {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  [Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    return this.#queue.iterator();
  }

  async close(reason?: Error): Promise<void> {
    if (this.#socket.readyState !== WebSocket.CLOSED) {
      this.#reason ??= reason;
      this.#socket.close();
    }
    await this.closed;
  }
}

function isUnshared(view: Uint8Array): view is Uint8Array<ArrayBuffer> {
  return view.buffer instanceof ArrayBuffer;
}
