/** Flag values: each parser takes the text that was typed, and complains in commander's way. */
import { availableParallelism } from 'node:os';
import { InvalidArgumentError } from 'commander';

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
  T: 2 ** 40,
};

/** `4GiB`, `512M`, `1.5 GB`, `1000000`. */
export function byteSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?) ?([A-Za-z]*)$/.exec(text.trim());
  const unit = Object.entries(UNITS).find(([name]) => name.toLowerCase() === (match?.[2] ?? '?').toLowerCase())?.[1];
  const size = Math.floor(Number(match?.[1]) * (unit ?? Number.NaN));
  if (!(size > 0)) throw new InvalidArgumentError('expected a size like 4GiB, 512MiB or 1000000.');
  return size;
}

export function positiveInteger(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value) || value < 1) {
    throw new InvalidArgumentError('expected a whole number of at least 1.');
  }
  return value;
}

/** Each worker is a thread with memory of its own: far more of them than cores only exhaust the machine. */
export const MOST_WORKERS = Math.max(64, 4 * availableParallelism());

export function workerCount(text: string): number {
  const value = positiveInteger(text);
  if (value > MOST_WORKERS) throw new InvalidArgumentError(`expected at most ${MOST_WORKERS} workers on this machine.`);
  return value;
}

/** Below it no model has room for a prompt. */
const LEAST_NODE_BYTES = 2 ** 20;

export function nodeMemory(text: string): number {
  const size = byteSize(text);
  if (size < LEAST_NODE_BYTES) throw new InvalidArgumentError('expected at least 1MiB.');
  return size;
}

/** As models inspect prints it: SHA-256. */
export function fingerprintHex(text: string): string {
  if (!/^[0-9a-f]{64}$/i.test(text)) {
    throw new InvalidArgumentError('expected 64 hexadecimal digits, as glinthawk models inspect prints them.');
  }
  return text.toLowerCase();
}

/** `https://example.org`, `http://localhost:8080`, `*`; several add up. */
export function pageOrigin(text: string, earlier: readonly string[] | undefined): readonly string[] {
  const isOrigin =
    text === '*' || (URL.canParse(text) && /^https?:$/.test(new URL(text).protocol) && new URL(text).origin === text);
  if (!isOrigin) {
    throw new InvalidArgumentError("expected a page's origin as browsers send it, like https://example.org, or *.");
  }
  return [...(earlier ?? []), text];
}

export function positiveIntegerOrAuto(text: string): number | 'auto' {
  if (text === 'auto') return 'auto';
  try {
    return positiveInteger(text);
  } catch {
    throw new InvalidArgumentError('expected a whole number of at least 1, or auto.');
  }
}

export interface ListenAddress {
  readonly host: string;
  readonly port: number;
}

/** `127.0.0.1:7411`, `[::1]:7411`, `:7411` for every address, `localhost` for the default port. */
export function listenAddress(text: string, defaultPort: number): ListenAddress {
  const match = /^(?:\[([^\]]+)\]|([^:[\]]*))(?::(\d{1,5}))?$/.exec(text);
  const port = match?.[3] === undefined ? defaultPort : Number(match[3]);
  if (match === null || text === '' || port > 65_535) {
    throw new InvalidArgumentError('expected HOST:PORT, like 127.0.0.1:7411 or [::1]:7411.');
  }
  return { host: match[1] || match[2] || '0.0.0.0', port };
}

export type AttentionPlace =
  | { readonly type: 'local'; readonly workers: number | null }
  | { readonly type: 'remote'; readonly url: string }
  /** Nodes come by WebSocket. */
  | { readonly type: 'listen'; readonly secure: boolean; readonly host: string; readonly port: number };

/** As DEFAULT_JOIN_PORT of @glinthawk/attention/node, which is too large to load for help. */
const JOIN_PORT = 7412;

/** `local`, `local:4`, addresses of nodes, and an address where nodes come, by commas. */
export function attentionPlaces(text: string): readonly AttentionPlace[] {
  const places = text.split(',').map((item): AttentionPlace => {
    const place = item.trim();
    const local = /^local(?::(\d+))?$/.exec(place);
    if (local !== null) {
      return { type: 'local', workers: local[1] === undefined ? null : workerCount(local[1]) };
    }
    const listen = /^(wss?)-listen:\/\/([^/]*)\/?$/.exec(place);
    if (listen !== null) {
      return { type: 'listen', secure: listen[1] === 'wss', ...listenAddress(listen[2] ?? '', JOIN_PORT) };
    }
    if (/^(tcp|tls|ws|wss):\/\//.test(place)) return { type: 'remote', url: place };
    throw new InvalidArgumentError(
      `${JSON.stringify(place)} is neither local, local:WORKERS, an address like tcp://host:7411, nor ws-listen://HOST:PORT.`,
    );
  });
  if (places.filter(({ type }) => type === 'local').length > 1) {
    throw new InvalidArgumentError('local stands there twice; give it more workers instead, as local:4.');
  }
  if (places.filter(({ type }) => type === 'listen').length > 1) {
    throw new InvalidArgumentError('nodes can join at one address only; 0.0.0.0 is every address of this machine.');
  }
  return places;
}

/** A command line that a shell reads back as it was. */
export function shellQuote(words: readonly string[]): string {
  return words.map((word) => (/^[\w@%+=:,./…-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(' ');
}
