/** Where remote attention is had from: an address and how to reach it. Connecting again after a loss begins a new session. */
import { AbortedError, type AttentionGeometry, InputError, type Logger, NodeLostError } from '@glinthawk/core';
import {
  bytesToHex,
  connectWebSocket,
  type KeepaliveOptions,
  messagePortTransport,
  type PortLike,
  randomNonce,
  type Transport,
  type WireDtype,
  withLatency,
} from '@glinthawk/wire';
import type { AttentionBackend, AttentionSource } from '../backend.ts';
import { RemoteAttention } from './remote-attention.ts';

export interface RemoteSourceOptions {
  readonly token?: string | undefined;
  readonly wireDtype?: WireDtype;
  /** To reach the node. Default 10,000. */
  readonly connectTimeoutMs?: number;
  readonly handshakeTimeoutMs?: number;
  readonly keepalive?: KeepaliveOptions;
  /** Added to every round trip, to see on one machine what a distance costs. */
  readonly latencyMs?: number;
  readonly logger?: Logger;
}

/** Opens the connection of one session. @throws NodeLostError */
export type Dial = (options: { readonly timeoutMs: number; readonly signal?: AbortSignal }) => Promise<Transport>;

export class RemoteSource implements AttentionSource {
  readonly name: string;
  readonly #dial: Dial;
  readonly #options: RemoteSourceOptions;
  readonly #connectedBy: 'engine' | 'node';
  readonly #clientId = bytesToHex(randomNonce()); // randomUUID is missing in pages that aren't served by https

  constructor(name: string, dial: Dial, options: RemoteSourceOptions = {}, connectedBy: 'engine' | 'node' = 'engine') {
    this.name = name;
    this.#connectedBy = connectedBy;
    this.#dial = dial;
    this.#options = options;
  }

  async connect(
    geometry: AttentionGeometry,
    options: Parameters<AttentionSource['connect']>[1],
  ): Promise<AttentionBackend> {
    const { connectTimeoutMs = 10_000, latencyMs = 0, ...rest } = this.#options;
    const { signal } = options;
    try {
      const transport = await this.#dial({ timeoutMs: connectTimeoutMs, ...(signal && { signal }) });
      return await RemoteAttention.connect(withLatency(transport, latencyMs), geometry, {
        ...rest,
        name: this.name,
        kvDtype: options.kvDtype,
        fingerprint: options.fingerprint,
        clientId: this.#clientId,
        connectedBy: this.#connectedBy,
        signal,
      });
    } catch (error) {
      if (signal?.aborted) throw new AbortedError(`connecting to ${this.name} was aborted`);
      throw error;
    }
  }
}

/**
 * A node at the other end of a connection that it opened itself, such as a tab that lends itself to a job. Once: when the connection
 * is lost the node may come again, by another connection. Whoever accepted the transport closes it if it is never asked for.
 */
export function transportSource(
  transport: Transport,
  options: Omit<RemoteSourceOptions, 'connectTimeoutMs'> = {},
): AttentionSource {
  const { name } = transport;
  let isTaken = false;
  const take = async () => {
    if (isTaken) throw new NodeLostError(name, `the connection that ${name} opened is used up`);
    isTaken = true;
    return transport;
  };
  const source = new RemoteSource(name, take, options, 'node');
  return { name, once: true, connect: (geometry, how) => source.connect(geometry, how) };
}

/** `ws://host:port` or `wss://host:port`, in browsers and in Node. @throws InputError */
export function webSocketSource(url: string, options: RemoteSourceOptions = {}): RemoteSource {
  const address = parseAttentionUrl(url);
  if (address.scheme !== 'ws' && address.scheme !== 'wss') {
    throw new InputError(
      'BAD_ATTENTION_URL',
      `${url} is no WebSocket address; here only ws:// and wss:// can be reached`,
    );
  }
  return new RemoteSource(url, (dial) => connectWebSocket(url, dial), options);
}

/** @param openPort makes the port to a node for one session; called again after a loss */
export function messagePortSource(
  openPort: () => PortLike | Promise<PortLike>,
  options: RemoteSourceOptions & { readonly name?: string } = {},
): RemoteSource {
  const { name = 'port', ...rest } = options;
  return new RemoteSource(name, async () => messagePortTransport(await openPort(), name), rest);
}

export const ATTENTION_SCHEMES = ['tcp', 'tls', 'ws', 'wss'] as const;
export const DEFAULT_ATTENTION_PORT = 7411;

export interface AttentionAddress {
  readonly scheme: (typeof ATTENTION_SCHEMES)[number];
  readonly host: string;
  readonly port: number;
}

/** `tcp://10.0.0.7:7411`, `tls://node.example`, `ws://[::1]:7411`, `wss://…`. @throws InputError */
export function parseAttentionUrl(url: string): AttentionAddress {
  const bad = (why: string) =>
    new InputError('BAD_ATTENTION_URL', `${JSON.stringify(url)} is no attention node: ${why}`, {
      hint: 'write it like tcp://host:port, tls://host:port, ws://host:port or wss://host:port',
    });
  if (!URL.canParse(url)) throw bad('it is no URL');
  const parsed = new URL(url);
  const scheme = ATTENTION_SCHEMES.find((known) => `${known}:` === parsed.protocol);
  if (scheme === undefined) throw bad(`the scheme must be one of ${ATTENTION_SCHEMES.join(', ')}`);
  if (parsed.hostname === '') throw bad('the host is missing');
  if (parsed.username !== '' || parsed.password !== '') throw bad('a token does not belong into the address');
  const stream = scheme === 'tcp' || scheme === 'tls';
  if (stream && !['', '/'].includes(parsed.pathname)) throw bad('it has a path');
  // URL drops the port of ws and wss where it is the scheme's own.
  const own = scheme === 'ws' ? 80 : scheme === 'wss' ? 443 : DEFAULT_ATTENTION_PORT;
  const port = parsed.port === '' ? own : Number(parsed.port);
  if (port === 0) throw bad('the port is 0');
  return { scheme, host: parsed.hostname.replace(/^\[|\]$/g, ''), port };
}
