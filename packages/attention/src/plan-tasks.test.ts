/** How a step's rows are cut into tasks. */
import { describe, expect, it } from 'vitest';
import {
  ALL_SPLITS,
  type EntryWork,
  mostTasks,
  PARTIAL_BYTES,
  planTasks,
  SPLIT_TOKENS,
  type Task,
  type TaskPlan,
} from './plan-tasks.ts';

const shape = { kvHeads: 8, groupSize: 4, paddedDim: 128 };
const decode = (seen: number): EntryWork => ({ rows: 1, seen });

/** What a task has of an entry's work. */
function shareOf(task: Task, entry: EntryWork, kvHeads: number): number {
  const heads = (task.endHead - task.firstHead) / kvHeads;
  if (task.endSplit === ALL_SPLITS) return heads;
  const from = task.firstSplit * SPLIT_TOKENS;
  return (heads * (Math.min(entry.seen, task.endSplit * SPLIT_TOKENS) - from)) / entry.seen;
}

/** Every entry, head and split is in one task. */
function requireWhole(plan: TaskPlan, entries: readonly EntryWork[], kvHeads: number): void {
  for (const [index, entry] of entries.entries()) {
    const splits = Math.ceil(entry.seen / SPLIT_TOKENS);
    const times = new Uint8Array(kvHeads * splits);
    const tasks = plan.tasks.filter(({ firstEntry, endEntry }) => firstEntry <= index && index < endEntry);
    for (const { firstEntry, endEntry, firstHead, endHead, firstSplit, endSplit, counter, parts } of tasks) {
      for (let head = firstHead; head < endHead; head++) {
        const to = endSplit === ALL_SPLITS ? splits : endSplit;
        for (let split = firstSplit; split < to; split++)
          times[head * splits + split] = (times[head * splits + split] ?? 0) + 1;
      }
      if (endSplit === ALL_SPLITS) {
        expect(parts).toBe(1);
        continue;
      }
      expect([endEntry - firstEntry, endHead - firstHead]).toEqual([1, 1]);
      expect(plan.tasks.filter((task) => task.parts > 1 && task.counter === counter)).toHaveLength(parts);
      expect(counter).toBeLessThan(plan.counters);
    }
    expect(times.every((count) => count === 1)).toBe(true);
  }
}

describe('a step is cut', () => {
  it('not at all for one worker, nor when there is little to do', () => {
    const whole = { firstEntry: 0, endEntry: 3, firstHead: 0, endHead: 8, endSplit: ALL_SPLITS };
    expect(
      planTasks(
        [1, 2, 3].map((n) => decode(9000 * n)),
        shape,
        1,
      ).tasks,
    ).toMatchObject([whole]);
    const short = planTasks([1, 2, 3].map(decode), shape, 8);
    expect(short.tasks).toMatchObject([whole]);
    expect(short).toMatchObject({ counters: 0, partialBytes: 0 });
    expect(planTasks([], shape, 4).tasks).toEqual([]);
  });

  it('between entries when there are many', () => {
    const entries = Array.from({ length: 256 }, () => decode(700));
    const { tasks, counters } = planTasks(entries, shape, 4);
    expect(counters).toBe(0);
    expect(tasks.length).toBeGreaterThanOrEqual(16);
    expect(tasks.every(({ firstHead, endHead }) => firstHead === 0 && endHead === 8)).toBe(true);
    requireWhole({ tasks, counters, partialBytes: 0 }, entries, 8);
  });

  it('by heads when one sequence has enough of them', () => {
    const { tasks, counters } = planTasks([decode(30_000)], shape, 2);
    expect(tasks.map(({ firstHead, endHead }) => [firstHead, endHead])).toEqual(
      Array.from({ length: 8 }, (_, head) => [head, head + 1]),
    );
    expect(counters).toBe(0);
  });

  it('by splits when it has not', () => {
    const entries = [decode(30_000)];
    const plan = planTasks(entries, shape, 16);
    expect(plan.tasks.length).toBeGreaterThanOrEqual(4 * 16);
    expect(plan.counters).toBe(8);
    expect(plan.partialBytes).toBe(4 * 8 * 15 * 4 * 132);
    requireWhole(plan, entries, 8);
  });

  it('by heads when the partials of a long chunk would not fit', () => {
    const plan = planTasks([{ rows: 512, seen: 30_000 }], shape, 16);
    expect(plan).toMatchObject({ counters: 0, partialBytes: 0 });
    expect(plan.tasks).toHaveLength(8);
  });

  it('whole, in few tasks of bounded partials, and about evenly, whatever there is', () => {
    let state = 12345;
    const random = (below: number) => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return Math.floor((state / 2 ** 32) * below);
    };
    for (let round = 0; round < 200; round++) {
      const workers = 1 + random(40);
      const kvHeads = 1 + random(12);
      const one = { kvHeads, groupSize: 1 + random(8), paddedDim: 8 * (1 + random(16)) };
      const entries = Array.from({ length: 1 + random(60) }, () => ({
        rows: random(4) === 0 ? 1 + random(256) : 1,
        seen: 1 + random(random(3) === 0 ? 40_000 : 3000),
      }));
      const plan = planTasks(entries, one, workers);
      requireWhole(plan, entries, kvHeads);
      expect(plan.tasks.length).toBeLessThanOrEqual(mostTasks(workers));
      expect(plan.counters).toBeLessThanOrEqual(plan.tasks.length);
      expect(plan.partialBytes).toBeLessThanOrEqual(PARTIAL_BYTES);
      if (workers === 1) continue;
      // No task is much more than a worker's share, unless it is one head without room for partials, or about a split.
      const cost = ({ rows, seen }: EntryWork) => kvHeads * (rows * one.groupSize + 4) * (seen + 16);
      const total = entries.reduce((sum, entry) => sum + cost(entry), 0);
      for (const task of plan.tasks) {
        const own = entries.slice(task.firstEntry, task.endEntry);
        const work = own.reduce((sum, entry) => sum + cost(entry) * shareOf(task, entry, kvHeads), 0);
        const single = task.endEntry - task.firstEntry === 1 && task.endHead - task.firstHead === 1;
        if (!single) expect(work).toBeLessThanOrEqual(Math.max(total / (2 * workers), 4096 * 2));
      }
    }
  });
});

it('partials of each entry and head have room of their own', () => {
  const plan = planTasks([decode(20_000), decode(30_000), decode(25_000)], { ...shape, kvHeads: 2 }, 16);
  const starts = [...new Set(plan.tasks.filter(({ parts }) => parts > 1).map(({ partials }) => partials))];
  expect(starts).toHaveLength(plan.counters);
  const splits = [10, 15, 13].flatMap((count) => [count, count]);
  let at = 0;
  for (const [i, start] of starts.entries()) {
    expect(start).toBe(at);
    at += 4 * (splits[i] as number) * 4 * 132;
  }
  expect(plan.partialBytes).toBe(at);
});
