/**
 * What the host writes for the kernels, as kernels/layout.h has it: a memory's Config, and a step's descriptor, entries and tasks
 * with the room for its rows. All of a step lies in one piece of staging, whose address is that of its descriptor.
 */
import {
  type AttentionGeometry,
  type KvDtype,
  outputRowBytes,
  qkvRowBytes,
  ROW_DTYPES,
  type RowDtype,
} from '@glinthawk/core';
import type { Int8Kernel } from './kernel.ts';
import type { LayerGroup } from './kv-blocks.ts';
import type { PageLayout } from './page-layout.ts';
import { mostTasks, PARTIAL_BYTES, planTasks, type TaskPlan } from './plan-tasks.ts';
import { roundUp, type WasmHeap } from './wasm-heap.ts';

/** The enum in kernels/layout.h. int8 pages are laid out by the kernel that reads them. */
const KERNEL_DTYPES: Readonly<Record<Exclude<KvDtype, 'int8'> | Int8Kernel, number>> = {
  f32: 0,
  f16: 1,
  bf16: 2,
  pairs: 3,
  dot: 4,
};

/** Fields of the structs, all of 32 bits. */
const CONFIG_FIELDS = 18;
const STEP_FIELDS = 5;
const ENTRY_FIELDS = 6;
const TASK_FIELDS = 9;

const LOG_SUM_EXP_FIELD = 2; // of Step
const FLAGS_FIELD = 4; // of Entry
const ENTRY_DEAD = 1;
const ENTRY_VISIT = 2;

export interface KernelConfig {
  readonly geometry: AttentionGeometry;
  readonly kvDtype: KvDtype;
  /** Of q, k, v and o in staging. */
  readonly rowDtype: RowDtype;
  readonly layout: PageLayout;
  readonly groups: readonly LayerGroup[];
  /** Entries of a slot's block table for one group; it has one for each, one after the other. */
  readonly tableBlocks: number;
  /** `dot` only with the relaxed build. */
  readonly int8: Int8Kernel;
}

/** Writes Config and returns its address. */
export function writeConfig(heap: WasmHeap, config: KernelConfig): number {
  const { geometry, kvDtype, rowDtype, layout, groups, tableBlocks, int8 } = config;
  const { layers } = geometry;
  const address = heap.allocate(4 * (CONFIG_FIELDS + 3 * layers));
  const windows = address + 4 * CONFIG_FIELDS;
  const groupOfLayer = windows + 4 * layers;
  const placeOfLayer = groupOfLayer + 4 * layers;
  heap.u32.set(
    [
      KERNEL_DTYPES[kvDtype === 'int8' ? int8 : kvDtype],
      geometry.kvHeads,
      geometry.groupSize,
      geometry.headDim,
      layout.paddedDim,
      layout.blockTokens,
      layout.pageTokens,
      layout.pageBytes,
      layout.valueOffset,
      layout.scaleOffset,
      0, // scale, below
      ROW_DTYPES.indexOf(rowDtype),
      qkvRowBytes(geometry, rowDtype),
      outputRowBytes(geometry, rowDtype),
      tableBlocks,
      windows,
      groupOfLayer,
      placeOfLayer,
      ...geometry.windows,
    ],
    address / 4,
  );
  heap.f32[address / 4 + 10] = geometry.softmaxScale * Math.LOG2E; // scores are in base 2
  for (const [group, { layers: ofGroup }] of groups.entries()) {
    for (const [place, layer] of ofGroup.entries()) {
      heap.u32[groupOfLayer / 4 + layer] = group;
      heap.u32[placeOfLayer / 4 + layer] = place;
    }
  }
  return address;
}

/** A run of rows as the kernels see it. Rows lie in the order of entries. */
export interface KernelEntry {
  /** Address of the slot's block tables. u32 [groups][tableBlocks], addresses of blocks by position / blockTokens */
  readonly tables: number;
  readonly position: number;
  readonly count: number;
  /** Tokens that rows may see at most: position + count when they are appended, what the slot holds when they visit. */
  readonly stored: number;
  readonly visit: boolean;
}

/** Where a step's parts lie from the start of its staging, each on a cache line of its own. */
export interface StepLayout {
  readonly plan: TaskPlan;
  readonly entries: number; // the descriptor is before them, at 0
  readonly tasks: number;
  readonly counters: number;
  readonly qkv: number;
  readonly output: number;
  /** f32 [rows, heads], natural */
  readonly logSumExp: number;
  readonly partials: number;
  readonly bytes: number;
}

type StepConfig = Pick<KernelConfig, 'geometry' | 'rowDtype' | 'layout'>;

export function layOutStep(config: StepConfig, entries: readonly KernelEntry[], workers: number): StepLayout {
  const { geometry, rowDtype, layout } = config;
  const { kvHeads, groupSize } = geometry;
  const work = entries.map(({ position, count, stored }) => ({
    rows: count,
    seen: Math.min(position + count, stored),
  }));
  const plan = planTasks(work, { kvHeads, groupSize, paddedDim: layout.paddedDim }, workers);
  const rows = work.reduce((sum, entry) => sum + entry.rows, 0);
  let bytes = roundUp(4 * STEP_FIELDS);
  const take = (size: number) => {
    const at = bytes;
    bytes += roundUp(size);
    return at;
  };
  return {
    plan,
    entries: take(4 * ENTRY_FIELDS * entries.length),
    tasks: take(4 * TASK_FIELDS * plan.tasks.length),
    counters: take(4 * plan.counters),
    qkv: take(rows * qkvRowBytes(geometry, rowDtype)),
    output: take(rows * outputRowBytes(geometry, rowDtype)),
    logSumExp: take(4 * rows * groupSize * kvHeads),
    partials: take(plan.partialBytes),
    bytes,
  };
}

/** What a row takes in staging at most, when it is an entry of its own; a step takes up to stepSlackBytes more. */
export function stagingRowBytes(geometry: AttentionGeometry, rowDtype: RowDtype): number {
  const heads = geometry.groupSize * geometry.kvHeads;
  return 4 * ENTRY_FIELDS + qkvRowBytes(geometry, rowDtype) + outputRowBytes(geometry, rowDtype) + 4 * heads;
}

/** Counters are fewer than tasks; each part is rounded up to a cache line. */
export function stepSlackBytes(workers: number): number {
  return roundUp(4 * STEP_FIELDS) + 4 * (TASK_FIELDS + 1) * mostTasks(workers) + PARTIAL_BYTES + 8 * roundUp(1);
}

/** @param address of staging of `layout.bytes` bytes */
export function writeStep(heap: WasmHeap, address: number, layout: StepLayout, entries: readonly KernelEntry[]): void {
  const { u32 } = heap;
  const { plan } = layout;
  u32.set(
    [address + layout.qkv, address + layout.output, 0, address + layout.entries, address + layout.tasks],
    address / 4,
  );
  let firstRow = 0;
  let at = (address + layout.entries) / 4;
  for (const { tables, position, count, stored, visit } of entries) {
    u32.set([tables, position, count, stored, visit ? ENTRY_VISIT : 0, firstRow], at);
    firstRow += count;
    at += ENTRY_FIELDS;
  }
  at = (address + layout.tasks) / 4;
  for (const task of plan.tasks) {
    u32.set([task.firstEntry, task.endEntry, task.firstHead, task.endHead, task.firstSplit, task.endSplit], at);
    const cut = task.parts > 1;
    u32[at + 6] = cut ? address + layout.partials + task.partials : 0;
    u32[at + 7] = cut ? address + layout.counters + 4 * task.counter : 0;
    u32[at + 8] = task.parts;
    at += TASK_FIELDS;
  }
  u32.fill(0, (address + layout.counters) / 4, (address + layout.counters) / 4 + plan.counters);
}

/** Whether the next attend writes log-sum-exps; at first it doesn't. Not while one is under way. */
export function wantLogSumExp(heap: WasmHeap, address: number, layout: StepLayout, wanted: boolean): void {
  heap.u32[address / 4 + LOG_SUM_EXP_FIELD] = wanted ? address + layout.logSumExp : 0;
}

/** Tells the kernels to leave the entry's KV alone and to write zeros for its rows. */
export function markEntryDead(heap: WasmHeap, address: number, layout: StepLayout, entry: number): void {
  const at = (address + layout.entries) / 4 + ENTRY_FIELDS * entry + FLAGS_FIELD;
  heap.u32[at] = (heap.u32[at] ?? 0) | ENTRY_DEAD;
}
