/**
 * What the host writes for the kernels, as kernels/layout.h has it: a memory's Config, and a step's descriptor, entries and tasks
 * with the room for its rows. All of a step lies in one piece of staging.
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
import type { KernelRunner } from './kernel-runner.ts';
import type { LayerGroup } from './kv-blocks.ts';
import type { PageLayout } from './page-layout.ts';
import { mostTasks, planTasks, type Task, type TaskPlan } from './plan-tasks.ts';
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
const TASK_FIELDS = 12;

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

/** Tasks that run at the same time: a descriptor, at an offset from the start of staging. */
export interface StepPass {
  readonly descriptor: number;
  readonly tasksAt: number;
  readonly tasks: readonly Task[];
}

/** How a step runs on layers of one window: pass after pass. */
export interface WindowPlan {
  readonly plan: TaskPlan;
  readonly passes: readonly StepPass[];
}

/** Where a step's parts lie from the start of its staging, each on a cache line of its own. */
export interface StepLayout {
  readonly plans: readonly WindowPlan[];
  /** Of `plans`, by layer. */
  readonly planOfLayer: readonly number[];
  readonly entries: number;
  readonly counters: number;
  readonly qkv: number;
  readonly output: number;
  /** f32 [rows, heads], natural */
  readonly logSumExp: number;
  readonly partials: number;
  readonly bytes: number;
}

export type StepConfig = Pick<KernelConfig, 'geometry' | 'rowDtype' | 'layout'>;

/** @param partialBytes that the step may use at most, as for planTasks */
export function layOutStep(
  config: StepConfig,
  entries: readonly KernelEntry[],
  workers: number,
  partialBytes?: number,
): StepLayout {
  const { geometry, rowDtype, layout } = config;
  const { kvHeads, groupSize } = geometry;
  let bytes = 0;
  const take = (size: number) => {
    const at = bytes;
    bytes += roundUp(size);
    return at;
  };
  const windows = [...new Set(geometry.windows)];
  const shape = { kvHeads, groupSize, paddedDim: layout.paddedDim };
  const plans = windows.map((window): WindowPlan => {
    const work = entries.map(({ position, count, stored, visit }) => {
      const seen = Math.min(position + count, stored);
      const from = window === 0 ? 0 : Math.min(seen, Math.max(0, position + 1 - window));
      return { rows: count, from, seen, visit };
    });
    const plan = planTasks(work, shape, workers, partialBytes);
    const passes = [plan.append, plan.attend]
      .filter((tasks) => tasks.length > 0)
      .map((tasks) => ({ tasks, descriptor: take(4 * STEP_FIELDS), tasksAt: take(4 * TASK_FIELDS * tasks.length) }));
    return { plan, passes };
  });
  const rows = entries.reduce((sum, { count }) => sum + count, 0);
  // Layers run one after the other: plans share what they leave as they found it.
  const most = (of: (plan: TaskPlan) => number) => Math.max(...plans.map(({ plan }) => of(plan)));
  return {
    plans,
    planOfLayer: geometry.windows.map((window) => windows.indexOf(window)),
    entries: take(4 * ENTRY_FIELDS * entries.length),
    counters: take(4 * most(({ counters }) => counters)),
    qkv: take(rows * qkvRowBytes(geometry, rowDtype)),
    output: take(rows * outputRowBytes(geometry, rowDtype)),
    logSumExp: take(4 * rows * groupSize * kvHeads),
    partials: take(most((plan) => plan.partialBytes)),
    bytes,
  };
}

/** What a row takes in staging at most, when it is an entry of its own; a step takes up to stepSlackBytes more. */
export function stagingRowBytes(geometry: AttentionGeometry, rowDtype: RowDtype): number {
  const heads = geometry.groupSize * geometry.kvHeads;
  return 4 * ENTRY_FIELDS + qkvRowBytes(geometry, rowDtype) + outputRowBytes(geometry, rowDtype) + 4 * heads;
}

/** Without partials. Counters are fewer than tasks; each part is rounded up to a cache line. */
export function stepSlackBytes({ windows }: AttentionGeometry, workers: number): number {
  const ofPlan = 2 * roundUp(4 * STEP_FIELDS) + 4 * (TASK_FIELDS + 1) * mostTasks(workers) + 2 * roundUp(1);
  return new Set(windows).size * ofPlan + 6 * roundUp(1);
}

/** A step's room in staging; where there is none for partials, a step that goes without. @throws CapacityError */
export function stageStep(
  heap: WasmHeap,
  config: StepConfig,
  entries: readonly KernelEntry[],
  workers: number,
): { readonly address: number; readonly layout: StepLayout } {
  const layout = layOutStep(config, entries, workers);
  try {
    return { address: heap.stage(layout.bytes), layout };
  } catch (error) {
    const smaller = layOutStep(config, entries, workers, 0);
    if (smaller.bytes === layout.bytes) throw error;
    return { address: heap.stage(smaller.bytes), layout: smaller };
  }
}

/** @param address of staging of `layout.bytes` bytes */
export function writeStep(heap: WasmHeap, address: number, layout: StepLayout, entries: readonly KernelEntry[]): void {
  const { u32 } = heap;
  for (const { descriptor, tasksAt, tasks } of passesOf(layout)) {
    const [qkv, output] = [address + layout.qkv, address + layout.output];
    u32.set([qkv, output, 0, address + layout.entries, address + tasksAt], (address + descriptor) / 4);
    let at = (address + tasksAt) / 4;
    for (const task of tasks) {
      u32[at] = task.firstEntry;
      u32[at + 1] = task.endEntry;
      u32[at + 2] = task.firstHead;
      u32[at + 3] = task.endHead;
      u32[at + 4] = task.firstRow;
      u32[at + 5] = task.endRow;
      u32[at + 6] = Number(task.appended);
      u32[at + 7] = task.firstSplit;
      u32[at + 8] = task.endSplit;
      u32[at + 9] = task.parts > 1 ? address + layout.partials + task.partials : 0;
      u32[at + 10] = task.parts > 1 ? address + layout.counters + 4 * task.counter : 0;
      u32[at + 11] = task.parts;
      at += TASK_FIELDS;
    }
  }
  let firstRow = 0;
  let at = (address + layout.entries) / 4;
  for (const { tables, position, count, stored, visit } of entries) {
    u32.set([tables, position, count, stored, visit ? ENTRY_VISIT : 0, firstRow], at);
    firstRow += count;
    at += ENTRY_FIELDS;
  }
  u32.fill(0, (address + layout.counters) / 4, (address + layout.qkv) / 4);
}

function passesOf({ plans }: StepLayout): readonly StepPass[] {
  return plans.flatMap(({ passes }) => passes);
}

/** How a step runs on a layer. */
export function passesOfLayer({ plans, planOfLayer }: StepLayout, layer: number): readonly StepPass[] {
  return plans[planOfLayer[layer] ?? 0]?.passes ?? [];
}

/** Runs a layer of a step that was written. */
export async function attendStep(
  runner: KernelRunner,
  memory: number,
  address: number,
  layout: StepLayout,
  layer: number,
): Promise<void> {
  for (const { descriptor, tasks } of passesOfLayer(layout, layer)) {
    await runner.attend(memory, address + descriptor, layer, tasks.length);
  }
}

/** Whether the next attend writes log-sum-exps; at first it doesn't. Not while one is under way. */
export function wantLogSumExp(heap: WasmHeap, address: number, layout: StepLayout, wanted: boolean): void {
  for (const { descriptor } of passesOf(layout)) {
    heap.u32[(address + descriptor) / 4 + LOG_SUM_EXP_FIELD] = wanted ? address + layout.logSumExp : 0;
  }
}

/** Tells the kernels to leave the entry's KV alone and to write zeros for its rows. */
export function markEntryDead(heap: WasmHeap, address: number, layout: StepLayout, entry: number): void {
  const at = (address + layout.entries) / 4 + ENTRY_FIELDS * entry + FLAGS_FIELD;
  heap.u32[at] = (heap.u32[at] ?? 0) | ENTRY_DEAD;
}
