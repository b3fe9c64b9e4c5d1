/**
 * The demo page as it is published: built by Vite into a folder of its own, served on loopback with or without the two headers
 * that give it shared memory. `npm test` builds once and hands the folder over in GLINTHAWK_DEMO_PAGE; a test file that runs
 * alone builds for itself.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sirv from 'sirv';
import { build } from 'vite';
import { repositoryRoot } from '../models.ts';

const ISOLATION = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
} as const;

export interface BuiltPage {
  readonly folder: string;
  remove(): void;
}

export async function buildPage(): Promise<BuiltPage> {
  const handedOver = process.env.GLINTHAWK_DEMO_PAGE;
  if (handedOver !== undefined) return { folder: handedOver, remove: () => {} };
  const folder = mkdtempSync(join(tmpdir(), 'glinthawk-page-'));
  const root = join(repositoryRoot, 'apps', 'demo');
  const remove = () => rmSync(folder, { recursive: true, force: true });
  // By this, not by the mode, Vite decides what a production build is; Vitest's is `test`.
  const { NODE_ENV } = process.env;
  process.env.NODE_ENV = 'production';
  try {
    await build({
      root,
      configFile: join(root, 'vite.config.ts'),
      mode: 'production',
      logLevel: 'warn',
      build: { outDir: folder, emptyOutDir: true },
    });
  } catch (thrown) {
    remove();
    throw thrown;
  } finally {
    process.env.NODE_ENV = NODE_ENV;
  }
  return { folder, remove };
}

export interface Site {
  readonly origin: string;
  close(): Promise<void>;
}

export interface ServeOptions {
  /** With the headers for shared memory. */
  readonly isolated: boolean;
  /** Another content for a worker's script, asked as each worker starts; null leaves it as it is. */
  readonly rewrite?: (script: string) => string | null;
}

export async function serveFolder(folder: string, options: ServeOptions): Promise<Site> {
  const headers: Readonly<Record<string, string>> = options.isolated ? ISOLATION : {};
  const files = sirv(folder, {
    setHeaders(response) {
      for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
    },
  });
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url ?? '/', 'http://localhost');
    const isScript = /^\/assets\/[\w.-]+\.js$/.test(pathname) && request.headers['sec-fetch-dest'] === 'worker';
    const script = isScript ? options.rewrite?.(readFileSync(join(folder, pathname), 'utf8')) : null;
    if (script != null) {
      response
        .writeHead(200, { 'Content-Type': 'text/javascript', 'Cache-Control': 'no-store', ...headers })
        .end(script);
      return;
    }
    files(request, response, () => {
      response.writeHead(404).end('not found');
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    origin: `http://127.0.0.1:${port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
