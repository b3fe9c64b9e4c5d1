/**
 * The bundled example in the page: its golden tokens, exactly, wherever the tiers run; text that streams; stop, seeds and the
 * keyboard.
 */
import { expect, it } from 'vitest';
import { start } from '../e2e/command.ts';
import { loadGolden } from '../golden/golden.ts';
import { exampleModel } from '../models.ts';
import { describeInChromium } from './chromium.ts';
import { expectGoldenIds, goldenJsonl } from './goldens.ts';
import { GlinthawkPage, type Tiers } from './page.ts';

const goldens = loadGolden(exampleModel);
const TOKEN = 'a token of the tests';

/** Every way in which the tiers are put together, on one page: what is reopened must answer like what was opened. */
const ARRANGEMENTS: readonly (readonly [string, Tiers])[] = [
  ['two workers', { mode: 'two tiers', workers: 2 }],
  ['one worker, 1 in flight', { mode: 'two tiers', workers: 1, inFlight: 1 }],
  ['two workers, 4 in flight', { mode: 'two tiers', workers: 2, inFlight: 4 }],
  ['one tier', { mode: 'one tier', inFlight: 'auto' }],
];

/** SwiftShader takes some 100 ms a step: enough there to leave the prompts behind. */
const EXTENT = {
  WASM: { cases: goldens, tokens: Number.POSITIVE_INFINITY },
  WebGPU: { cases: goldens.slice(0, 3), tokens: 8 },
} as const;

describeInChromium('the example model', (rig) => {
  for (const dense of ['WASM', 'WebGPU'] as const) {
    for (const isolated of [true, false]) {
      const { cases, tokens } = EXTENT[dense];
      it(`gives its golden tokens on ${dense}, ${isolated ? '' : 'not '}isolated, in workers and on a node`, async () => {
        const { page, origin, allow } = await rig().visit({ isolated });
        expect(await page.evaluate(() => crossOriginIsolated)).toBe(isolated);
        const demo = new GlinthawkPage(page);
        await demo.setTiers({ dense, workers: 2, kv: 'f32' });
        await demo.loadExample();
        for (const [name, tiers] of ARRANGEMENTS) {
          await demo.setTiers(tiers);
          await demo.runBatch(goldenJsonl(cases, tokens));
          const results = await demo.batchEnds();
          expect.soft(results, name).toHaveLength(cases.length);
          expectGoldenIds(results, cases, tokens);
        }
        const node = start(
          ['attention', '--listen', '127.0.0.1:0', '--workers', '1', '--memory', '64MiB', '--origin', origin],
          { env: { GLINTHAWK_TOKEN: TOKEN } },
        );
        const url = (await node.saw(/ws:\/\/127\.0\.0\.1:\d+/))[0];
        allow(url);
        await demo.setTiers({ mode: 'two tiers', workers: 0, remotes: [{ url, token: TOKEN }] });
        await node.saw(/session begins/);
        await demo.runBatch(goldenJsonl(cases, tokens));
        expectGoldenIds(await demo.batchEnds(), cases, tokens);
      });
    }
  }
});

describeInChromium('a prompt', (rig) => {
  it('is answered by one click, streaming, with its golden text', async () => {
    const { page } = await rig().visit();
    const demo = new GlinthawkPage(page);
    const [golden] = goldens;
    if (golden?.text == null) throw new Error('the example has a golden text');
    await demo.setSampling({ temperature: 0, maxTokens: golden.greedyIds.length });
    const seen = await demo.watchOutput();
    await demo.button(golden.prompt).click();
    expect(await demo.answered()).toBe(golden.prompt + golden.text);
    const growing = (await seen()).filter((length) => length > golden.prompt.length);
    expect(growing.length, `it grew to ${growing}`).toBeGreaterThan(5);
  });

  it('can be written and sent by the keyboard alone', async () => {
    const { page } = await rig().visit();
    const demo = new GlinthawkPage(page);
    const prompt = page.getByRole('textbox', { name: 'Prompt', exact: true });
    for (let presses = 0; presses < 60; presses++) {
      await page.keyboard.press('Tab');
      if (await prompt.evaluate((element) => element === document.activeElement)) break;
    }
    await page.keyboard.type('Sara and Ben');
    await page.keyboard.press('Enter');
    await demo.writes('Sara and Ben', 20);
    // On to Stop: the next control that can be pressed, as the others wait for the run.
    const stop = demo.button('Stop').first();
    for (let presses = 0; presses < 10; presses++) {
      if (await stop.evaluate((element) => element === document.activeElement)) break;
      await page.keyboard.press('Tab');
    }
    await page.keyboard.press('Enter');
    expect(await demo.answered()).toMatch(/^Sara and Ben./);
  });

  it('stops when it is told to, and the next one runs', async () => {
    const { page } = await rig().visit();
    const demo = new GlinthawkPage(page);
    await demo.loadExample();
    await demo.setSampling({ temperature: 0, maxTokens: 480 });
    await demo.ask('Once upon a time');
    await demo.writes('Once upon a time', 30);
    await page.getByRole('region', { name: 'Generate' }).getByRole('button', { name: 'Stop' }).first().click();
    const stopped = await demo.answered();
    expect(stopped).toMatch(/^Once upon a time, there was/);
    const [golden] = goldens;
    await demo.setSampling({ maxTokens: 8 });
    await demo.ask('Once upon a time');
    await demo.reaches(/^Ready/);
    const next = await demo.answered();
    expect(`Once upon a time${golden?.text}`.startsWith(next)).toBe(true);
    expect(next.length).toBeLessThan(stopped.length);
  });

  it('with a seed is answered the same again, and with another differently', async () => {
    const { page } = await rig().visit();
    const demo = new GlinthawkPage(page);
    await demo.loadExample();
    const texts: string[] = [];
    for (const seed of [7, 7, 8]) {
      await demo.setSampling({ temperature: 1, topP: 1, topK: 0, maxTokens: 48, seed });
      await demo.ask('The little dragon');
      await demo.reaches(/^Generating/);
      texts.push(await demo.answered());
    }
    expect(texts[1]).toBe(texts[0]);
    expect(texts[2]).not.toBe(texts[0]);
  });
});
