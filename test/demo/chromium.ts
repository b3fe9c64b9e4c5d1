/**
 * Chromium for tests of the demo page: one browser and one build for a file of tests. Whatever a page does that it shouldn't
 * (an uncaught error, an error on the console, a request to another origin) fails the test in which it happened, unless the test
 * says beforehand that it will. Without a Chromium the tests are skipped by name; in CI that is a failure.
 */
import { existsSync } from 'node:fs';
import { type Browser, type BrowserContext, type BrowserContextOptions, chromium, type Page } from 'playwright';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { type BuiltPage, buildPage, type Site, serveFolder } from './site.ts';

/** Software WebGPU, and no name but loopback's addresses resolves: whatever a page asks of another host fails. */
const ARGUMENTS = [
  '--no-sandbox',
  '--enable-unsafe-webgpu',
  '--use-webgpu-adapter=swiftshader',
  '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
];

export interface VisitOptions
  extends Pick<BrowserContextOptions, 'colorScheme' | 'viewport' | 'reducedMotion' | 'serviceWorkers'> {
  /** With the headers for shared memory; default true. */
  readonly isolated?: boolean;
  /** Another server's page, e.g. of `glinthawk run`. */
  readonly url?: string;
  /** What comes after the site's origin. */
  readonly path?: string;
  /** Another tab of the same browser profile. */
  readonly besides?: Visit;
}

export interface Visit {
  readonly page: Page;
  readonly context: BrowserContext;
  readonly origin: string;
  /** Another server that the page may talk to from now on. */
  allow(url: string): void;
  /** Errors on the console that belong to the test. */
  mayLog(pattern: RegExp): void;
  /** The page's server goes away, and comes back. */
  readonly site: Site | null;
}

export interface Rig {
  readonly browser: Browser;
  /** The folder that Vite built. */
  readonly folder: string;
  visit(options?: VisitOptions): Promise<Visit>;
}

interface RigOfFile {
  rig: Rig | null;
}

// As this module is imported: the browser is there for the whole file of tests.
const executablePath = findChromium();
const shared = executablePath === null ? null : startRig(executablePath);

function findChromium(): string | null {
  const candidates = [process.env.GLINTHAWK_CHROMIUM, chromium.executablePath()];
  return candidates.find((path) => path !== undefined && existsSync(path)) ?? null;
}

/** A `describe` whose tests drive the page. `rig` may be called in tests and hooks, not while tests are collected. */
export function describeInChromium(title: string, tests: (rig: () => Rig) => void): void {
  if (shared !== null) {
    describe(title, () => {
      tests(() => {
        if (shared.rig === null) throw new Error('the browser is there once tests run');
        return shared.rig;
      });
    });
  } else if (process.env.CI) {
    describe(title, () => {
      it('has a Chromium', () => {
        throw new Error('CI needs a Chromium: run the tests by `npm test`, or set GLINTHAWK_CHROMIUM to its path');
      });
    });
  } else {
    describe.skip(`${title} (no Chromium: set GLINTHAWK_CHROMIUM)`, () => {
      it('needs a Chromium', () => {});
    });
  }
}

function startRig(executablePath: string): RigOfFile {
  const shared: RigOfFile = { rig: null };
  let built: BuiltPage | null = null;
  const sites = new Map<boolean, Site>();
  beforeAll(async () => {
    built = await buildPage();
    for (const isolated of [true, false]) sites.set(isolated, await serveFolder(built.folder, { isolated }));
    const browser = await chromium.launch({ executablePath, args: ARGUMENTS });
    shared.rig = { browser, folder: built.folder, visit: (options = {}) => visit(browser, sites, options) };
  });
  afterAll(async () => {
    await shared.rig?.browser.close();
    for (const site of sites.values()) await site.close();
    built?.remove();
  });
  return shared;
}

async function visit(browser: Browser, sites: ReadonlyMap<boolean, Site>, options: VisitOptions): Promise<Visit> {
  const { isolated = true, besides } = options;
  const allowed = new Set<string>();
  const site = sites.get(isolated) ?? null;
  const url = options.url ?? `${site?.origin}/${options.path ?? ''}`;
  const { origin } = new URL(url);
  const context =
    besides?.context ??
    (await browser.newContext({
      viewport: options.viewport ?? { width: 1280, height: 900 },
      colorScheme: options.colorScheme ?? 'light',
      reducedMotion: options.reducedMotion ?? 'no-preference',
      serviceWorkers: options.serviceWorkers ?? 'allow',
      acceptDownloads: true,
    }));
  const page = await context.newPage();
  const problems: string[] = [];
  const expected: RegExp[] = [];
  const reach = (url: string) => {
    const there = new URL(url);
    if (!['http:', 'https:', 'ws:', 'wss:'].includes(there.protocol)) return;
    if (there.origin !== origin && !allowed.has(there.origin)) problems.push(`reached for ${url}`);
  };
  page.on('pageerror', (error) => problems.push(`uncaught: ${error.message} ${error.stack ?? ''}`));
  page.on('crash', () => problems.push('the tab crashed'));
  page.on('console', (message) => {
    if (message.type() === 'error') problems.push(`console: ${message.text()} (${message.location().url})`);
  });
  page.on('request', (request) => reach(request.url()));
  page.on('websocket', (socket) => reach(socket.url()));
  onTestFinished(async () => {
    if (besides === undefined) await context.close();
    expect(
      problems.filter((problem) => !expected.some((pattern) => pattern.test(problem))),
      'what the page did that it should not',
    ).toEqual([]);
  });
  await page.goto(url);
  return {
    page,
    context,
    origin,
    site,
    allow: (server) => void allowed.add(new URL(server).origin),
    mayLog: (pattern) => void expected.push(pattern),
  };
}
