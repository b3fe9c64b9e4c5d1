/** TCP, plain or under TLS, as a transport. Writes are vectored and never delayed (TCP_NODELAY); small neighbours are joined. */
import { connect as connectNet, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { NodeLostError, toError } from '@glinthawk/core';
import { ChunkQueue, ConnectionClosedError, joinSmall, type Transport, totalBytes } from '../transport.ts';
import type { ConnectOptions } from '../websocket-transport.ts';

/** Up to this much, one copy is cheaper than one more buffer in the vector. */
const JOIN_BYTES = 16 * 1024;
/** How long an orderly close waits for the peer to close too. */
const LINGER_MS = 1_000;

export interface TcpAddress {
  readonly host: string;
  readonly port: number;
}

export interface TlsConnectOptions {
  /** Certificates to trust instead of the system's, in PEM. */
  readonly ca?: string | Buffer | readonly (string | Buffer)[];
  /** The name in the certificate, where it isn't the host. */
  readonly servername?: string;
}

export interface TcpConnectOptions extends ConnectOptions {
  /** Connect by TLS; the certificate is checked. */
  readonly tls?: TlsConnectOptions;
}

/** @throws NodeLostError when the node can't be reached or its certificate isn't trusted */
export function connectTcp(address: TcpAddress, options: TcpConnectOptions = {}): Promise<Transport> {
  const { host, port } = address;
  const name = `${options.tls ? 'tls' : 'tcp'}://${host.includes(':') ? `[${host}]` : host}:${port}`;
  const { promise, resolve, reject } = Promise.withResolvers<Transport>();
  const socket = options.tls
    ? connectTls({ host, port, ...(options.tls as object), ...(options.tls.servername ? {} : serverName(host)) })
    : connectNet({ host, port });
  const timeoutMs = options.timeoutMs ?? 10_000;
  const giveUp = (why: string, cause?: unknown) => {
    settle();
    socket.on('error', () => {});
    socket.destroy();
    reject(
      new NodeLostError(name, `can't reach ${name}: ${why}`, {
        cause,
        hint: `is the node listening at ${host}:${port}?`,
      }),
    );
  };
  const timer = setTimeout(() => giveUp(`no answer within ${timeoutMs} ms`), timeoutMs);
  const onAbort = () => giveUp('aborted', options.signal?.reason);
  const onError = (error: Error) => giveUp(error.message || (error as NodeJS.ErrnoException).code || 'failed', error);
  const connected = options.tls ? 'secureConnect' : 'connect';
  const onConnect = () => {
    settle();
    resolve(new TcpTransport(socket, name));
  };
  const settle = () => {
    clearTimeout(timer);
    options.signal?.removeEventListener('abort', onAbort);
    socket.off('error', onError);
    socket.off(connected, onConnect);
  };
  socket.on('error', onError);
  socket.on(connected, onConnect);
  if (options.signal?.aborted) onAbort();
  else options.signal?.addEventListener('abort', onAbort);
  return promise;
}

/** Server name indication must not be an address. */
function serverName(host: string): { servername?: string } {
  return /^[\d.]+$|:/.test(host) ? {} : { servername: host };
}

/** Takes over a connected socket, from connectTcp or a server. */
export class TcpTransport implements Transport {
  readonly name: string;
  readonly closed: Promise<Error | undefined>;
  #bytesSent = 0;
  bytesReceived = 0;
  readonly receiveCopies = 0;
  readonly #socket: Socket;
  readonly #queue: ChunkQueue;
  #reason: Error | undefined;

  constructor(socket: Socket, name: string) {
    this.name = name;
    this.#socket = socket;
    this.#queue = new ChunkQueue({ pause: () => socket.pause(), resume: () => socket.resume() });
    const { promise, resolve } = Promise.withResolvers<Error | undefined>();
    this.closed = promise;
    socket.setNoDelay(true);
    socket.setKeepAlive(true, 30_000);
    socket.on('data', (chunk) => {
      this.bytesReceived += chunk.byteLength;
      this.#queue.push(chunk);
    });
    socket.on('end', () => this.#queue.end());
    socket.on('error', (error) => {
      this.#reason ??= error;
    });
    socket.on('close', () => {
      this.#queue.end();
      resolve(this.#reason);
    });
  }

  get bytesSent(): number {
    return this.#bytesSent;
  }

  send(parts: readonly Uint8Array[]): Promise<void> {
    if (!this.#socket.writable) return Promise.reject(new ConnectionClosedError(this.name, this.#reason));
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const joined = joinSmall(parts, JOIN_BYTES);
    this.#bytesSent += totalBytes(joined);
    this.#socket.cork();
    joined.forEach((part, i) => {
      if (i < joined.length - 1) this.#socket.write(part);
      else this.#socket.write(part, (error) => (error ? reject(toError(error)) : resolve()));
    });
    this.#socket.uncork();
    return promise;
  }

  [Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    return this.#queue.iterator();
  }

  /**
   * Without a reason: a FIN after what was sent, and what still arrives is thrown away until the peer closes too, because
   * closing over unread bytes resets the connection and can take our last frame with it.
   */
  async close(reason?: Error): Promise<void> {
    if (!this.#socket.destroyed) {
      this.#reason ??= reason;
      this.#queue.abort();
      if (reason !== undefined) {
        this.#socket.destroy();
      } else {
        this.#socket.end();
        this.#socket.resume();
        const timer = setTimeout(() => this.#socket.destroy(), LINGER_MS);
        this.closed.then(() => clearTimeout(timer));
      }
    }
    await this.closed;
  }
}
