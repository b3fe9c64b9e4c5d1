/** Models by URL, as a person meets them: a download that ends beside other work, one that starts anew, a browser that keeps nothing. */
import { expect, it, onTestFinished } from 'vitest';
import { exampleModel } from '../models.ts';
import { describeInChromium } from './chromium.ts';
import { type ModelServer, startModelServer } from './model-server.ts';
import { GlinthawkPage } from './page.ts';

const LONG_BATCH = '{"prompt": "Once upon a time", "max_tokens": 400}\n'.repeat(40);

async function serveExample(): Promise<ModelServer> {
  const server = await startModelServer({ root: exampleModel });
  onTestFinished(() => server.close());
  return server;
}

async function lookUp(demo: GlinthawkPage, url: string): Promise<void> {
  await demo.tab('Hub or URL');
  await demo.page.getByRole('textbox', { name: 'Hub id or URL' }).fill(url);
  await demo.button('Inspect').click();
  await demo.button('Download').waitFor();
}

describeInChromium('a download', (rig) => {
  it('that ends while a batch runs leaves it running, and is offered', async () => {
    const server = await serveExample();
    const { page, allow } = await rig().visit();
    allow(server.origin);
    const demo = new GlinthawkPage(page);
    await demo.loadExample();
    await lookUp(demo, server.url('/'));
    await demo.runBatch(LONG_BATCH);
    await demo.reaches(/^Generating/);
    await demo.button('Download').click();
    await page.getByText(/is stored\. It was not loaded, because something was running/).waitFor();
    await demo.reaches(/^Generating: tale-1m/);
    await page.getByRole('tabpanel', { name: 'Batch' }).getByRole('button', { name: 'Stop' }).click();
    await demo.batchEnds(/^Stopped/);
    await demo.button('Load it now').click();
    await demo.reaches(/^Ready: /);
    expect(await demo.button('Load it now').count()).toBe(0);
  });

  it('that has to start anew says so while it goes on', async () => {
    const server = await serveExample();
    const { page, allow, mayLog } = await rig().visit();
    allow(server.origin);
    mayLog(/net::ERR_/); // The browser's own word on the cut.
    const demo = new GlinthawkPage(page);
    const weights = '/model.safetensors';
    server.behave(weights, { etag: null });
    await lookUp(demo, server.url('/'));
    server.behave(weights, { etag: null, cutAfter: 1_000_000, cuts: 1, bytesPerSecond: 2_000_000 });
    await demo.button('Download').click();
    await page.getByText(/no strong ETag.*could not be continued/).waitFor();
    await demo.reaches(/^Ready: /);
  });
});

describeInChromium('a browser that keeps nothing', (rig) => {
  it('says so once, with what to do instead', async () => {
    const { page } = await rig().visit();
    await page.addInitScript(() => {
      Object.defineProperty(StorageManager.prototype, 'getDirectory', { value: undefined });
    });
    await page.reload();
    const demo = new GlinthawkPage(page);
    for (const tab of ['Hub or URL', 'Stored']) {
      await demo.tab(tab);
      const said = (await page.getByRole('tabpanel', { name: tab }).innerText()).trim();
      expect(said).toMatch(/^This browser has no origin private file system.*from files on disk/);
      expect(said.match(/from (files on )?disk/g)).toHaveLength(1);
      expect(said).not.toMatch(/\.\./);
    }
  });
});
