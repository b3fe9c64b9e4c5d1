/**
 * The port where a monitoring system asks how this process does: `/metrics` in Prometheus' text format, and `/healthz`, 200 while it
 * serves and 503 while it drains. Whoever reaches the port may read both and do nothing else: no request has a body, each connection
 * answers once, and one that takes its time is closed.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { InputError, toError } from '@glinthawk/core';
import type { ListenAddress } from './arguments.ts';

export interface MetricsServerOptions extends ListenAddress {
  /** The text of `/metrics`, and its Content-Type. */
  readonly metrics: () => Promise<string>;
  readonly contentType: string;
  readonly isServing: () => boolean;
  /** For a whole request to arrive, and again for an answer of which the other end takes nothing. Default 5,000: a scrape's are there at once. */
  readonly patienceMs?: number;
}

export interface MetricsServer {
  /** `http://host:port` */
  readonly url: string;
  /** Listens no longer and closes every connection. */
  close(): Promise<void>;
}

/** Far more than systems that scrape a node; each of them is closed in seconds. */
const MAX_CONNECTIONS = 64;
const MAX_HEADER_BYTES = 8 << 10;

/** @throws InputError when the address can't be had */
export async function serveMetrics(options: MetricsServerOptions): Promise<MetricsServer> {
  const { host, port, patienceMs = 5_000 } = options;
  const server = createServer(
    {
      maxHeaderSize: MAX_HEADER_BYTES,
      headersTimeout: patienceMs,
      requestTimeout: patienceMs,
      connectionsCheckingInterval: patienceMs / 4,
    },
    (request, response) => void answer(options, request, response),
  );
  server.maxConnections = MAX_CONNECTIONS;
  server.timeout = patienceMs;
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) => {
      reject(new InputError('CANNOT_LISTEN', `can't serve metrics at ${host}:${port}: ${cause.message}`, { cause }));
    });
    server.listen(port, host, resolve);
  });
  const { address, family, port: found } = server.address() as AddressInfo;
  return {
    url: `http://${family === 'IPv6' ? `[${address}]` : address}:${found}`,
    close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      return closed;
    },
  };
}

async function answer(
  { metrics, contentType, isServing }: MetricsServerOptions,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const say = (status: number, text: string, headers: Readonly<Record<string, string>> = {}) => {
    response.writeHead(status, {
      'Content-Type': 'text/plain; charset=utf-8',
      'Content-Length': Buffer.byteLength(text),
      'Cache-Control': 'no-store',
      'X-Content-Type-Options': 'nosniff',
      Connection: 'close',
      ...headers,
    });
    response.end(request.method === 'HEAD' ? undefined : text);
  };
  const { method, url = '', headers } = request;
  if (method !== 'GET' && method !== 'HEAD') {
    say(405, 'Only GET and HEAD are answered here.\n', { Allow: 'GET, HEAD' });
    return;
  }
  if ((headers['content-length'] ?? '0') !== '0' || headers['transfer-encoding'] !== undefined) {
    say(400, 'A request has no body here.\n');
    return;
  }
  switch (url.replace(/\?.*$/s, '')) {
    case '/metrics': {
      let text: string;
      try {
        text = await metrics();
      } catch (thrown) {
        say(500, `The figures can't be had: ${toError(thrown).message}\n`); // never the end of the node
        return;
      }
      say(200, text, { 'Content-Type': contentType });
      return;
    }
    case '/healthz':
      if (isServing()) say(200, 'serving\n');
      else say(503, 'draining\n');
      return;
    default:
      say(404, 'Here are /metrics and /healthz.\n');
  }
}
