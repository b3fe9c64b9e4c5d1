/** The page computes nothing itself: while its workers generate, no task of its main thread takes longer than 100 ms. */
import { expect, it } from 'vitest';
import { describeInChromium, type Visit } from './chromium.ts';
import { GlinthawkPage } from './page.ts';

const MAX_TASK_MS = 100;

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

/** Tasks of the page's main thread over the limit, as Chromium's trace has them, and how many tasks there were. */
function longTasks(trace: Buffer, origin: string): { readonly tasks: number; readonly long: readonly string[] } {
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
  const long = tasks.filter(({ dur = 0 }) => dur > MAX_TASK_MS * 1000);
  return {
    tasks: tasks.length,
    long: long.map(({ dur = 0, tdur = 0 }) => `${dur / 1000} ms (${tdur / 1000} on a core)`),
  };
}

/** Runs `work` and holds the main thread to the limit, by the page's own observer and by a trace. */
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
  await work();
  const { tasks, long } = longTasks(await browser.stopTracing(), origin);
  expect(tasks, 'tasks of the main thread that the trace knows').toBeGreaterThan(100);
  expect(long, 'tasks over 100 ms in the trace').toEqual([]);
  expect(await observed.evaluate((seen) => seen.filter((ms) => ms > 100)), 'long tasks that the page saw').toEqual([]);
}

// A core that another program takes away in the middle of a task makes it long; twice in a row it is the page.
describeInChromium('the main thread', (rig) => {
  it('stays free while a prompt is answered', { retry: 1 }, async () => {
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
});
