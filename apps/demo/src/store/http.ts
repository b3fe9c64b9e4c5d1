/**
 * Requests to servers that hold models: how a failure reads, and what is asked of a file before it is fetched (size, validator,
 * ranges). Always by range, which also keeps the answer from being compressed, so that sizes are the file's own.
 */
import { AbortedError, toError } from '@glinthawk/core';
import { checkHead, HEAD_BYTES, refusePage } from './file-checks.ts';
import { NetworkError } from './network-error.ts';

/** A token for the hub, which no other origin is sent. */
export interface Access {
  readonly origin: string;
  readonly token: string;
}

export interface RequestOptions {
  readonly signal: AbortSignal;
  readonly access: Access | null;
}

export interface Probe {
  readonly bytes: number;
  readonly etag: string | null;
  readonly acceptsRanges: boolean;
}

/** A request that is answered with a file's bytes. @throws NetworkError, AbortedError */
export async function request(
  url: string,
  headers: Readonly<Record<string, string>>,
  options: RequestOptions,
  method = 'GET',
): Promise<Response> {
  const { access, signal } = options;
  const allowed = access !== null && new URL(url).origin === access.origin;
  let response: Response;
  try {
    response = await fetch(url, {
      method,
      headers: { ...headers, ...(allowed ? { Authorization: `Bearer ${access.token}` } : {}) },
      signal,
      // Gigabytes don't belong in the HTTP cache, nor do cookies into a download.
      cache: 'no-store',
      credentials: 'omit',
      referrerPolicy: 'no-referrer',
    });
  } catch (thrown) {
    if (signal.aborted) throw new AbortedError();
    throw unreachable(url, thrown);
  }
  if (!response.ok) {
    await response.body?.cancel().catch(() => {});
    throw refused(url, response, allowed);
  }
  return response;
}

function unreachable(url: string, thrown: unknown): NetworkError {
  const { protocol, host, hostname } = new URL(url);
  const local = hostname === 'localhost' || hostname === '127.0.0.1' || hostname === '[::1]';
  const mixed =
    protocol === 'http:' && globalThis.isSecureContext && globalThis.location?.protocol === 'https:' && !local;
  return new NetworkError(
    'NETWORK_UNREACHABLE',
    `${host} could not be reached, or doesn't let this page read from it`,
    {
      cause: toError(thrown),
      transient: true,
      hint: mixed
        ? 'This page came by https, so the browser fetches nothing by plain http; use an https address.'
        : `The server must be up, and must allow other sites to read (Access-Control-Allow-Origin). Else download the file and open it from disk.`,
    },
  );
}

function refused(url: string, response: Response, withToken: boolean): NetworkError {
  const { status } = response;
  const { host, pathname } = new URL(url);
  const what = `${host} answered ${status}${response.statusText === '' ? '' : ` (${response.statusText.slice(0, 60)})`} for ${pathname.slice(0, 200)}`;
  switch (status) {
    case 401:
    case 403:
      return new NetworkError('NETWORK_FORBIDDEN', what, {
        status,
        hint: withToken
          ? "The token doesn't open this model: accept its conditions on the hub with the account that the token is of."
          : 'The model may be gated or private: accept its conditions on the hub and give an access token. A signed address may have expired.',
      });
    case 404:
    case 410:
      return new NetworkError('NETWORK_NOT_FOUND', what, {
        status,
        hint: 'Check the address, the revision and the file name.',
      });
    case 429:
      return new NetworkError('NETWORK_TOO_MANY', what, {
        status,
        transient: true,
        retryAfterMs: retryAfter(response),
        hint: 'The server asks for a pause; try again later.',
      });
    default:
      return new NetworkError('NETWORK_STATUS', what, {
        status,
        transient: status >= 500 || status === 408,
        retryAfterMs: retryAfter(response),
      });
  }
}

const MAX_RETRY_AFTER_MS = 60_000;

function retryAfter(response: Response): number | null {
  const header = response.headers.get('retry-after');
  if (header === null) return null;
  const ms = /^\d+$/.test(header.trim()) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(ms) && ms >= 0 ? Math.min(ms, MAX_RETRY_AFTER_MS) : null;
}

/** Only a strong validator may join pieces of a file (RFC 9110, 8.8.1). */
export function strongEtag(response: Response): string | null {
  const etag = response.headers.get('etag');
  return etag !== null && /^"[\x21\x23-\x7e]{1,200}"$/.test(etag) ? etag : null;
}

/** `bytes 0-511/12345`; null where the server hides or garbles it. */
export function contentRange(
  response: Response,
): { readonly start: number; readonly end: number; readonly total: number } | null {
  const match = /^bytes (\d{1,16})-(\d{1,16})\/(\d{1,16})$/.exec(response.headers.get('content-range') ?? '');
  if (match === null) return null;
  const [start = 0, end = 0, total = 0] = match.slice(1).map(Number);
  return start <= end && end < total && Number.isSafeInteger(total) ? { start, end, total } : null;
}

/** null where the server doesn't say, or counts compressed bytes. */
export function contentLength(response: Response): number | null {
  const header = response.headers.get('content-length');
  const encoding = response.headers.get('content-encoding');
  if (header === null || !/^\d{1,16}$/.test(header) || (encoding !== null && encoding !== 'identity')) return null;
  return Number(header);
}

const LOOKS = 3;
const LOOK_AGAIN_MS = 300;

/** Asks again where a connection was cut while something small is read; a status is an answer. @throws what `look` throws */
export async function persistently<T>(signal: AbortSignal, look: () => Promise<T>): Promise<T> {
  for (let left = LOOKS - 1; ; left--) {
    try {
      return await look();
    } catch (thrown) {
      if (!(thrown instanceof NetworkError) || !thrown.transient || thrown.status !== null || left === 0) throw thrown;
      await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS));
      if (signal.aborted) throw new AbortedError();
    }
  }
}

/**
 * What a file is, from its first bytes.
 * @throws NetworkError; ModelFormatError when its first bytes are not of such a file
 */
export async function probeFile(name: string, url: string, options: RequestOptions): Promise<Probe> {
  const response = await request(url, { Range: `bytes=0-${HEAD_BYTES - 1}` }, options);
  const head = await readHead(response, options.signal);
  refusePage(name, response.headers.get('content-type'), head);
  const ranged = response.status === 206;
  const total = ranged ? (contentRange(response)?.total ?? null) : contentLength(response);
  const bytes = total ?? (await sizeByHead(url, options));
  if (bytes === null) {
    throw new NetworkError('NETWORK_SIZE', `${new URL(url).host} doesn't say how large ${name} is`, {
      hint: 'The server must send Content-Length, or Content-Range and allow it to be read (Access-Control-Expose-Headers).',
    });
  }
  checkHead(name, head, bytes);
  return { bytes, etag: strongEtag(response), acceptsRanges: ranged };
}

async function sizeByHead(url: string, options: RequestOptions): Promise<number | null> {
  try {
    return contentLength(await request(url, {}, options, 'HEAD'));
  } catch (thrown) {
    if (thrown instanceof NetworkError) return null;
    throw thrown;
  }
}

/** The body's first HEAD_BYTES, or all of it; the rest is not fetched. */
async function readHead(response: Response, signal: AbortSignal): Promise<Uint8Array> {
  return (await readAtMost(response, HEAD_BYTES, signal)).subarray(0, HEAD_BYTES);
}

/** A body's beginning: at least `length` bytes unless it is shorter. Whatever follows is cancelled. @throws NetworkError */
export async function readAtMost(
  response: Response,
  length: number,
  signal: AbortSignal,
): Promise<Uint8Array<ArrayBuffer>> {
  const reader = response.body?.getReader();
  const pieces: Uint8Array<ArrayBuffer>[] = [];
  let bytes = 0;
  try {
    while (reader !== undefined && bytes < length) {
      const { done, value } = await reader.read();
      if (done) break;
      pieces.push(value);
      bytes += value.byteLength;
    }
  } catch (thrown) {
    if (signal.aborted) throw new AbortedError();
    throw new NetworkError('NETWORK_CUT', `${new URL(response.url).host} cut the connection`, {
      cause: thrown,
      transient: true,
    });
  } finally {
    await reader?.cancel().catch(() => {});
  }
  const all = new Uint8Array(bytes);
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.byteLength;
  }
  return all;
}

/** The whole of a small text. @throws NetworkError also when it is longer than `maxBytes` */
export async function fetchText(url: string, maxBytes: number, options: RequestOptions): Promise<string> {
  const response = await request(url, {}, options);
  const bytes = await readAtMost(response, maxBytes + 1, options.signal);
  if (bytes.byteLength > maxBytes) {
    throw new NetworkError(
      'NETWORK_TOO_LARGE',
      `${new URL(url).pathname.slice(0, 200)} is longer than ${maxBytes} bytes`,
    );
  }
  return new TextDecoder().decode(bytes);
}
