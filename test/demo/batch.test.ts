/** A batch in the page: what `glinthawk run` does with a file, with a paste and a download. */
import { expect, it } from 'vitest';
import { loadGolden } from '../golden/golden.ts';
import { exampleModel } from '../models.ts';
import { describeInChromium } from './chromium.ts';
import { expectGoldenIds, goldenJsonl } from './goldens.ts';
import { GlinthawkPage } from './page.ts';

const goldens = loadGolden(exampleModel);

describeInChromium('a batch', (rig) => {
  it('with a bad line is refused and says which; skipping it, the others run', async () => {
    const { page } = await rig().visit();
    const demo = new GlinthawkPage(page);
    await demo.setTiers({ workers: 2, kv: 'f32' });
    await demo.loadExample();
    const [first = '', ...others] = goldenJsonl(goldens).split('\n');
    const jsonl = [first, '{"prompt": "Once", "temperature": "hot"}', ...others].join('\n');

    await demo.runBatch(jsonl);
    await demo.notice(/line 2: temperature must be a number/i);
    await demo.dismissNotices();

    await demo.runBatch(jsonl, { skipInvalid: true });
    expectGoldenIds(await demo.batchEnds(), goldens);
    await page
      .getByRole('list', { name: 'Invalid lines' })
      .getByText(/line 2: temperature/)
      .waitFor();
    const [error, ...more] = await demo.download(/^Download errors/);
    expect(error).toMatchObject({ error: { line: 2 } });
    expect(more).toEqual([]);
  });

  it('that is stopped has the results that were ready, and the next one runs', async () => {
    const { page } = await rig().visit();
    const demo = new GlinthawkPage(page);
    await demo.setTiers({ workers: 2, kv: 'f32' });
    await demo.loadExample();
    // Short ones among many long ones, so that some are done when it is stopped, and never all.
    const long = Array.from({ length: 40 }, (_, i) =>
      JSON.stringify({ custom_id: `long-${i}`, prompt: 'The big ship', max_tokens: 400, ignore_eos: true }),
    );
    await demo.runBatch(`${goldenJsonl(goldens, 8)}\n${long.join('\n')}`);
    const done = page.getByText(/^\d+ of 46 requests done/);
    await expect
      .poll(async () => Number.parseInt((await done.textContent()) ?? '', 10), { timeout: 60_000 })
      .toBeGreaterThanOrEqual(goldens.length);
    await page.getByRole('tabpanel', { name: 'Batch' }).getByRole('button', { name: 'Stop' }).click();
    const results = await demo.batchEnds(/^Stopped/);
    expectGoldenIds(
      results.filter(({ custom_id }) => custom_id?.startsWith('golden')),
      goldens,
      8,
    );
    expect(results.length).toBeLessThan(46);
    await demo.runBatch(goldenJsonl(goldens.slice(0, 2), 8));
    expectGoldenIds(await demo.batchEnds(), goldens.slice(0, 2), 8);
  });
});
