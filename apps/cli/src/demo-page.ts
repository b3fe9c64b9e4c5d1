/**
 * The built demo page, served from memory to whoever asks: nothing is opened, read or looked up in the file system for a stranger's
 * request, so there is nothing that he could exhaust or walk out of. With the headers that give a page shared memory.
 */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { dirname, extname, join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';

const CONTENT_TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.json': 'application/json; charset=utf-8',
  '.webmanifest': 'application/manifest+json; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.ico': 'image/x-icon',
  '.woff2': 'font/woff2',
  '.txt': 'text/plain; charset=utf-8',
  '.wasm': 'application/wasm',
};
/** What doesn't shrink, or hardly: weights, and what is compressed as it is. */
const COMPRESSED = new Set(['.png', '.ico', '.woff2', '.safetensors', '.gguf']);

/**
 * Without the first two a page has no SharedArrayBuffer, and its attention runs in one thread. It can't be framed, so that nobody
 * is made to press its buttons (Lend, Delete) on another page.
 */
const PAGE_HEADERS = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Content-Security-Policy': "frame-ancestors 'none'",
  'X-Frame-Options': 'DENY',
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
} as const;

interface PageFile {
  readonly content: Buffer;
  readonly gzipped: Buffer | null;
  readonly type: string;
  readonly etag: string;
  readonly cacheControl: string;
}

/** Of a page folder, by path as in a URL. */
export type Page = ReadonlyMap<string, PageFile>;

/** The page that `npm run build:demo` built, or null. */
export async function openDemoPage(): Promise<Page | null> {
  let index: string;
  try {
    index = fileURLToPath(import.meta.resolve('@glinthawk/demo/page'));
  } catch {
    return null;
  }
  try {
    return await readPage(dirname(index));
  } catch {
    return null; // not built
  }
}

export async function readPage(folder: string): Promise<Page> {
  const page = new Map<string, PageFile>();
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  await Promise.all(
    entries.map(async (entry) => {
      if (!entry.isFile()) return;
      const path = join(entry.parentPath, entry.name);
      const extension = extname(path);
      const content = await readFile(path);
      page.set(`/${relative(folder, path).split(sep).join('/')}`, {
        content,
        gzipped: COMPRESSED.has(extension) ? null : await promisify(gzip)(content),
        type: CONTENT_TYPES[extension] ?? 'application/octet-stream',
        etag: `"${createHash('sha256').update(content).digest('hex').slice(0, 32)}"`,
        // Vite names what it puts into assets/ by its content.
        cacheControl: path.includes(`${sep}assets${sep}`) ? 'public, max-age=31536000, immutable' : 'no-cache',
      });
    }),
  );
  const index = page.get('/index.html');
  if (index === undefined) throw new Error(`${folder} has no index.html`);
  return page.set('/', index);
}

/** @param absent said where there is no page */
export function answerWithPage(
  page: Page | null,
  absent: string,
  request: IncomingMessage,
  response: ServerResponse,
): void {
  response.setHeader('Vary', 'Accept-Encoding');
  for (const [name, value] of Object.entries(PAGE_HEADERS)) response.setHeader(name, value);
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    say(response, 405, 'Only GET and HEAD are answered here.', { Allow: 'GET, HEAD', Connection: 'close' });
    return;
  }
  if (page === null) {
    say(response, 404, absent);
    return;
  }
  const file = page.get((request.url ?? '').replace(/[?#].*$/s, ''));
  if (file === undefined) {
    say(response, 404, 'There is no such file here.');
    return;
  }
  const { content, gzipped, type, etag, cacheControl } = file;
  response.setHeader('ETag', etag).setHeader('Cache-Control', cacheControl);
  if (request.headers['if-none-match'] === etag) {
    response.writeHead(304).end();
    return;
  }
  const zipped = /\bgzip\b/.test(String(request.headers['accept-encoding'])) ? gzipped : null;
  const body = zipped ?? content;
  if (zipped !== null) response.setHeader('Content-Encoding', 'gzip');
  response.writeHead(200, { 'Content-Type': type, 'Content-Length': body.length });
  response.end(request.method === 'HEAD' ? undefined : body);
}

function say(
  response: ServerResponse,
  status: number,
  text: string,
  headers: Readonly<Record<string, string>> = {},
): void {
  response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8', ...headers }).end(`${text}\n`);
}
