/** After one visit the page works with its server gone, isolated or not; a new build takes over; nothing else is ever kept. */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright';
import sirv from 'sirv';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { precacheList } from '../../apps/demo/vite/service-worker-plugin.ts';
import { type BuiltPage, buildPage } from './site.ts';
import { findChromium } from './store-rig.ts';

const executablePath = findChromium();
const isolation = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' };

describe.skipIf(executablePath === null && !process.env.CI)('the service worker', () => {
  let browser: Browser;
  let built: BuiltPage;
  let folder: string;
  let server: Server | null = null;
  let context: BrowserContext;

  beforeAll(async () => {
    if (executablePath === null) throw new Error('CI needs a Chromium: set GLINTHAWK_CHROMIUM to its path');
    built = await buildPage();
    browser = await chromium.launch({
      executablePath,
      args: ['--no-sandbox', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'],
    });
  });
  afterAll(async () => {
    await browser?.close();
    built?.remove();
  });
  afterEach(async () => {
    await context?.close();
    await stopServer();
    rmSync(folder, { recursive: true, force: true });
  });

  /** A copy of the build, with a page that may also be elsewhere than at the root. */
  async function serve(headers: Readonly<Record<string, string>>, port = 0): Promise<string> {
    const files = sirv(folder, {
      dev: true,
      setHeaders: (response) => {
        for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
      },
    });
    const listening = createServer((request, response) => {
      if (request.url === '/demo/other.json') {
        response.setHeader('Content-Type', 'application/json');
        response.end('{}');
        return;
      }
      request.url = request.url?.replace(/^\/demo/, '') ?? '/';
      files(request, response, () => {
        response.writeHead(404).end();
      });
    });
    await new Promise<void>((resolve) => listening.listen(port, '127.0.0.1', resolve));
    server = listening;
    return `http://127.0.0.1:${(listening.address() as AddressInfo).port}/demo/`;
  }

  async function stopServer(): Promise<void> {
    const stopping = server;
    server = null;
    if (stopping === null) return;
    await new Promise<void>((resolve) => {
      stopping.close(() => resolve());
      stopping.closeAllConnections();
    });
  }

  function copyOfBuild(): void {
    folder = mkdtempSync(join(tmpdir(), 'glinthawk-sw-'));
    cpSync(built.folder, folder, { recursive: true });
  }

  async function visit(url: string): Promise<Page> {
    const page = await context.newPage();
    await page.goto(url);
    return page;
  }

  /** Registers as the page does, whether or not it already has. */
  const installed = (page: Page) =>
    page.evaluate(async () => {
      await navigator.serviceWorker.register(new URL('sw.js', document.baseURI));
      await navigator.serviceWorker.ready;
    });
  const kept = (page: Page) =>
    page.evaluate(async () => {
      const found: Record<string, string[]> = {};
      for (const name of await caches.keys())
        found[name] = (await (await caches.open(name)).keys()).map(({ url }) => url);
      return found;
    });

  for (const [what, headers] of [
    ['isolated', isolation],
    ['plain', {}],
  ] as const) {
    it(`keeps the ${what} page for when its server is gone`, async () => {
      copyOfBuild();
      context = await browser.newContext();
      const url = await serve(headers);
      const first = await visit(url);
      await installed(first);
      await first.evaluate(async () => void (await fetch('other.json')));
      await first.close();
      await stopServer();

      const page = await visit(`${url}?join=x#y`);
      expect(await page.evaluate(() => globalThis.crossOriginIsolated)).toBe(what === 'isolated');
      await page.waitForFunction(() => (document.getElementById('app') ?? document.body).childElementCount > 0);
      const list = await precacheList(folder);
      const sizes = await page.evaluate(
        async (paths) =>
          Promise.all(
            paths.map(async (path) => (await (await fetch(path === '' ? './' : path)).arrayBuffer()).byteLength),
          ),
        list.map(({ path }) => path),
      );
      expect(sizes).toEqual(
        list.map(({ path }) => readFileSync(join(folder, path === '' ? 'index.html' : path)).byteLength),
      );
      expect(list.some(({ path }) => path.endsWith('.safetensors'))).toBe(true);
      const [urls, ...others] = Object.values(await kept(page));
      expect(others).toEqual([]);
      expect(urls?.toSorted()).toEqual(list.map(({ path }) => new URL(path, url).href).toSorted());
      await expect(page.evaluate(async () => fetch('other.json'))).rejects.toThrow();
    });
  }

  it('lets a new build take over at the next visit and forgets the old one', async () => {
    copyOfBuild();
    context = await browser.newContext();
    const url = await serve(isolation);
    const first = await visit(url);
    await installed(first);
    const before = Object.keys(await kept(first));

    // As a build of something else: another page, and a service worker whose list and name say so.
    const page = join(folder, 'index.html');
    writeFileSync(page, readFileSync(page, 'utf8').replace(/<title>[^<]*/, '<title>Newer'));
    const worker = join(folder, 'sw.js');
    const list = new Map((await precacheList(folder)).map(({ path, sha256 }) => [path, sha256]));
    const script = readFileSync(worker, 'utf8');
    const old = /path: ""[^}]*?sha256: "([0-9a-f]{64})"/.exec(script)?.[1] ?? '';
    const name = before[0]?.split(' ').at(-1) ?? '';
    expect([old.length, name.length]).toEqual([64, 16]);
    writeFileSync(worker, script.replaceAll(old, list.get('') ?? '').replaceAll(name, 'f'.repeat(16)));

    await first.evaluate(async () => {
      const registration = await navigator.serviceWorker.ready;
      await registration.update();
    });
    await first.waitForFunction(async () => (await navigator.serviceWorker.ready).waiting !== null);
    // While a tab shows the old one, it stays whole.
    const beside = await visit(url);
    expect(await beside.title()).not.toBe('Newer');
    await beside.close();
    await first.close();

    await expect
      .poll(
        async () => {
          const next = await visit(url);
          const title = await next.title();
          const names = Object.keys(await kept(next));
          await next.close();
          return [title, names.length];
        },
        { timeout: 10_000 },
      )
      .toEqual(['Newer', 1]);
  });

  it('takes nothing from a server that mixes two builds', async () => {
    copyOfBuild();
    const [script] = readdirSync(join(folder, 'assets')).filter((name) => name.endsWith('.js'));
    const path = join(folder, 'assets', script ?? '');
    writeFileSync(path, `${readFileSync(path, 'utf8')}\n// another build's`);
    context = await browser.newContext();
    const page = await visit(await serve(isolation));
    const state = await page.evaluate(async () => {
      const registration = await navigator.serviceWorker.register(new URL('sw.js', document.baseURI)).catch(() => null);
      const worker = registration?.installing ?? null;
      if (worker === null) return 'none';
      await new Promise<void>((resolve) => {
        worker.addEventListener('statechange', () => resolve());
        if (worker.state !== 'installing') resolve();
      });
      return worker.state;
    });
    expect(state).toMatch(/redundant|none/);
    expect(await kept(page)).toEqual({});
  });
});
