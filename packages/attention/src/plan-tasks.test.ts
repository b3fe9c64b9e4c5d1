/** How a step's rows are cut into tasks. */
import { describe, expect, it } from 'vitest';
import { ALL, type EntryWork, mostTasks, PARTIAL_BYTES, planTasks, SPLIT_TOKENS, type TaskPlan } from './plan-tasks.ts';

const shape = { kvHeads: 8, groupSize: 4, paddedDim: 128 };
const chunk = (rows: number, seen: number, from = 0): EntryWork => ({ rows, from, seen, visit: false });
const decode = (seen: number): EntryWork => chunk(1, seen);

/** Every row and split of every entry and head is in one task, and what is appended before is. */
function requireWhole(
  plan: TaskPlan,
  entries: readonly EntryWork[],
  one: { kvHeads: number; groupSize: number },
): void {
  for (const [index, { rows, from, seen, visit }] of entries.entries()) {
    const base = Math.floor(from / SPLIT_TOKENS);
    const splits = Math.ceil(seen / SPLIT_TOKENS) - base;
    const all = rows * one.groupSize;
    for (let head = 0; head < one.kvHeads; head++) {
      const ofHead = (task: TaskPlan['attend'][number]) =>
        task.firstEntry <= index && index < task.endEntry && task.firstHead <= head && head < task.endHead;
      const tasks = plan.attend.filter(ofHead);
      const appends = plan.append.filter(ofHead);
      expect(new Set(tasks.map(({ appended }) => appended)).size).toBe(1);
      expect(appends.length).toBe(Number(tasks[0]?.appended));
      expect(appends.every(({ firstRow, endRow }) => firstRow === 0 && endRow === 0)).toBe(true);
      expect(visit && appends.length > 0).toBe(false);
      let covered = 0; // rows x splits
      for (const { firstEntry, endEntry, firstHead, endHead, firstRow, endRow, ...task } of tasks) {
        const isAll = task.endSplit === ALL;
        covered += (Math.min(endRow, all) - firstRow) * (isAll ? splits : task.endSplit - task.firstSplit);
        if (isAll) {
          expect(task.parts).toBe(1);
        } else {
          expect([endEntry - firstEntry, endHead - firstHead, firstRow, endRow]).toEqual([1, 1, 0, ALL]);
          expect(task.firstSplit).toBeGreaterThanOrEqual(base);
          expect(tasks).toHaveLength(task.parts);
          expect(tasks.every(({ counter, partials }) => counter === task.counter && partials === task.partials)).toBe(
            true,
          );
        }
      }
      const ranges = tasks.map(({ firstRow, firstSplit }) => `${firstRow} ${firstSplit}`);
      expect(new Set(ranges).size).toBe(ranges.length);
      expect(covered).toBe(all * splits);
    }
  }
}

describe('a step is cut', () => {
  it('not at all for one worker, nor when there is little to do', () => {
    const whole = { firstEntry: 0, endEntry: 3, firstHead: 0, endHead: 8, firstRow: 0, endRow: ALL, endSplit: ALL };
    const long = [1, 2, 3].map((n) => chunk(200, 9000 * n));
    expect(planTasks(long, shape, 1)).toMatchObject({ append: [], attend: [whole] });
    const short = planTasks([1, 2, 3].map(decode), shape, 8);
    expect(short).toMatchObject({ append: [], attend: [whole], counters: 0, partialBytes: 0 });
    expect(planTasks([], shape, 4)).toMatchObject({ append: [], attend: [] });
  });

  it('between entries when there are many', () => {
    const entries = Array.from({ length: 256 }, () => decode(700));
    const plan = planTasks(entries, shape, 4);
    expect(plan).toMatchObject({ append: [], counters: 0, partialBytes: 0 });
    expect(plan.attend.length).toBeGreaterThanOrEqual(16);
    expect(plan.attend.every(({ firstHead, endHead }) => firstHead === 0 && endHead === 8)).toBe(true);
    requireWhole(plan, entries, shape);
  });

  it('by heads when one sequence has enough of them', () => {
    const { append, attend, counters } = planTasks([decode(30_000)], shape, 2);
    const eight = Array.from({ length: 8 }, (_, head) => [head, head + 1]);
    expect(attend.map(({ firstHead, endHead }) => [firstHead, endHead])).toEqual(eight);
    expect({ append, counters }).toEqual({ append: [], counters: 0 });
  });

  it('by splits when it has not, and only by heads when there is no room for partials', () => {
    const entries = [decode(30_000)];
    const plan = planTasks(entries, shape, 16);
    expect(plan.attend.length).toBeGreaterThanOrEqual(4 * 16);
    expect(plan).toMatchObject({ append: [], counters: 8, partialBytes: 4 * 8 * 15 * 4 * 132 });
    requireWhole(plan, entries, shape);
    const without = planTasks(entries, shape, 16, 0);
    expect(without).toMatchObject({ append: [], counters: 0, partialBytes: 0 });
    expect(without.attend).toHaveLength(8);
  });

  it('of a windowed layer, by the splits that are seen', () => {
    const entries = [chunk(1, 30_001, 20_001)];
    const plan = planTasks(entries, { ...shape, kvHeads: 1 }, 16);
    expect(plan.attend.length).toBeGreaterThan(3);
    expect(Math.min(...plan.attend.map(({ firstSplit }) => firstSplit))).toBe(9);
    expect(Math.max(...plan.attend.map(({ endSplit }) => endSplit))).toBe(15);
    requireWhole(plan, entries, { ...shape, kvHeads: 1 });
    // Nothing to cut where little is seen of much.
    expect(planTasks([chunk(1, 30_001, 29_900)], shape, 16).attend.length).toBeLessThan(4);
  });

  it('by rows when a chunk is long: they are appended first, by heads', () => {
    const entries = [decode(500), chunk(512, 30_000), decode(700)];
    const plan = planTasks(entries, shape, 16);
    expect(plan).toMatchObject({ counters: 0, partialBytes: 0 });
    expect(plan.append.map(({ firstEntry, firstHead, endHead }) => [firstEntry, firstHead, endHead])).toEqual(
      Array.from({ length: 8 }, (_, head) => [1, head, head + 1]),
    );
    expect(plan.attend.length).toBeGreaterThanOrEqual(4 * 16);
    requireWhole(plan, entries, shape);
    const visit = [{ ...chunk(512, 30_000), visit: true }];
    expect(planTasks(visit, shape, 16).append).toEqual([]);
    requireWhole(planTasks(visit, shape, 16), visit, shape);
  });

  it('whole, in few tasks of bounded partials, and about evenly, whatever there is', () => {
    let state = 12345;
    const random = (below: number) => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return Math.floor((state / 2 ** 32) * below);
    };
    for (let round = 0; round < 60; round++) {
      const workers = 1 + random(40);
      const one = { kvHeads: 1 + random(12), groupSize: 1 + random(8), paddedDim: 8 * (1 + random(16)) };
      const entries = Array.from({ length: 1 + random(30) }, () => {
        const seen = 1 + random(random(3) === 0 ? 40_000 : 3000);
        const from = random(3) === 0 ? random(seen) : 0;
        return { ...chunk(random(4) === 0 ? 1 + random(256) : 1, seen, from), visit: random(5) === 0 };
      });
      const plan = planTasks(entries, one, workers);
      requireWhole(plan, entries, one);
      expect(plan.append.length + plan.attend.length).toBeLessThanOrEqual(mostTasks(workers));
      expect(plan.counters).toBeLessThanOrEqual(plan.attend.length);
      expect(plan.partialBytes).toBeLessThanOrEqual(PARTIAL_BYTES);
      if (workers === 1) continue;
      // Several entries or heads are no more than a worker's share.
      const cost = ({ rows, from, seen }: EntryWork) => (rows * one.groupSize + 4) * (seen - from + 16);
      const total = entries.reduce((sum, entry) => sum + one.kvHeads * cost(entry), 0);
      for (const task of plan.attend) {
        const heads = task.endHead - task.firstHead;
        if (heads === 1 || task.appended) continue;
        const own = entries.slice(task.firstEntry, task.endEntry);
        const work = own.reduce((sum, entry) => sum + heads * cost(entry), 0);
        expect(work).toBeLessThanOrEqual(Math.max(total / (2 * workers), 2 * 4096));
      }
    }
  });
});

it('partials of each entry and head have room of their own', () => {
  const plan = planTasks([20_000, 30_000, 25_000].map(decode), { ...shape, kvHeads: 2 }, 16);
  const starts = [...new Set(plan.attend.filter(({ parts }) => parts > 1).map(({ partials }) => partials))];
  expect(starts).toHaveLength(plan.counters);
  const splits = [10, 15, 13].flatMap((count) => [count, count]);
  let at = 0;
  for (const [i, start] of starts.entries()) {
    expect(start).toBe(at);
    at += 4 * (splits[i] as number) * 4 * 132;
  }
  expect(plan.partialBytes).toBe(at);
});
