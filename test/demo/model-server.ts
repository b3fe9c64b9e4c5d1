/**
 * A server of models for tests: a folder with ranges, strong ETags and CORS, which can be made to misbehave path by path, and which
 * speaks as much of the hub's interface as a download takes. On loopback only.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join, normalize, sep } from 'node:path';

export interface Misbehaviour {
  /** Cuts the connection after so many bytes of a body, this many times (default: always). */
  readonly cutAfter?: number;
  readonly cuts?: number;
  /** Answers with this status instead; with `Retry-After` where given, this many times (default: always). */
  readonly status?: number;
  readonly retryAfterSeconds?: number;
  readonly refusals?: number;
  /** A page with status 200 instead of the file. */
  readonly page?: boolean;
  /** These bytes instead of the file's, with this type. */
  readonly content?: Uint8Array;
  readonly contentType?: string;
  /** Whole and well formed, but only the file's first so many bytes. */
  readonly truncateTo?: number;
  /** Ends every body at this byte of the file, without an error, though more was announced to a probe. */
  readonly endAt?: number;
  readonly ignoreRange?: boolean;
  /** null sends none. */
  readonly etag?: string | null;
  /** Doesn't let other sites read ETag and Content-Range. */
  readonly hideHeaders?: boolean;
  readonly bytesPerSecond?: number;
}

export interface SeenRequest {
  readonly method: string;
  readonly path: string;
  readonly range: string | null;
  readonly ifRange: string | null;
  readonly authorization: string | null;
  readonly status: number;
}

export interface ModelServerOptions {
  /** Served at `/`. */
  readonly root: string;
  /** Repositories of the fake hub: `owner/name` → folder. */
  readonly hub?: Readonly<Record<string, string>>;
  /** Files of the hub need this token; listings don't. */
  readonly hubToken?: string;
}

export interface ModelServer {
  readonly origin: string;
  readonly requests: SeenRequest[];
  url(path: string): string;
  /** From now on, for this path (without origin); null makes it behave again. */
  behave(path: string, misbehaviour: Misbehaviour | null): void;
  close(): Promise<void>;
}

const PAGE =
  '<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please sign in to continue.</body></html>\n';
const LFS_BYTES = 10_000;

export async function startModelServer(options: ModelServerOptions): Promise<ModelServer> {
  const misbehaviours = new Map<string, Misbehaviour>();
  const counts = new Map<Misbehaviour, { cuts: number; refusals: number }>();
  const requests: SeenRequest[] = [];

  const server = createServer((request, response) => {
    const url = new URL(request.url ?? '/', 'http://localhost');
    const path = decodeURIComponent(url.pathname);
    response.on('error', () => {});
    response.on('close', () => {
      if (request.method === 'OPTIONS') return;
      requests.push({
        method: request.method ?? '',
        path,
        range: request.headers.range ?? null,
        ifRange: one(request.headers['if-range']),
        authorization: one(request.headers.authorization),
        status: response.statusCode,
      });
    });
    answer(path, request, response).catch((thrown: unknown) => {
      if (!response.headersSent) response.writeHead(500);
      response.end(String(thrown));
    });
  });

  async function answer(path: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const misbehaviour = misbehaviours.get(path) ?? {};
    response.setHeader('Access-Control-Allow-Origin', '*');
    response.setHeader('Access-Control-Allow-Headers', 'Authorization, Range, If-Range');
    response.setHeader('Cross-Origin-Resource-Policy', 'cross-origin');
    if (!misbehaviour.hideHeaders) {
      response.setHeader('Access-Control-Expose-Headers', 'ETag, Content-Range, Accept-Ranges, Link, Retry-After');
    }
    if (request.method === 'OPTIONS') {
      response.writeHead(204).end();
      return;
    }
    const count = counts.get(misbehaviour) ?? { cuts: 0, refusals: 0 };
    counts.set(misbehaviour, count);
    if (misbehaviour.status !== undefined && count.refusals < (misbehaviour.refusals ?? Number.POSITIVE_INFINITY)) {
      count.refusals++;
      if (misbehaviour.retryAfterSeconds !== undefined) {
        response.setHeader('Retry-After', String(misbehaviour.retryAfterSeconds));
      }
      response.writeHead(misbehaviour.status, { 'Content-Type': 'application/json' }).end('{"error":"no"}');
      return;
    }
    if (misbehaviour.page) {
      response.writeHead(200, { 'Content-Type': 'text/html; charset=utf-8' }).end(PAGE);
      return;
    }
    const listed = /^\/api\/models\/([^/]+\/[^/]+)\/tree\/(.+)$/.exec(path);
    if (listed?.[1] !== undefined) return sendListing(listed[1], misbehaviour, response);
    await sendFile(fileOf(path, request), misbehaviour, count, request, response);
  }

  /** null where there is no such file; a status where it is refused. */
  function fileOf(path: string, request: IncomingMessage): string | number | null {
    const resolved = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(path);
    const folder = resolved?.[1] === undefined ? undefined : options.hub?.[resolved[1]];
    if (resolved?.[3] === undefined || folder === undefined) return inside(options.root, path);
    if (options.hubToken !== undefined && request.headers.authorization !== `Bearer ${options.hubToken}`) return 401;
    return inside(folder, resolved[3]);
  }

  function sendListing(repo: string, misbehaviour: Misbehaviour, response: ServerResponse): void {
    const folder = options.hub?.[repo];
    if (folder === undefined && misbehaviour.content === undefined) {
      response.writeHead(401, { 'Content-Type': 'application/json' }).end('{"error":"Repository not found"}');
      return;
    }
    response.writeHead(200, { 'Content-Type': 'application/json' });
    response.end(misbehaviour.content ?? JSON.stringify(folder === undefined ? [] : listingOf(folder)));
  }

  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const origin = `http://127.0.0.1:${port}`;
  return {
    origin,
    requests,
    url: (path) => origin + path,
    behave: (path, misbehaviour) => {
      if (misbehaviour === null) misbehaviours.delete(path);
      else misbehaviours.set(path, misbehaviour);
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** Enough for a page to run from here, too. */
const TYPES: ReadonlyMap<string, string> = new Map([
  ['.html', 'text/html; charset=utf-8'],
  ['.js', 'text/javascript'],
  ['.json', 'application/json'],
  ['.wasm', 'application/wasm'],
]);

function typeOf(file: string | number | null): string {
  return TYPES.get(extname(String(file))) ?? 'application/octet-stream';
}

function one(header: string | string[] | undefined): string | null {
  return (Array.isArray(header) ? header[0] : header) ?? null;
}

function inside(root: string, path: string): string | null {
  const full = normalize(join(root, path));
  if (full !== root && !full.startsWith(root + sep)) return null;
  return statSync(full, { throwIfNoEntry: false })?.isFile() ? full : null;
}

function listingOf(folder: string): readonly unknown[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => {
      const full = join(entry.parentPath, entry.name);
      const path = full.slice(folder.length + 1);
      const size = statSync(full).size;
      const oid = sha256(readFileSync(full));
      return {
        type: 'file',
        path,
        size,
        oid: oid.slice(0, 40),
        ...(size > LFS_BYTES ? { lfs: { oid, size, pointerSize: 134 } } : {}),
      };
    });
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

async function sendFile(
  file: string | number | null,
  misbehaviour: Misbehaviour,
  count: { cuts: number },
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  if (file === null || typeof file === 'number') {
    if (misbehaviour.content === undefined) {
      response.writeHead(file ?? 404, { 'Content-Type': 'application/json' }).end('{"error":"no such file"}');
      return;
    }
  }
  const whole = misbehaviour.content ?? readFileSync(String(file));
  const content = whole.subarray(0, misbehaviour.truncateTo ?? whole.byteLength);
  const etag = misbehaviour.etag === undefined ? `"${sha256(content).slice(0, 32)}"` : misbehaviour.etag;
  if (etag !== null) response.setHeader('ETag', etag);
  response.setHeader('Content-Type', misbehaviour.contentType ?? typeOf(file));
  const range = misbehaviour.ignoreRange ? null : /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
  const stale = request.headers['if-range'] !== undefined && request.headers['if-range'] !== etag;
  let start = 0;
  let end = content.byteLength;
  if (range !== null && !stale) {
    start = Number(range[1]);
    end = Math.min(end, range[2] === '' ? end : Number(range[2]) + 1);
    if (start >= content.byteLength) {
      response.writeHead(416, { 'Content-Range': `bytes */${content.byteLength}` }).end();
      return;
    }
    response.setHeader('Content-Range', `bytes ${start}-${end - 1}/${content.byteLength}`);
    response.statusCode = 206;
  }
  if (!misbehaviour.ignoreRange) response.setHeader('Accept-Ranges', 'bytes');
  const last = Math.min(end, misbehaviour.endAt ?? end);
  // Without a length the body's end is no error to a client, wherever it comes.
  if (last === end) response.setHeader('Content-Length', end - start);
  if (request.method === 'HEAD') {
    response.end();
    return;
  }
  let body = content.subarray(start, Math.max(start, last));
  const cut =
    misbehaviour.cutAfter !== undefined &&
    body.byteLength > misbehaviour.cutAfter &&
    count.cuts < (misbehaviour.cuts ?? Number.POSITIVE_INFINITY);
  if (cut) {
    count.cuts++;
    body = body.subarray(0, misbehaviour.cutAfter);
  }
  await write(response, body, misbehaviour.bytesPerSecond);
  if (!cut) {
    response.end();
    return;
  }
  // What was written should arrive before the end does: a body that fails takes with it whatever nobody has read yet.
  await new Promise((resolve) => setTimeout(resolve, CUT_MS));
  response.socket?.end();
}

const STEP_MS = 20;
const CUT_MS = 100;

async function write(response: ServerResponse, body: Uint8Array, bytesPerSecond: number | undefined): Promise<void> {
  const piece =
    bytesPerSecond === undefined ? body.byteLength : Math.max(1, Math.round((bytesPerSecond * STEP_MS) / 1000));
  for (let at = 0; at < body.byteLength && !response.destroyed; at += piece) {
    await new Promise<void>((resolve) => {
      const next = () => {
        response.off('close', next);
        resolve();
      };
      response.once('close', next);
      response.write(body.subarray(at, at + piece), next);
    });
    if (bytesPerSecond !== undefined) await new Promise((resolve) => setTimeout(resolve, STEP_MS));
  }
}
