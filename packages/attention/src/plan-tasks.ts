/**
 * Cuts a step's rows in one memory into tasks of about equal work, a few a worker, so that one long sequence and 256 short ones
 * keep all workers busy: between entries; a long one by KV heads; and where a head alone is too much, a chunk by rows, and a few
 * rows by splits of their context. How a step is cut never changes its result: contexts are always folded split by split.
 */

/** Of a context; SPLIT_TOKENS in kernels/layout.h. */
export const SPLIT_TOKENS = 2048;
/** Where a task isn't about some splits or rows. */
export const ALL = 0xffff_ffff;
/** Workers end at about the same time when each takes a few tasks. */
const TASKS_PER_WORKER = 4;
/** About 50 µs of a core: finer tasks cost more in waking workers than they gain. */
const MIN_TASK_COST = 4096;
/** Query rows that read a context together; MAX_ROWS in kernels/tile.h. */
const WALK_ROWS = 64;
/** Unfinished softmaxes of one step in one memory. */
export const PARTIAL_BYTES = 2 << 20;
/** Floats beside o in a row of partials: maximum, sum, and two that keep it aligned. */
const PARTIAL_EXTRA_FLOATS = 4;

/** Task in kernels/layout.h. Ranges are from first to below end. */
export interface Task {
  readonly firstEntry: number;
  readonly endEntry: number;
  readonly firstHead: number;
  readonly endHead: number;
  /** Query rows of an entry, token by token; none of a task that only appends k and v. */
  readonly firstRow: number;
  readonly endRow: number;
  /** Others append k and v before. */
  readonly appended: boolean;
  readonly firstSplit: number;
  /** ALL, or the softmaxes of the splits are left in partials, to be folded by the last of `parts` tasks. */
  readonly endSplit: number;
  /** Bytes from the step's first partial to this entry's and head's. */
  readonly partials: number;
  /** Index of their counter. */
  readonly counter: number;
  readonly parts: number;
}

export interface TaskPlan {
  /** To be done before the others begin: k and v of chunks that are cut by rows. Most steps have none. */
  readonly append: readonly Task[];
  readonly attend: readonly Task[];
  readonly counters: number;
  readonly partialBytes: number;
}

/** Of an entry: so many rows, which see tokens from `from` to below `seen`. */
export interface EntryWork {
  readonly rows: number;
  readonly from: number;
  readonly seen: number;
  /** They only look. */
  readonly visit: boolean;
}

export interface HeadShape {
  readonly kvHeads: number;
  readonly groupSize: number;
  /** headDim padded to a multiple of 8. */
  readonly paddedDim: number;
}

/** A plan has no more tasks than this, whatever its entries. */
export function mostTasks(workers: number): number {
  return 6 * TASKS_PER_WORKER * workers + 1;
}

/** Of one KV head. Reading KV from memory takes as long as four rows' arithmetic. */
function headCost({ rows, from, seen }: EntryWork, groupSize: number): number {
  return (rows * groupSize + 4) * (seen - from + 16);
}

/** @param partialBytes that may be used; without any, a few rows are cut by heads only */
export function planTasks(
  entries: readonly EntryWork[],
  shape: HeadShape,
  workers: number,
  partialBytes = PARTIAL_BYTES,
): TaskPlan {
  const { kvHeads, groupSize, paddedDim } = shape;
  const append: Task[] = [];
  const attend: Task[] = [];
  let counters = 0;
  let usedBytes = 0;
  const newTask = (task: Partial<Task> & Pick<Task, 'firstEntry' | 'endEntry'>): Task => ({
    firstHead: 0,
    endHead: kvHeads,
    firstRow: 0,
    endRow: ALL,
    appended: false,
    firstSplit: 0,
    endSplit: ALL,
    partials: 0,
    counter: 0,
    parts: 1,
    ...task,
  });
  const total = entries.reduce((sum, entry) => sum + kvHeads * headCost(entry, groupSize), 0);
  // One worker runs all in one go.
  const target =
    workers === 1 ? Number.POSITIVE_INFINITY : Math.max(total / (TASKS_PER_WORKER * workers), MIN_TASK_COST);

  /** An entry that is too much for one task. */
  const cut = (index: number, entry: EntryWork): void => {
    const one = { firstEntry: index, endEntry: index + 1 };
    const ofHead = headCost(entry, groupSize);
    const rows = entry.rows * groupSize;
    const [firstSplit, endSplit] = [Math.floor(entry.from / SPLIT_TOKENS), Math.ceil(entry.seen / SPLIT_TOKENS)];
    const splits = endSplit - firstSplit;
    const pieces = Math.ceil(ofHead / target);
    const bytes = 4 * splits * rows * (paddedDim + PARTIAL_EXTRA_FLOATS);
    if (pieces > 1 && rows > WALK_ROWS) {
      const walks = Math.ceil(rows / WALK_ROWS);
      for (const { first, end } of ranges(kvHeads, kvHeads)) {
        for (const range of ranges(walks, pieces)) {
          const part = { firstRow: WALK_ROWS * range.first, endRow: WALK_ROWS * range.end, appended: !entry.visit };
          attend.push(newTask({ ...one, firstHead: first, endHead: end, ...part }));
        }
      }
      if (entry.visit) return;
      for (const { first, end } of ranges(kvHeads, Math.floor((kvHeads * ofHead) / target))) {
        append.push(newTask({ ...one, firstHead: first, endHead: end, endRow: 0 }));
      }
    } else if (pieces > 1 && splits > 1 && usedBytes + kvHeads * bytes <= partialBytes) {
      for (const { first, end } of ranges(kvHeads, kvHeads)) {
        const parts = Math.min(pieces, splits);
        for (const range of ranges(splits, pieces)) {
          const of = { firstSplit: firstSplit + range.first, endSplit: firstSplit + range.end };
          const part = { ...of, partials: usedBytes, counter: counters, parts };
          attend.push(newTask({ ...one, firstHead: first, endHead: end, ...part }));
        }
        usedBytes += bytes;
        counters++;
      }
    } else {
      for (const { first, end } of ranges(kvHeads, Math.ceil((kvHeads * ofHead) / target))) {
        attend.push(newTask({ ...one, firstHead: first, endHead: end }));
      }
    }
  };

  let from = 0; // whole entries from here on wait to become a task
  let cost = 0;
  const flush = (to: number) => {
    if (to > from) attend.push(newTask({ firstEntry: from, endEntry: to }));
    from = to;
    cost = 0;
  };
  for (const [index, entry] of entries.entries()) {
    const own = kvHeads * headCost(entry, groupSize);
    if (cost + own > target) flush(index);
    cost += own;
    if (own <= target) continue;
    cut(index, entry);
    from = index + 1;
    cost = 0;
  }
  flush(entries.length);
  return { append, attend, counters, partialBytes: usedBytes };
}

/** 0 to `count` - 1 in up to `pieces` even ranges, at least one. */
function ranges(count: number, pieces: number): readonly { readonly first: number; readonly end: number }[] {
  const most = Math.min(count, Math.max(1, pieces));
  return Array.from({ length: most }, (_, i) => ({
    first: Math.floor((i * count) / most),
    end: Math.floor(((i + 1) * count) / most),
  }));
}
