/** What goes wrong for a visitor is said in clear words, and the page stays usable. */
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import type { Page } from 'playwright';
import { expect, it } from 'vitest';
import { start, temporaryFolder } from '../e2e/command.ts';
import { loadGolden } from '../golden/golden.ts';
import { exampleModel } from '../models.ts';
import { describeInChromium, type Rig, type Visit } from './chromium.ts';
import { GlinthawkPage } from './page.ts';

const TOKEN = 'a token of the tests';
const [golden] = loadGolden(exampleModel);

/** Text comes, and it is the right one. */
async function expectUsable(demo: GlinthawkPage): Promise<void> {
  await demo.dismissNotices();
  await demo.setTiers({ mode: 'two tiers', workers: 1, remotes: [] });
  await demo.loadExample();
  await demo.setSampling({ temperature: 0, maxTokens: 8 });
  await demo.ask('Once upon a time');
  const text = await demo.answered();
  expect(`Once upon a time${golden?.text}`.startsWith(text)).toBe(true);
  expect(text.length).toBeGreaterThan('Once upon a time'.length);
}

async function attentionNode(...flags: readonly string[]): Promise<string> {
  const node = start(['attention', '--listen', '127.0.0.1:0', '--workers', '1', '--memory', '16MiB', ...flags], {
    env: { GLINTHAWK_TOKEN: TOKEN },
  });
  return (await node.saw(/ws:\/\/127\.0\.0\.1:\d+/))[0];
}

/** A port on which nobody listens. */
function deadPort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0));
    });
  });
}

async function withRemote(visit: Visit, url: string, token: string): Promise<GlinthawkPage> {
  visit.allow(url);
  // The browser itself reports connections that don't come about.
  visit.mayLog(/WebSocket connection to/);
  const demo = new GlinthawkPage(visit.page);
  await demo.setTiers({ mode: 'two tiers', workers: 0, remotes: [{ url, token }] });
  await demo.tab('Example');
  await demo.button('Load example').click();
  return demo;
}

describeInChromium('a remote attention node', (rig: () => Rig) => {
  it('with another token is refused in words', async () => {
    const visit = await rig().visit();
    const url = await attentionNode('--origin', visit.origin);
    const demo = await withRemote(visit, url, 'another token of the tests');
    await demo.notice(/token/i);
    await expectUsable(demo);
  });

  it('that does not know this page is refused in words', async () => {
    const visit = await rig().visit();
    const url = await attentionNode('--origin', 'http://another.example');
    const demo = await withRemote(visit, url, TOKEN);
    await demo.notice(/--origin/);
    await expectUsable(demo);
  });

  it('that is not there is missed in words', async () => {
    const visit = await rig().visit();
    const demo = await withRemote(visit, `ws://127.0.0.1:${await deadPort()}`, TOKEN);
    await demo.notice(/ws:\/\/127\.0\.0\.1.*(running|reach|connect)/is);
    await expectUsable(demo);
  });
});

describeInChromium('a file', (rig) => {
  /** As a drop from the desktop. */
  async function drop(demo: GlinthawkPage, path: string): Promise<void> {
    const { page } = demo;
    await demo.reaches(/^No model/);
    const cdp = await page.context().newCDPSession(page);
    const data = { items: [], files: [path], dragOperationsMask: 1 };
    for (const type of ['dragEnter', 'dragOver', 'drop'] as const) {
      await cdp.send('Input.dispatchDragEvent', { type, x: 200, y: 200, data });
    }
  }

  function file(name: string, content: string): string {
    const path = join(temporaryFolder(), name);
    writeFileSync(path, content);
    return path;
  }

  it('that is no model, when it is dropped, is named and refused', async () => {
    const { page } = await rig().visit();
    const demo = new GlinthawkPage(page);
    await drop(demo, file('holiday.jpg', 'not a model'));
    await demo.notice(/no model among holiday\.jpg.*\.gguf/is);
    await expectUsable(demo);
  });

  it('that says .gguf and is none, when it is dropped, is refused', async () => {
    const { page } = await rig().visit();
    const demo = new GlinthawkPage(page);
    await drop(demo, file('broken.gguf', '<!doctype html><title>Sign in</title>'.padEnd(4096)));
    await demo.button('Load chosen model').click();
    await demo.notice(/GGUF/i);
    await expectUsable(demo);
  });

  it('that ends too early is refused', async () => {
    const { page } = await rig().visit();
    const demo = new GlinthawkPage(page);
    const files = ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'model.safetensors'].map((name) => {
      const content = readFileSync(join(exampleModel, name));
      const buffer = name.endsWith('.safetensors') ? content.subarray(0, content.byteLength / 2) : content;
      return { name, mimeType: 'application/octet-stream', buffer };
    });
    await demo.tab('From disk');
    await page.getByLabel('Choose a .gguf file').setInputFiles(files);
    await demo.button('Load chosen model').click();
    await demo.notice(/model\.safetensors/i);
    await expectUsable(demo);
  });

  it('after file in a folder, when it is dropped, is the model', async () => {
    const { page } = await rig().visit();
    const demo = new GlinthawkPage(page);
    await drop(demo, exampleModel);
    await demo.button('Load chosen model').click();
    await demo.reaches(/^Ready: tale-1m/);
  });

  it('of requests, when it is dropped, is the batch', async () => {
    const { page } = await rig().visit();
    const demo = new GlinthawkPage(page);
    await drop(demo, file('requests.jsonl', '{"prompt": "Once upon a time", "max_tokens": 4}\n'));
    const requests = page.getByRole('textbox', { name: /one JSON object a line/ });
    await expect.poll(() => requests.inputValue(), { timeout: 10_000 }).toMatch(/Once upon a time/);
  });
});

describeInChromium('what is longer than the context', (rig) => {
  it('is refused in words where it is the prompt, and ends there where it is the answer', async () => {
    const { page } = await rig().visit();
    const demo = new GlinthawkPage(page);
    await demo.loadExample();
    await demo.ask('Once upon a time '.repeat(200));
    await demo.notice(/the prompt has \d+ tokens, the context 512/i);
    await demo.runBatch('{"prompt": "Once upon a time", "max_tokens": 30000}');
    await demo.notice(/line 1: .*over the context of 512/i);
    await demo.setSampling({ temperature: 0, maxTokens: 30_000 });
    await demo.ask('Once upon a time');
    expect(await demo.answered()).toMatch(/^Once upon a time, there was a little girl named Lily\./);
    await expectUsable(demo);
  });
});

describeInChromium('a setting that is wrong', (rig) => {
  it('of sampling holds generating up, and says which it is', async () => {
    const { page } = await rig().visit();
    const demo = new GlinthawkPage(page);
    await demo.openMore('Sampling');
    const field = page.getByLabel('Max tokens', { exact: true });
    await field.fill('-5');
    await page.getByText(/^Max tokens must be 1 to/).waitFor();
    expect(await demo.button('Generate').isDisabled()).toBe(true);
    await field.fill('8');
    expect(await demo.button('Generate').isDisabled()).toBe(false);
    await expectUsable(demo);
  });

  it('of a GPU that is not there is not applied: the model stays', async () => {
    const { page } = await rig().visit();
    const demo = new GlinthawkPage(page);
    await demo.loadExample();
    const card = page.getByRole('region', { name: 'Tiers' });
    await card.getByRole('radio', { name: 'WebGPU' }).check();
    await card.getByText('The only adapter here is software').waitFor();
    expect(await demo.button('Apply').isDisabled()).toBe(true);
    await card.getByRole('radio', { name: 'WASM' }).check();
    await expectUsable(demo);
  });
});

/**
 * A headless browser hides no tab, so the page is told what a hidden one is told, and gets no frames.
 * @returns what shows it again
 */
async function hide(page: Page): Promise<() => Promise<void>> {
  const show = await page.evaluateHandle(() => {
    const frame = window.requestAnimationFrame.bind(window);
    const held: FrameRequestCallback[] = [];
    window.requestAnimationFrame = (callback) => held.push(callback);
    Object.defineProperty(document, 'hidden', { value: true, configurable: true });
    Object.defineProperty(document, 'visibilityState', { value: 'hidden', configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
    return () => {
      window.requestAnimationFrame = frame;
      Reflect.deleteProperty(document, 'hidden');
      Reflect.deleteProperty(document, 'visibilityState');
      document.dispatchEvent(new Event('visibilitychange'));
      for (const callback of held) frame(callback);
    };
  });
  return () => show.evaluate((show) => show());
}

describeInChromium('tabs', (rig) => {
  it('two at once both generate, and know of each other', async () => {
    const first = await rig().visit();
    const second = await rig().visit({ besides: first });
    const demos = [first, second].map(({ page }) => new GlinthawkPage(page));
    for (const demo of demos) {
      await demo.loadExample();
      await demo.setSampling({ temperature: 0, maxTokens: 64 });
    }
    for (const demo of demos) await demo.ask('Once upon a time');
    for (const demo of demos) {
      expect(await demo.answered()).toMatch(/^Once upon a time, there was a little girl named Lily\./);
    }
    await first.page.getByText(/1 other tab of this page has a model open/).waitFor();
  });

  it('a hidden one goes on', async () => {
    const first = await rig().visit();
    const demo = new GlinthawkPage(first.page);
    await demo.loadExample();
    await demo.setSampling({ temperature: 0, maxTokens: 400 });
    await demo.ask('Once upon a time');
    await demo.writes('Once upon a time');
    const show = await hide(first.page);
    const before = await demo.figures();
    await expect.poll(() => demo.figures(), { timeout: 30_000 }).toBeGreaterThan(before + 50);
    await show();
    expect(await demo.answered()).toMatch(/^Once upon a time, there was a little girl named Lily\./);
  });

  it('work without a network from the second visit on', async () => {
    const { page, context, mayLog } = await rig().visit();
    await page.evaluate(async () => {
      await navigator.serviceWorker.ready;
    });
    await context.setOffline(true);
    mayLog(/ERR_INTERNET_DISCONNECTED/);
    await page.reload();
    await expectUsable(new GlinthawkPage(page));
  });
});
