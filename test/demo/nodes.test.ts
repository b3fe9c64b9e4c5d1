/** A tab as the dense node: `glinthawk attention` processes, and workers of the tab, that die while it generates. */
import { expect, it, onTestFinished } from 'vitest';
import { type Running, start } from '../e2e/command.ts';
import { loadGolden } from '../golden/golden.ts';
import { exampleModel } from '../models.ts';
import { describeInChromium } from './chromium.ts';
import { expectGoldenIds, goldenJsonl } from './goldens.ts';
import { GlinthawkPage } from './page.ts';
import { type Site, serveFolder } from './site.ts';

const TOKEN = 'a token of the tests';
/** Each golden several times, so that every node has sequences and the work lasts. */
const ROUNDS = 6;
const goldens = Array.from({ length: ROUNDS }, () => loadGolden(exampleModel)).flat();

interface Node {
  readonly url: string;
  readonly running: Running;
}

async function startNode(...flags: readonly string[]): Promise<Node> {
  const running = start(['attention', '--listen', '127.0.0.1:0', '--workers', '1', '--memory', '64MiB', ...flags], {
    env: { GLINTHAWK_TOKEN: TOKEN },
  });
  return { url: (await running.saw(/ws:\/\/127\.0\.0\.1:\d+/))[0], running };
}

/** Until the batch has written so much that every sequence is under way. */
async function isUnderWay(demo: GlinthawkPage): Promise<void> {
  const figures = demo.page.getByText(/requests done, [\d,]+ tokens$/);
  await expect
    .poll(
      async () => Number((/([\d,]+) tokens$/.exec((await figures.textContent()) ?? '')?.[1] ?? '0').replace(',', '')),
      {
        timeout: 60_000,
        message: 'tokens of the batch',
      },
    )
    .toBeGreaterThan(goldens.length * 4);
}

describeInChromium('a tab with two attention nodes', (rig) => {
  it('goes on when one is killed, and loses no token', async () => {
    const { page, origin, allow, mayLog } = await rig().visit();
    const nodes = await Promise.all([startNode('--origin', origin), startNode('--origin', origin)]);
    for (const { url } of nodes) allow(url);
    const demo = new GlinthawkPage(page);
    await demo.setTiers({ workers: 0, kv: 'f32', remotes: nodes.map(({ url }) => ({ url, token: TOKEN })) });
    await demo.loadExample();
    await demo.reaches(/attention at 2 remote nodes/);
    // The browser says so of each attempt to reach it again.
    mayLog(/WebSocket connection to/);
    await demo.runBatch(goldenJsonl(goldens));
    await isUnderWay(demo);
    nodes[0].running.child.kill('SIGKILL');
    await nodes[0].running.ended;
    expectGoldenIds(await demo.batchEnds(), goldens);
    await demo.notice(new RegExp(`${nodes[0].url}|lost`));
  });
});

/** A worker that waits in shared memory can't be told anything, so it gets its end with its script: at a wait for work. */
const DIES = `{
  const wait = Atomics.wait;
  let waits = 0;
  Atomics.wait = (...args) => {
    if (++waits > 200) throw new Error('dies for the test');
    return wait(...args);
  };
}
`;

/** The page as it is, but for the first attention worker that starts. */
function serveWithDyingWorker(folder: string): Promise<Site> {
  let isFirst = true;
  const rewrite = (script: string) => {
    if (!isFirst || !script.includes('Atomics.wait(') || !script.includes('.attend(')) return null;
    isFirst = false;
    return DIES + script;
  };
  return serveFolder(folder, { isolated: true, rewrite });
}

describeInChromium('an attention worker that dies', (rig) => {
  it('costs no token with shared memory, where it throws', async () => {
    const site = await serveWithDyingWorker(rig().folder);
    onTestFinished(() => site.close());
    const { page, mayLog } = await rig().visit({ url: site.origin, serviceWorkers: 'block' });
    mayLog(/dies for the test/);
    const demo = new GlinthawkPage(page);
    await demo.setTiers({ workers: 2, kv: 'f32' });
    await demo.loadExample();
    await demo.runBatch(goldenJsonl(goldens));
    expectGoldenIds(await demo.batchEnds(), goldens);
    await demo.notice(/worker 1.*dies for the test/s);
  });

  it('costs no token without shared memory, where it falls silent', async () => {
    const { page } = await rig().visit({ isolated: false });
    const demo = new GlinthawkPage(page);
    await demo.setTiers({ workers: 2, kv: 'f32' });
    await demo.loadExample();
    await demo.runBatch(goldenJsonl(goldens));
    await isUnderWay(demo);
    const names = await Promise.all(page.workers().map((worker) => worker.evaluate(() => self.name)));
    const worker = page.workers()[names.indexOf('glinthawk-worker-1')];
    expect(worker).toBeDefined();
    await worker?.evaluate(() => self.close());
    expectGoldenIds(await demo.batchEnds(), goldens);
    await demo.notice(/worker 1/);
  });
});
