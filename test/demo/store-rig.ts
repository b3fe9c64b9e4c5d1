/**
 * The model store in Chromium, for tests: its page built as the demo is, a server of models beside it, and what a test does in the
 * page as functions. Models are made here, so that nothing outside the repository is needed.
 */
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright';
import { build } from 'vite';
import type { DownloadProgress, ModelSource, RemoteModel, StoredModel } from '../../apps/demo/src/store/store-api.ts';
import { type GgufTensorToWrite, writeGguf } from '../../packages/model/testing/gguf-writer.ts';
import { writeSafetensors } from '../../packages/model/testing/safetensors-writer.ts';
import { tinyConfig, tinyGgufMetadata, tinyGgufTensors, tinyTensors } from '../../packages/model/testing/tiny-model.ts';
import { exampleModel, repositoryRoot } from '../model-paths.ts';
import { type ModelServer, startModelServer } from './model-server.ts';
import { type Site, serveFolder } from './site.ts';
import type {} from './store-page/store-page.ts';

export const HUB_TOKEN = 'hf_secret';
/** Retries at once: tests wait for no server. */
const TIMING = { retryDelayMs: 5, stallMs: 2_000 };

export function findChromium(): string | null {
  const candidates = [process.env.GLINTHAWK_CHROMIUM, chromium.executablePath()];
  return candidates.find((path) => path !== undefined && existsSync(path)) ?? null;
}

export interface Failure {
  readonly code: string;
  readonly message: string;
  readonly hint: string | null;
}

export interface Outcome {
  readonly stored: StoredModel | null;
  readonly failure: Failure | null;
  readonly progress: readonly DownloadProgress[];
}

export interface StoreRig {
  readonly browser: Browser;
  readonly models: ModelServer;
  readonly site: Site;
  /** Of the built page. */
  readonly folder: string;
  /** A few kB of weights and 3 MB of a tensor that nobody reads, at `/tiny.gguf`. */
  readonly gguf: Uint8Array<ArrayBuffer>;
  newPage(context?: BrowserContext, url?: string): Promise<Page>;
  close(): Promise<void>;
}

/** Another `salt`, other bytes; same size. */
export function ggufOf(salt: number): Uint8Array<ArrayBuffer> {
  const filler = Float32Array.from({ length: 750_000 }, (_, i) => (i * salt) % 1000);
  // First, so that what the model needs lies at the file's end.
  const tensors = new Map<string, GgufTensorToWrite>([
    ['filler.weight', { shape: [filler.length], kind: 0, bytes: new Uint8Array(filler.buffer) }],
    ...tinyGgufTensors(),
  ]);
  return writeGguf(tinyGgufMetadata(), tensors);
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

export async function startStoreRig(executablePath: string): Promise<StoreRig> {
  const root = mkdtempSync(join(tmpdir(), 'glinthawk-store-'));
  const folder = join(root, 'page');
  await buildStorePage(folder);
  makeNarrow(folder, join(root, 'narrow'));
  const gguf = ggufOf(1);
  writeFileSync(join(root, 'tiny.gguf'), gguf);
  cpSync(exampleModel, join(root, 'tale'), { recursive: true });
  const quants = join(root, 'quants');
  mkdirSync(join(quants, 'more'), { recursive: true });
  writeFileSync(join(quants, 'tiny-q4.gguf'), gguf);
  writeFileSync(join(quants, 'more', 'tiny-q8.gguf'), gguf);
  writeFileSync(join(quants, 'big-00001-of-00002.gguf'), gguf.subarray(0, 2000));
  writeSharded(join(root, 'sharded'));
  const hub = { 'glint/sharded': join(root, 'sharded'), 'glint/tale': join(root, 'tale'), 'glint/quants': quants };
  const models = await startModelServer({ root, hub, hubToken: HUB_TOKEN });
  const site = await serveFolder(folder, { isolated: true });
  const args = ['--no-sandbox', '--host-resolver-rules=MAP plain.test 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'];
  const browser = await chromium.launch({ executablePath, args });
  return {
    browser,
    models,
    site,
    folder,
    gguf,
    newPage: async (context, url = site.origin) => {
      const page = await (context ?? (await browser.newContext())).newPage();
      await page.goto(url);
      await page.waitForFunction(() => 'glinthawk' in window);
      return page;
    },
    close: async () => {
      await browser.close();
      await models.close();
      await site.close();
      rmSync(root, { recursive: true, force: true });
    },
  };
}

/** A model in two safetensors files and an index. */
function writeSharded(folder: string): void {
  mkdirSync(folder);
  const tensors = [...tinyTensors()];
  const halves = [tensors.slice(0, 9), tensors.slice(9)].map((half) => new Map(half));
  const places: Record<string, string> = {};
  for (const [index, half] of halves.entries()) {
    const name = `model-0000${index + 1}-of-00002.safetensors`;
    writeFileSync(join(folder, name), writeSafetensors(half));
    for (const tensor of half.keys()) places[tensor] = name;
  }
  writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify({ metadata: {}, weight_map: places }));
  writeFileSync(join(folder, 'config.json'), JSON.stringify(tinyConfig()));
}

/** The page with a store's worker that is told of 500 kB of room. */
function makeNarrow(folder: string, narrow: string): void {
  cpSync(folder, narrow, { recursive: true });
  const worker = readdirSync(join(narrow, 'assets')).find((name) => name.startsWith('download-worker'));
  if (worker === undefined) throw new Error('the store has a worker of its own');
  const path = join(narrow, 'assets', worker);
  const estimate = 'StorageManager.prototype.estimate = async () => ({ quota: 1e6, usage: 5e5 });';
  writeFileSync(path, `${estimate}\n${readFileSync(path, 'utf8')}`);
}

export async function buildStorePage(folder: string): Promise<void> {
  await build({
    root: join(repositoryRoot, 'test', 'demo', 'store-page'),
    configFile: join(repositoryRoot, 'apps', 'demo', 'vite.config.ts'),
    mode: 'production',
    logLevel: 'error',
    build: { outDir: folder, emptyOutDir: true },
  });
}

export interface Wish {
  /** As a person would write it. */
  readonly source: string;
  readonly hubUrl?: string;
  readonly token?: string;
  /** Of GGUF choices. */
  readonly choose?: string;
  /** Stops once so many bytes are here. */
  readonly stopAt?: number;
}

/** Looks at a model in the page. */
export async function inspect(
  page: Page,
  wish: Wish,
): Promise<{ readonly remote: RemoteModel | null; readonly failure: Failure | null }> {
  return page.evaluate(
    async ({ wish, timing }) => {
      const { openModelStore, parseModelSource } = window.glinthawk;
      const store = await openModelStore({ timing, ...(wish.hubUrl === undefined ? {} : { hubUrl: wish.hubUrl }) });
      store.setHubToken(wish.token ?? null);
      try {
        return { remote: await store.inspect(parseModelSource(wish.source)), failure: null };
      } catch (thrown) {
        const { code = '', message, hint = null } = thrown as Failure;
        return { remote: null, failure: { code, message, hint } };
      }
    },
    { wish, timing: TIMING },
  );
}

/** Looks at it, or takes what was seen before, and downloads it. */
export async function download(page: Page, wish: Wish, seen?: RemoteModel): Promise<Outcome> {
  return page.evaluate(
    async ({ wish, timing, seen }) => {
      const { openModelStore, parseModelSource } = window.glinthawk;
      const store = await openModelStore({ timing, ...(wish.hubUrl === undefined ? {} : { hubUrl: wish.hubUrl }) });
      store.setHubToken(wish.token ?? null);
      const progress: DownloadProgress[] = [];
      const stop = new AbortController();
      try {
        let source: ModelSource = parseModelSource(wish.source);
        if (wish.choose !== undefined) {
          const { choices } = await store.inspect(source);
          source = choices.find(({ name }) => name === wish.choose)?.source ?? source;
        }
        const remote = seen ?? (await store.inspect(source));
        const stored = await store.download(remote, {
          signal: stop.signal,
          onProgress: (now) => {
            progress.push(now);
            if (wish.stopAt !== undefined && now.bytesDone >= wish.stopAt) stop.abort();
          },
        });
        return { stored, failure: null, progress };
      } catch (thrown) {
        const { code = '', message, hint = null } = thrown as Failure;
        return { stored: null, failure: { code, message, hint }, progress };
      }
    },
    { wish, timing: TIMING, seen },
  );
}

export async function list(page: Page) {
  return page.evaluate(async () => (await window.glinthawk.openModelStore()).list());
}

/** SHA-256 of each file of a stored model, as it is read back; and that it opens. */
export async function readBack(page: Page, id: string): Promise<Readonly<Record<string, string>>> {
  return page.evaluate(async (id) => {
    const { openStoredFiles, openModelFiles, blobFiles } = window.glinthawk;
    const { name, files, single, close } = await openStoredFiles(id);
    await (await openModelFiles(blobFiles(name, files, single))).close();
    const sums: Record<string, string> = {};
    for (const [file, blob] of files) {
      const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', await blob.arrayBuffer()));
      sums[file] = [...digest].map((byte) => byte.toString(16).padStart(2, '0')).join('');
    }
    close();
    return sums;
  }, id);
}
