/** Every state of the page has no serious violation of WCAG that axe can find, in both colour schemes, on a phone and a wide screen. */
import { AxeBuilder } from '@axe-core/playwright';
import type { Page } from 'playwright';
import { expect, it } from 'vitest';
import { describeInChromium } from './chromium.ts';
import { GlinthawkPage } from './page.ts';

/** Each scheme and each size in every state: colours don't depend on the width. */
const VIEWS = [
  { colorScheme: 'dark', viewport: { width: 390, height: 844 } },
  { colorScheme: 'light', viewport: { width: 1440, height: 900 } },
] as const;

async function expectAccessible(page: Page, state: string): Promise<void> {
  for (const { colorScheme, viewport } of VIEWS) {
    await page.setViewportSize(viewport);
    await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
    const { violations } = await new AxeBuilder({ page }).analyze();
    const serious = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
    const found = serious.map(({ id, help, nodes }) => ({
      id,
      help,
      nodes: nodes.map(({ html, failureSummary }) => `${html}\n${failureSummary}`),
    }));
    expect(found, `${state}, ${colorScheme}, ${viewport.width} wide`).toEqual([]);
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    expect(overflow, `${state} is wider than a screen of ${viewport.width}`).toBeLessThanOrEqual(0);
  }
}

describeInChromium('the page is accessible', (rig) => {
  it('at first, with a model, while it generates, and after a batch', async () => {
    const { page } = await rig().visit({ reducedMotion: 'reduce' });
    const demo = new GlinthawkPage(page);
    await demo.setSampling({ temperature: 0, maxTokens: 500 });
    await expectAccessible(page, 'at first');
    await demo.loadExample();
    await expectAccessible(page, 'with a model');
    const long = Array.from(
      { length: 200 },
      () => '{"prompt": "Once upon a time", "max_tokens": 500, "ignore_eos": true}',
    );
    await demo.runBatch(long.join('\n'));
    await demo.reaches(/^Generating/);
    await expectAccessible(page, 'while it generates');
    await demo.reaches(/^Generating/);
    await page.getByRole('tabpanel', { name: 'Batch' }).getByRole('button', { name: 'Stop' }).click();
    await demo.batchEnds(/^Stopped/);
    await demo.runBatch('{"prompt": "Once upon a time", "max_tokens": 8}');
    await demo.batchEnds();
    await expectAccessible(page, 'after a batch');
  });

  it('while it compares, and after', async () => {
    const { page } = await rig().visit({ reducedMotion: 'reduce' });
    const demo = new GlinthawkPage(page);
    await demo.loadExample();
    await demo.button('Compare all three').click();
    await page.getByRole('status', { name: 'Comparison' }).waitFor();
    await expectAccessible(page, 'comparing');
    await page
      .getByText(/faster|slower|as fast|tokens a second/)
      .first()
      .waitFor({ timeout: 90_000 });
    await expectAccessible(page, 'compared');
  });

  it('with a failure shown, and with a remote node to fill in', async () => {
    const { page } = await rig().visit({ reducedMotion: 'reduce' });
    const demo = new GlinthawkPage(page);
    await demo.tab('From disk');
    await page
      .getByLabel('Choose a .gguf file')
      .setInputFiles([{ name: 'holiday.jpg', mimeType: 'image/jpeg', buffer: Buffer.from('no model') }]);
    await demo.notice(/no model/i);
    await page.getByRole('button', { name: 'Add a remote node' }).click();
    await demo.openMore('KV cache and micro-batches');
    await expectAccessible(page, 'with a failure');
  });

  it('when it lends', async () => {
    const { page, allow, mayLog } = await rig().visit({
      reducedMotion: 'reduce',
      path: '#lend=ws://127.0.0.1:9&token=none',
    });
    allow('ws://127.0.0.1:9');
    mayLog(/WebSocket connection to/);
    await page.getByRole('heading', { name: 'Lend this tab' }).waitFor();
    await expectAccessible(page, 'about to lend');
    await page.getByRole('button', { name: 'Lend', exact: true }).click();
    await page.getByRole('list', { name: 'Workers of this tab' }).waitFor();
    await expectAccessible(page, 'lending');
  });
});
