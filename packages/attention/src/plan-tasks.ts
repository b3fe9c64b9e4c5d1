/**
 * Cuts a step's rows in one memory into tasks of about equal work, a few a worker, so that one long sequence and 256 short ones
 * keep all workers busy. How a step is cut never changes its result: contexts are always folded split by split (SPLIT_TOKENS).
 */

/** Of a context; SPLIT_TOKENS in kernels/layout.h. */
export const SPLIT_TOKENS = 2048;
/** All splits, where a task isn't about some. */
export const ALL_SPLITS = 0xffff_ffff;
/** Workers end at about the same time when each takes a few tasks. */
const TASKS_PER_WORKER = 4;
/** About 50 µs of a core: finer tasks cost more in waking workers than they gain. */
const MIN_TASK_COST = 4096;
/** Unfinished softmaxes of one step in one memory. */
export const PARTIAL_BYTES = 8 << 20;
/** Floats beside o in a row of partials: maximum, sum, and two that keep it aligned. */
const PARTIAL_EXTRA_FLOATS = 4;

/** Task in kernels/layout.h. Ranges are from first to below end. */
export interface Task {
  readonly firstEntry: number;
  readonly endEntry: number;
  readonly firstHead: number;
  readonly endHead: number;
  readonly firstSplit: number;
  /** ALL_SPLITS, or the softmaxes of the splits are left in partials, to be folded by the last of `parts` tasks. */
  readonly endSplit: number;
  /** Bytes from the step's first partial to this entry's and head's. */
  readonly partials: number;
  /** Index of their counter. */
  readonly counter: number;
  readonly parts: number;
}

export interface TaskPlan {
  readonly tasks: readonly Task[];
  readonly counters: number;
  readonly partialBytes: number;
}

/** Of an entry: so many rows, which see tokens below `seen`. */
export interface EntryWork {
  readonly rows: number;
  readonly seen: number;
}

export interface HeadShape {
  readonly kvHeads: number;
  readonly groupSize: number;
  /** headDim padded to a multiple of 8. */
  readonly paddedDim: number;
}

/** A step has no more tasks than this, whatever its entries. */
export function mostTasks(workers: number): number {
  return 5 * TASKS_PER_WORKER * workers + 1;
}

/** Of one KV head. Reading KV from memory takes as long as four rows' arithmetic. */
function headCost({ rows, seen }: EntryWork, groupSize: number): number {
  return (rows * groupSize + 4) * (seen + 16);
}

export function planTasks(entries: readonly EntryWork[], shape: HeadShape, workers: number): TaskPlan {
  const { kvHeads, groupSize, paddedDim } = shape;
  const tasks: Task[] = [];
  let counters = 0;
  let partialBytes = 0;
  const add = (task: Partial<Task> & Pick<Task, 'firstEntry' | 'endEntry'>) => {
    const all = {
      firstHead: 0,
      endHead: kvHeads,
      firstSplit: 0,
      endSplit: ALL_SPLITS,
      partials: 0,
      counter: 0,
      parts: 1,
    };
    tasks.push({ ...all, ...task });
  };
  const total = entries.reduce((sum, entry) => sum + kvHeads * headCost(entry, groupSize), 0);
  // One worker runs all in one go.
  const target =
    workers === 1 ? Number.POSITIVE_INFINITY : Math.max(total / (TASKS_PER_WORKER * workers), MIN_TASK_COST);

  let from = 0; // whole entries from here on wait to become a task
  let cost = 0;
  const flush = (to: number) => {
    if (to > from) add({ firstEntry: from, endEntry: to });
    from = to;
    cost = 0;
  };
  for (const [index, entry] of entries.entries()) {
    const ofHead = headCost(entry, groupSize);
    const ofEntry = kvHeads * ofHead;
    if (cost + ofEntry > target) flush(index);
    cost += ofEntry;
    if (ofEntry <= target) continue;
    // Too much for one task: cut by heads, and where a head alone is too much by splits.
    const one = { firstEntry: index, endEntry: index + 1 };
    const splits = Math.ceil(entry.seen / SPLIT_TOKENS);
    const pieces = Math.min(splits, Math.ceil(ofHead / target));
    const bytes = 4 * splits * entry.rows * groupSize * (paddedDim + PARTIAL_EXTRA_FLOATS);
    if (pieces > 1 && partialBytes + kvHeads * bytes <= PARTIAL_BYTES) {
      for (let head = 0; head < kvHeads; head++) {
        for (let piece = 0; piece < pieces; piece++) {
          const firstSplit = Math.floor((piece * splits) / pieces);
          const endSplit = Math.floor(((piece + 1) * splits) / pieces);
          const part = { partials: partialBytes, counter: counters, parts: pieces };
          add({ ...one, firstHead: head, endHead: head + 1, firstSplit, endSplit, ...part });
        }
        partialBytes += bytes;
        counters++;
      }
    } else {
      const count = Math.min(kvHeads, Math.ceil(ofEntry / target));
      for (let i = 0; i < count; i++) {
        const firstHead = Math.floor((i * kvHeads) / count);
        add({ ...one, firstHead, endHead: Math.floor(((i + 1) * kvHeads) / count) });
      }
    }
    from = index + 1;
    cost = 0;
  }
  flush(entries.length);
  return { tasks, counters, partialBytes };
}
