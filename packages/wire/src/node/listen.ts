/**
 * One port for raw TCP and for WebSocket: the first byte of a connection tells a frame's magic from an HTTP request. With a
 * certificate both are under TLS. Other HTTP requests are answered by whoever listens, or told what this is. Connections that say
 * nothing, or something else, are closed.
 */
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { InputError, type Logger, silentLogger } from '@glinthawk/core';
import { WebSocketServer } from 'ws';
import { foreignWords } from '../foreign-words.ts';
import { MAGIC } from '../frame.ts';
import { MAX_WEBSOCKET_MESSAGE_BYTES } from '../limits.ts';
import { checkListenAllowed } from '../listen-policy.ts';
import { ToldOnce } from '../told-once.ts';
import type { Transport } from '../transport.ts';
import { TcpTransport } from './tcp-transport.ts';
import { WsServerTransport } from './ws-transport.ts';

export interface ListenOptions {
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
  /** Only to refuse listening beyond this machine without one; the handshake checks it. */
  readonly token?: string | undefined;
  /** PEM. */
  readonly tls?: { readonly cert: string | Buffer; readonly key: string | Buffer };
  /**
   * Web pages that may connect, as origins (`https://example.org`), or `*`; by default none. What sends no Origin (anything but
   * a browser) always may.
   */
  readonly origins?: readonly string[];
  readonly onTransport: (transport: Transport) => void;
  /** Answers plain HTTP requests, a page's for example. Absent: 426, as a node has nothing else to say. */
  readonly onRequest?: (request: IncomingMessage, response: ServerResponse) => void;
  readonly logger?: Logger;
  /**
   * How long a connection may take for TLS, and again to show its kind and ask for a WebSocket, or for each request of plain HTTP.
   * Default 10,000.
   */
  readonly peekTimeoutMs?: number;
}

export interface Listener {
  readonly host: string;
  readonly port: number;
  /** `tcp://host:port`, or `tls://`. */
  readonly url: string;
  /** `ws://host:port`, or `wss://`. */
  readonly webSocketUrl: string;
  /** All that were accepted and are not closed, in a TLS handshake too. */
  readonly openSockets: number;
  /** Listens no longer and closes every connection. */
  close(): Promise<void>;
}

/** Connections that are no transport yet; beyond them the oldest is closed. */
const MAX_UNDECIDED = 256;
/** Connections with an HTTP request that is being answered; beyond them the oldest is closed. */
const MAX_ANSWERING = 64;
/** An answer of which the other end takes nothing for so long is given up. */
const ANSWER_STALL_MS = 30_000;
/** Warnings that strangers can cause, one for each origin or address; any page and machine can come as often as it likes. */
const MAX_WARNINGS = 64;
/** Of an Origin, which may be as long as HTTP headers are. */
const MAX_ORIGIN_CHARS = 100;

/** @throws InputError when the address can't be had, or is beyond this machine and there is no token */
export async function listen(options: ListenOptions): Promise<Listener> {
  checkListenAllowed(options);
  const logger = options.logger ?? silentLogger;
  const peekTimeoutMs = options.peekTimeoutMs ?? 10_000;
  const sockets = new Set<Socket>(); // as they were accepted, below TLS
  const undecided = new UndecidedSockets(peekTimeoutMs);
  const http = createHttpServer((request, response) => {
    if (options.onRequest !== undefined) {
      undecided.answering(request.socket, response);
      options.onRequest(request, response);
      return;
    }
    response.writeHead(426, { 'Content-Type': 'text/plain', Upgrade: 'websocket', Connection: 'close' });
    response.end('A Glinthawk attention node: connect by WebSocket or TCP.\n');
  });
  http.timeout = ANSWER_STALL_MS;
  const webSockets = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false, // tensors don't compress
    maxPayload: MAX_WEBSOCKET_MESSAGE_BYTES,
    clientTracking: false,
    autoPong: false, // WsServerTransport does it, within bounds
  });
  const scheme = options.tls ? 'tls' : 'tcp';
  const told = new ToldOnce(MAX_WARNINGS);
  /** What else is wrong in the same way from there is for debugging. */
  const warnOnce = (from: string | undefined, message: string, fields: Readonly<Record<string, unknown>>) => {
    logger[told.isNew(`${from} ${message}`) ? 'warn' : 'debug'](message, fields);
  };
  http.on('upgrade', (request, socket, head) => {
    const origin = request.headers.origin;
    if (!originAllowed(origin, options.origins)) {
      const shown = foreignWords(origin ?? '', MAX_ORIGIN_CHARS);
      warnOnce(shown, 'a page was refused by its origin', { origin: shown });
      socket.end('HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n');
      return;
    }
    webSockets.handleUpgrade(request, socket, head, (webSocket) => {
      const remote = request.socket;
      undecided.delete(remote);
      const name = `${options.tls ? 'wss' : 'ws'}://${remote.remoteAddress}:${remote.remotePort}`;
      options.onTransport(new WsServerTransport(webSocket, name));
    });
  });

  const onConnection = (socket: Socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', (error) => logger.debug('connection failed', { error: error.message }));
    socket.setNoDelay(true);
    undecided.add(socket);
  };
  const onSocket = (socket: Socket) => {
    if (options.tls) {
      // Another object than the one that was accepted; its handshake is done.
      socket.on('error', (error) => logger.debug('connection failed', { error: error.message }));
      undecided.delete(socket);
      undecided.add(socket);
    }
    // `data` would lose bytes between two listeners; `readable` leaves them until somebody reads.
    socket.once('readable', () => {
      const first: Buffer | null = socket.read();
      if (first === null) return; // it ended
      const kind = first[0] === (MAGIC & 0xff) ? 'frames' : 'http';
      if (kind === 'http' && !looksLikeHttp(first)) {
        warnOnce(socket.remoteAddress, 'a connection spoke neither frames nor HTTP', { from: socket.remoteAddress });
        socket.destroy();
        return;
      }
      socket.unshift(first);
      if (kind === 'http') http.emit('connection', socket);
      else {
        undecided.delete(socket);
        options.onTransport(new TcpTransport(socket, `${scheme}://${socket.remoteAddress}:${socket.remotePort}`));
      }
    });
  };
  const server: Server = options.tls
    ? createTlsServer({ cert: options.tls.cert, key: options.tls.key })
    : createServer();
  server.on('connection', onConnection);
  server.on(options.tls ? 'secureConnection' : 'connection', onSocket);
  server.on('tlsClientError', (error: Error, { remoteAddress }) => {
    warnOnce(remoteAddress, 'TLS handshake failed', { from: remoteAddress, error: error.message });
  });

  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) => {
      const where = `${options.host}:${options.port}`;
      reject(new InputError('CANNOT_LISTEN', `can't listen at ${where}: ${cause.message}`, { cause }));
    });
    server.listen({ host: options.host, port: options.port }, resolve);
  });
  const { address, port } = server.address() as AddressInfo;
  const shown = `${address.includes(':') ? `[${address}]` : address}:${port}`;
  return {
    host: address,
    port,
    url: `${scheme}://${shown}`,
    webSocketUrl: `${options.tls ? 'wss' : 'ws'}://${shown}`,
    get openSockets() {
      return sockets.size;
    },
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      const ends = [...sockets].map((socket) => {
        const ended = new Promise((resolve) => socket.once('close', resolve));
        socket.destroy();
        return ended;
      });
      webSockets.close();
      http.close();
      await Promise.all([closed, ...ends]);
    },
  };
}

/**
 * Connections that may yet turn out to be anything: each is closed if it doesn't become a transport in time, however busy it
 * looks, and the oldest of too many at once. While an HTTP request is answered its connection is let be, among a few others; then it
 * has the same time for its next one. They are known by the peer's address, which a socket shares with the TLS over it.
 */
class UndecidedSockets {
  readonly #timeoutMs: number;
  readonly #deadlines = new Map<string, { readonly socket: Socket; readonly end: () => void }>(); // oldest first
  readonly #answering = new Map<string, { readonly socket: Socket; responses: number }>(); // oldest first

  constructor(timeoutMs: number) {
    this.#timeoutMs = timeoutMs;
  }

  add(socket: Socket): void {
    const peer = peerOf(socket);
    for (const [oldest, { socket: stale }] of this.#deadlines) {
      if (this.#deadlines.size < MAX_UNDECIDED) break;
      this.#forget(oldest);
      stale.destroy();
    }
    const timer = setTimeout(() => socket.destroy(), this.#timeoutMs);
    const onClose = () => {
      clearTimeout(timer);
      if (this.#deadlines.get(peer) === deadline) this.#deadlines.delete(peer);
    };
    const end = () => {
      clearTimeout(timer);
      socket.off('close', onClose);
    };
    const deadline = { socket, end };
    this.#deadlines.set(peer, deadline);
    socket.once('close', onClose);
  }

  /** It became a transport, or goes on as another object. */
  delete(socket: Socket): void {
    this.#forget(peerOf(socket));
  }

  /** A whole request came, and is being answered. */
  answering(socket: Socket, response: ServerResponse): void {
    const peer = peerOf(socket);
    this.#forget(peer);
    const answers = this.#answering.get(peer) ?? { socket, responses: 0 };
    for (const [oldest, { socket: stale }] of this.#answering) {
      if (this.#answering.size < MAX_ANSWERING || oldest === peer) break;
      this.#answering.delete(oldest);
      stale.destroy();
    }
    answers.responses++;
    this.#answering.set(peer, answers);
    response.once('close', () => {
      if (--answers.responses > 0) return;
      if (this.#answering.get(peer) === answers) this.#answering.delete(peer);
      if (!socket.destroyed) this.add(socket);
    });
  }

  #forget(peer: string): void {
    this.#deadlines.get(peer)?.end();
    this.#deadlines.delete(peer);
  }
}

function peerOf(socket: Socket): string {
  return `${socket.remoteAddress} ${socket.remotePort}`;
}

/** An HTTP method's first letters. */
function looksLikeHttp(first: Buffer): boolean {
  return /^[A-Z]{1,7}( |$)/.test(first.subarray(0, 8).toString('latin1'));
}

/**
 * Any page that a person of this machine opens can reach a node on it, and browsers let it: only the Origin header tells. It
 * isn't compared with Host, which a page can choose by pointing a name of its own at this machine.
 */
function originAllowed(origin: string | undefined, origins: readonly string[] | undefined): boolean {
  return origin === undefined || (origins?.some((allowed) => allowed === '*' || allowed === origin) ?? false);
}
