/** The page computes nothing itself: while its workers generate, no task of its main thread takes longer than 100 ms. */
import { expect, it } from 'vitest';
import { describeInChromium, type Visit } from './chromium.ts';
import { GlinthawkPage } from './page.ts';
import { watchOthers } from './processor-share.ts';

const MAX_TASK_MS = 100;
/** With so much of the processor taken by other programs, wall-clock time tells of them. */
const MAX_OTHERS = 0.1;

interface TraceEvent {
  readonly name: string;
  readonly ph: string;
  readonly pid: number;
  readonly tid: number;
  /** Microseconds; `tdur` is the thread's own time on a core. */
  readonly dur?: number;
  readonly tdur?: number;
  readonly args: { readonly name?: string; readonly data?: { readonly frames?: readonly TraceFrame[] } };
}
interface TraceFrame {
  readonly processId?: number;
  readonly url: string;
}

interface MainThread {
  readonly tasks: number;
  /** The ones over the limit, by the clock and by the thread's own time on a core. */
  readonly long: readonly string[];
  readonly longOnCore: readonly string[];
}

/** The page's main thread as Chromium's trace has it. */
function mainThread(trace: Buffer, origin: string): MainThread {
  const { traceEvents } = JSON.parse(trace.toString('utf8')) as { readonly traceEvents: readonly TraceEvent[] };
  const frames = traceEvents.flatMap(({ name, args }) =>
    name === 'TracingStartedInBrowser' ? (args.data?.frames ?? []) : [],
  );
  const pids = new Set(frames.filter(({ url }) => url.startsWith(origin)).map(({ processId }) => processId));
  const mainThreads = new Set(
    traceEvents
      .filter(({ name, pid, args }) => name === 'thread_name' && args.name === 'CrRendererMain' && pids.has(pid))
      .map(({ pid, tid }) => `${pid} ${tid}`),
  );
  const tasks = traceEvents.filter(
    ({ name, ph, pid, tid }) => name === 'RunTask' && ph === 'X' && mainThreads.has(`${pid} ${tid}`),
  );
  const over = (field: 'dur' | 'tdur') =>
    tasks
      .filter((task) => (task[field] ?? 0) > MAX_TASK_MS * 1000)
      .map(({ dur = 0, tdur = 0 }) => `${dur / 1000} ms (${tdur / 1000} on a core)`);
  return { tasks: tasks.length, long: over('dur'), longOnCore: over('tdur') };
}

/**
 * Runs `work` and holds the main thread to the limit: by its own time on a core always, by the clock (the page's own observer and a
 * trace) where other programs left it the cores.
 */
async function expectSmooth({ page, origin }: Visit, work: () => Promise<void>): Promise<void> {
  const observed = await page.evaluateHandle(() => {
    const seen: number[] = [];
    new PerformanceObserver((list) => {
      seen.push(...list.getEntries().map(({ duration }) => duration));
    }).observe({ type: 'longtask' });
    return seen;
  });
  const browser = page.context().browser();
  if (browser === null) throw new Error('the page has no browser');
  await browser.startTracing(page, {
    categories: ['__metadata', 'devtools.timeline', 'disabled-by-default-devtools.timeline'],
  });
  const others = watchOthers();
  await work();
  const share = others();
  const { tasks, long, longOnCore } = mainThread(await browser.stopTracing(), origin);
  const seen = await observed.evaluate((seen) => seen.filter((ms) => ms > 100));
  expect(tasks, 'tasks of the main thread that the trace knows').toBeGreaterThan(100);
  expect(longOnCore, 'tasks over 100 ms on a core').toEqual([]);
  if (share > MAX_OTHERS) {
    console.log(`not held to the clock: other programs took ${Math.round(100 * share)} % of the processor`);
    return;
  }
  expect(long, 'tasks over 100 ms in the trace').toEqual([]);
  expect(seen, 'long tasks that the page saw').toEqual([]);
}

describeInChromium('the main thread', (rig) => {
  it('stays free while a prompt is answered', async () => {
    const visit = await rig().visit();
    const demo = new GlinthawkPage(visit.page);
    await demo.loadExample();
    await demo.setSampling({ temperature: 0, maxTokens: 200 });
    await expectSmooth(visit, async () => {
      await demo.ask('Once upon a time');
      await demo.writes('Once upon a time');
      await demo.answered();
    });
  });

  it('stays free while 48 stories are written at once, and shown', async () => {
    const visit = await rig().visit();
    const demo = new GlinthawkPage(visit.page);
    await demo.loadExample();
    const write = demo.button('Write 48 stories at once');
    await write.scrollIntoViewIfNeeded();
    await expectSmooth(visit, async () => {
      await write.click();
      await demo.reaches(/^Generating/);
      await demo.reaches(/^Ready/);
    });
  });
});
