/**
 * `npm run screenshots [-- --out FOLDER --only NAME,NAME]`: builds the demo page, drives Chromium through each of its states in light and dark, and
 * writes PNGs. The few that the docs show go to docs/images/, all go to FOLDER (default: .cache/screenshots). What is on them is
 * real: the example model, generating while the picture is taken.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type Browser, chromium, type Locator, type Page } from 'playwright';
import { buildPage, serveFolder } from '../test/demo/site.ts';

const root = join(import.meta.dirname, '..');
const { values } = parseArgs({ options: { out: { type: 'string' }, only: { type: 'string' } } });
const out = values.out ?? join(root, '.cache', 'screenshots');
const images = join(root, 'docs', 'images');

/** Which pictures the docs show, in both schemes. */
const SHOWN: ReadonlySet<string> = new Set(['stories', 'compared', 'lend']);
const SCHEMES = ['light', 'dark'] as const;
type Scheme = (typeof SCHEMES)[number];

const WIDE = { width: 1440, height: 1000 };
const PHONE = { width: 390, height: 844 };
const TOKEN = 'token-of-the-screenshots';
const WAIT_MS = 60_000;
/** Around what is pictured, CSS pixels; no more than what lies between two stories. */
const MARGIN = 14;
const BETWEEN_STORIES = 4;
/** Two lines of five. */
const STORIES_PICTURED = 10;

interface Shot {
  readonly name: string;
  readonly viewport?: { readonly width: number; readonly height: number };
  /** After the page's origin. */
  readonly path?: string;
  /** Brings the page into its state; what it returns is pictured, else the window. */
  set(page: Page, origin: string): Promise<Locator | Area | null>;
}

/** A part of the window, CSS pixels. */
interface Area {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

const processes = new Set<ChildProcess>();

/** Starts `glinthawk` and waits for a line that it prints. */
async function glinthawk(args: readonly string[], awaited: RegExp): Promise<RegExpExecArray> {
  const launcher = join(root, 'apps', 'cli', 'bin', 'glinthawk.js');
  const env = { ...process.env, NO_COLOR: '1', GLINTHAWK_TOKEN: TOKEN };
  const child = spawn(process.execPath, [launcher, ...args], { cwd: root, env, stdio: ['ignore', 'pipe', 'pipe'] });
  processes.add(child);
  return new Promise((resolve, reject) => {
    let text = '';
    const look = (chunk: Buffer) => {
      text += chunk.toString('utf8');
      const match = awaited.exec(text);
      if (match !== null) resolve(match);
    };
    child.stdout.on('data', look);
    child.stderr.on('data', look);
    child.on('close', (status) => {
      processes.delete(child);
      reject(new Error(`glinthawk ${args[0]} ended with ${status}:\n${text}`));
    });
  });
}

async function endProcesses(): Promise<void> {
  const ending = [...processes].map((child) => new Promise((resolve) => child.once('close', resolve)));
  for (const child of processes) child.kill('SIGKILL');
  await Promise.all(ending);
}

function button(page: Page, name: string | RegExp): Locator {
  return page.getByRole('button', { name, exact: typeof name === 'string' });
}

async function status(page: Page, pattern: RegExp): Promise<void> {
  await page.getByRole('status', { name: 'Engine status' }).filter({ hasText: pattern }).waitFor({ timeout: WAIT_MS });
}

async function loadExample(page: Page): Promise<void> {
  await button(page, 'Load example').click();
  await status(page, /^Ready/);
}

/** Goes to the top of a part of the page and waits until its canvases are drawn. */
async function lookAt(part: Locator, waitMs = 2_500): Promise<Locator> {
  await part.evaluate((element) => element.scrollIntoView({ block: 'start' }));
  await part.page().waitForTimeout(waitMs);
  return part;
}

/** As wide as a part and from its top, down to the end of another. */
async function areaDownTo(part: Locator, last: Locator): Promise<Area> {
  const [whole, end] = [await part.boundingBox(), await last.boundingBox()];
  if (whole === null || end === null) throw new Error('a part of the picture is not on the page');
  const { x, y, width } = whole;
  return { x, y, width, height: end.y + end.height + BETWEEN_STORIES - y };
}

async function areaAround(part: Locator): Promise<Area> {
  const box = await part.boundingBox();
  if (box === null) throw new Error('what is to be pictured is not on the page');
  const { x, y, width, height } = box;
  return { x: x - MARGIN, y: y - MARGIN, width: width + 2 * MARGIN, height: height + 2 * MARGIN };
}

async function writeStories(page: Page, which: string): Promise<Locator> {
  await loadExample(page);
  await page.getByRole('radio', { name: 'Two tiers, many in flight' }).check();
  await status(page, /^Ready/);
  await button(page, which).click();
  await page.waitForTimeout(2_000);
  return page.getByRole('region', { name: 'See it work' });
}

const SHOTS: readonly Shot[] = [
  { name: 'first-visit', set: async () => null },
  {
    name: 'loading',
    async set(page) {
      // The weights never come, so that there is time for a picture.
      await page.route(/\.safetensors$/, () => {});
      await button(page, 'Load example').click();
      await page.waitForTimeout(1_200);
      return null;
    },
  },
  {
    name: 'streaming',
    async set(page) {
      await loadExample(page);
      await button(page, 'Generate').click();
      await page.waitForTimeout(600);
      return null;
    },
  },
  {
    name: 'stories',
    // As tall as the part, so that all of it is on screen and drawn.
    viewport: { width: 1440, height: 2_200 },
    async set(page) {
      const part = await lookAt(await writeStories(page, 'Write 512'));
      // The KV memory has filled by when the first few are done.
      await part.getByText(/^(?!\d of )\d+ of 512 stories done/).waitFor({ timeout: WAIT_MS });
      return areaDownTo(
        part,
        part
          .getByRole('region', { name: 'Stories' })
          .getByRole('listitem')
          .nth(STORIES_PICTURED - 1),
      );
    },
  },
  {
    name: 'compared',
    viewport: { width: 1440, height: 1_500 },
    async set(page) {
      await loadExample(page);
      await button(page, 'Compare all three').click();
      await page.getByText(/ (win|wins) here: |A tie here: /).waitFor({ timeout: 2 * WAIT_MS });
      return areaAround(page.getByRole('status', { name: 'Comparison' }));
    },
  },
  {
    name: 'batch-done',
    async set(page) {
      await loadExample(page);
      await page.getByRole('tab', { name: 'Batch' }).click();
      await button(page, 'Take the example').click();
      await button(page, 'Run batch').click();
      await button(page, /^Download results/).waitFor({ timeout: WAIT_MS });
      await page
        .getByRole('status', { name: 'Batch status' })
        .filter({ hasText: /^Done/ })
        .waitFor({ timeout: WAIT_MS });
      return page.getByRole('region', { name: 'Generate' });
    },
  },
  {
    name: 'remote-nodes',
    viewport: { width: 1440, height: 1_500 },
    async set(page, origin) {
      const flags = ['--listen', '127.0.0.1:0', '--workers', '1', '--memory', '64MiB', '--origin', origin];
      const card = page.getByRole('region', { name: 'Tiers', exact: true });
      for (const number of [1, 2]) {
        const [url] = await glinthawk(['attention', ...flags], /ws:\/\/127\.0\.0\.1:\d+/);
        await button(page, 'Add a remote node').click();
        const node = card.getByRole('group', { name: `Remote node ${number}` });
        await node.getByLabel('Address').fill(url);
        await node.getByLabel('Token').fill(TOKEN);
      }
      await button(page, 'Apply').click();
      await loadExample(page);
      await button(page, 'Generate').click();
      return lookAt(page.getByRole('region', { name: 'See it work' }), 700);
    },
  },
  {
    name: 'error',
    async set(page) {
      await page.getByRole('tab', { name: 'From disk' }).click();
      const damaged = { name: 'damaged.gguf', mimeType: '', buffer: Buffer.from('<html>not found</html>') };
      await page.getByLabel('Choose a .gguf file').setInputFiles([damaged]);
      await button(page, 'Load chosen model').click();
      await page.getByRole('region', { name: 'Notices' }).getByText(/./).first().waitFor({ timeout: WAIT_MS });
      return null;
    },
  },
  { name: 'lend', viewport: { width: 860, height: 900 }, set: lendTab },
  { name: 'phone', viewport: PHONE, set: async () => null },
  {
    name: 'phone-stories',
    viewport: { width: PHONE.width, height: 3_000 },
    set: async (page) => lookAt(await writeStories(page, 'Write 48 stories at once')),
  },
];

async function take(browser: Browser, scheme: Scheme, shot: Shot, origin: string): Promise<void> {
  const viewport = shot.viewport ?? WIDE;
  const context = await browser.newContext({ viewport, colorScheme: scheme, deviceScaleFactor: 1 });
  const page = await context.newPage();
  try {
    await page.goto(`${origin}/${shot.path ?? ''}`);
    await page.getByRole('heading', { level: 1 }).waitFor();
    const part = await shot.set(page, origin);
    const path = join(out, `${shot.name}-${scheme}.png`);
    if (part !== null && 'x' in part) await page.screenshot({ path, clip: part, animations: 'disabled' });
    else await (part ?? page).screenshot({ path, animations: 'disabled' });
    console.log(path);
    if (SHOWN.has(shot.name)) copyFileSync(path, join(images, `${shot.name}-${scheme}.png`));
  } finally {
    await context.close();
    await endProcesses();
  }
}

/** A job that waits for tabs, and the link that lends one to it. */
async function lendTab(page: Page, origin: string): Promise<Locator> {
  const folder = mkdtempSync(join(tmpdir(), 'glinthawk-lend-'));
  try {
    const [input, output] = [join(folder, 'job.jsonl'), join(folder, 'results.jsonl')];
    const request = { prompt: 'Once upon a time', max_tokens: 400 };
    const job = Array.from({ length: 200 }, (_, i) => JSON.stringify({ custom_id: `r${i}`, ...request }));
    writeFileSync(input, job.join('\n'));
    const link = /(?:https?:\/\/([\d.:]+)\/#lend|#lend=wss?:\/\/([\d.:]+))&token=/;
    const model = join(root, 'examples', 'tale-1m');
    const files = ['--model', model, '--input', input, '--output', output];
    const nodes = ['--attention', 'ws-listen://127.0.0.1:0', '--origin', origin];
    const [, here, direct] = await glinthawk(['run', ...files, ...nodes], link);
    await page.goto('about:blank');
    await page.goto(`${origin}/#lend=ws://${here ?? direct}&token=${TOKEN}`);
    await button(page, 'Lend').click();
    await page.waitForTimeout(2_500);
    return page.getByRole('main');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function findChromium(): string {
  const candidates = [process.env.GLINTHAWK_CHROMIUM, chromium.executablePath(), '/usr/bin/chromium'];
  const found = candidates.find((path) => path !== undefined && existsSync(path));
  if (found === undefined) throw new Error('there is no Chromium: set GLINTHAWK_CHROMIUM to its path');
  return found;
}

mkdirSync(out, { recursive: true });
mkdirSync(images, { recursive: true });
const built = await buildPage();
const site = await serveFolder(built.folder, { isolated: true });
const browser = await chromium.launch({
  executablePath: findChromium(),
  args: ['--no-sandbox', '--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'],
});
try {
  const only = values.only?.split(',');
  const shots = SHOTS.filter(({ name }) => only?.includes(name) ?? true);
  for (const shot of shots) for (const scheme of SCHEMES) await take(browser, scheme, shot, site.origin);
} finally {
  await endProcesses();
  await browser.close();
  await site.close();
  built.remove();
}
