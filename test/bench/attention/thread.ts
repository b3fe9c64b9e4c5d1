/**
 * One thread of a measurement: a memory of its own with its share of the KV, the product's kernels, and the microkernels that
 * find the ceilings, as a worker of the product's pool has them. Waits for commands and says when each began and ended.
 */
import { existsSync, openSync, readSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { attentionKernelInfo, layerGroups } from '@glinthawk/attention';
import { outputRowFloats, qkvRowFloats } from '@glinthawk/core';
import { instantiateKernel } from '../../../packages/attention/src/kernel.ts';
import { copyBlock } from '../../../packages/attention/src/page-layout.ts';
import { planShards } from '../../../packages/attention/src/plan-shards.ts';
import {
  type KernelEntry,
  passesOfLayer,
  type StepLayout,
  stageStep,
  writeConfig,
  writeStep,
} from '../../../packages/attention/src/step-layout.ts';
import { createMemory, WasmHeap } from '../../../packages/attention/src/wasm-heap.ts';
import { randomSource } from '../../kernels/attention-cases.ts';
import { placeRuns } from './placement.ts';
import {
  ARGUMENT,
  ARRIVED,
  COMMAND,
  DONE,
  OPERATION,
  type Operation,
  operations,
  type ThreadData,
  type ThreadInfo,
  TIMES,
  TIMES_EACH,
} from './thread-protocol.ts';
import { geometryOf, type Work } from './work.ts';

const KEPT_BYTES = 3 * 2 ** 30;
const FILL_TOKENS = 128;

interface Peaks {
  /** `bytes` is a multiple of 512. */
  read_two_streams(address: number, bytes: number): number;
  peak_fma(rounds: number): number;
  peak_dot_i16(rounds: number): number;
  /** Of relaxed SIMD. */
  peak_dot_i8?(rounds: number): number;
}

function start(thread: ThreadData): { readonly info: ThreadInfo; readonly run: (what: Operation, n: number) => void } {
  const { work, share, data, kvDtype, layers } = thread;
  const mine: Work = { ...work, kvHeads: share.kvHeads, sequences: share.sequences };
  const geometry = geometryOf(mine, layers);
  const {
    layout,
    heap: heapPlan,
    tableBlocks,
  } = planShards(geometry, {
    kvDtype,
    workers: 1,
    memoryBytes: KEPT_BYTES,
    ...(thread.blockTokens === undefined ? {} : { blockTokens: thread.blockTokens }),
  });
  const memory = createMemory(heapPlan, true);
  const heap = new WasmHeap(memory, heapPlan);
  const kernel = instantiateKernel(thread.module, memory);
  const peaks = new WebAssembly.Instance(thread.peaks, { env: { memory } }).exports as unknown as Peaks;
  const kernels = { kvDtype, rowDtype: 'f32', layout, tableBlocks, int8: attentionKernelInfo().int8 } as const;
  const config = writeConfig(heap, { ...kernels, geometry, groups: layerGroups(geometry) });

  // Frames lie in random order, so that pages lie anywhere in memory; a sequence's blocks fill run after run.
  const { frameBlocks, pageTokens, blockTokens } = layout;
  const runsEach = Math.ceil(work.context / pageTokens);
  const blocksEach = Math.ceil(work.context / blockTokens);
  const runs = placeRuns(share.sequences * runsEach, frameBlocks, thread.placement, randomSource(thread.index + 77));
  const kvBytes = runs.length * layout.frameBytes;
  const kvStart = heap.block(0);
  heap.block(runs.length * frameBlocks - 1); // memory grows but once
  const tables = Array.from({ length: share.sequences }, (_, s) => {
    const table = heap.allocate(4 * tableBlocks);
    const ids = runs.slice(s * runsEach, (s + 1) * runsEach).flat();
    const blocks = ids.slice(0, blocksEach).map((id) => heap.block(id));
    heap.u32.set(blocks, table / 4);
    return { table, blocks };
  });

  const { headDim, group, chunk, context } = work;
  const rowFloats = qkvRowFloats(geometry);
  const kvFloats = share.kvHeads * headDim;
  const queryFloats = kvFloats * group;
  /** A row of this thread's heads: q (if it is one that attends), k, v. */
  const writeRow = (to: number, token: number, queryRow: number | null) => {
    if (queryRow !== null) {
      const from = (queryRow * work.kvHeads + share.firstHead) * group * headDim;
      heap.f32.set(data.q.subarray(from, from + queryFloats), to);
    }
    const from = ((token % data.period) * work.kvHeads + share.firstHead) * headDim;
    heap.f32.set(data.k.subarray(from, from + kvFloats), to + queryFloats);
    heap.f32.set(data.v.subarray(from, from + kvFloats), to + queryFloats + kvFloats);
  };

  const stage = (entries: readonly KernelEntry[]): { readonly step: number; readonly staging: StepLayout } => {
    const { address: step, layout: staging } = stageStep(heap, { geometry, rowDtype: 'f32', layout }, entries, 1);
    writeStep(heap, step, staging, entries);
    return { step, staging };
  };
  const attend = (withConfig: number, layer: number, { step, staging }: ReturnType<typeof stage>): void => {
    for (const { descriptor, tasks } of passesOfLayer(staging, layer)) {
      kernel.attend(withConfig, step + descriptor, layer, 0, tasks.length);
    }
  };

  // The first period of the first sequence is appended by the kernels, with a window of 1 to leave out the attention; all other
  // blocks are copies of its blocks.
  const narrow = geometryOf(mine, layers, 1);
  const fillConfig = writeConfig(heap, { ...kernels, geometry: narrow, groups: layerGroups(narrow) });
  for (let position = 0; position < data.period; position += FILL_TOKENS) {
    const count = Math.min(FILL_TOKENS, data.period - position);
    const entry = { tables: tables[0]?.table ?? 0, position, count, stored: position + count, visit: false };
    const staged = stage([entry]);
    const { step, staging } = staged;
    for (let i = 0; i < count; i++) writeRow((step + staging.qkv) / 4 + i * rowFloats, position + i, null);
    for (let layer = 0; layer < layers; layer++) attend(fillConfig, layer, staged);
    heap.unstage(step, staging.bytes);
  }
  const period = tables[0]?.blocks.slice(0, Math.ceil(data.period / blockTokens)) ?? [];
  for (const { blocks } of tables) {
    for (const [i, block] of blocks.entries()) {
      const from = period[i % period.length] as number;
      if (block !== from) copyBlock(heap.u8, layout, from, block);
    }
  }

  const position = context - chunk;
  const { pieceSequences } = thread;
  const rows = pieceSequences * chunk;
  const steps = Array.from({ length: share.sequences / pieceSequences }, (_, piece) => {
    const first = piece * pieceSequences;
    const members = tables.slice(first, first + pieceSequences);
    const staged = stage(
      members.map(({ table }) => ({ tables: table, position, count: chunk, stored: context, visit: false })),
    );
    const qkv = (staged.step + staged.staging.qkv) / 4;
    for (let row = 0; row < rows; row++) {
      const queryRow = (share.firstSequence + first) * chunk + row;
      writeRow(qkv + row * rowFloats, position + (row % chunk), queryRow);
    }
    return staged;
  });

  let piece = 0; // of all layers
  let readAt = 0;
  const run = (what: Operation, n: number): void => {
    switch (what) {
      case 'attend':
        for (let i = 0; i < n; i++) {
          attend(config, Math.floor(piece / steps.length), steps[piece % steps.length] as (typeof steps)[number]);
          piece = (piece + 1) % (steps.length * layers);
        }
        return;
      case 'read':
      case 'readTwo':
        // n bytes of the very memory that attend reads, going on where the last read ended.
        for (let left = n; left > 0; ) {
          const length = Math.min(left, kvBytes - readAt) & ~511;
          if (length > 0) (what === 'read' ? kernel.read_memory : peaks.read_two_streams)(kvStart + readAt, length);
          readAt = length === 0 || readAt + length >= kvBytes ? 0 : readAt + length;
          left -= Math.max(length, 512);
        }
        return;
      case 'fma':
        peaks.peak_fma(n);
        return;
      case 'dotI16':
        peaks.peak_dot_i16(n);
        return;
      case 'dotI8':
        peaks.peak_dot_i8?.(n);
        return;
      case 'output': {
        const narrow = outputRowFloats(geometry);
        for (let row = 0; row < share.sequences * chunk; row++) {
          const { step, staging } = steps[Math.floor(row / rows)] as (typeof steps)[number];
          const from = (step + staging.output) / 4 + (row % rows) * narrow;
          const to = ((share.firstSequence * chunk + row) * work.kvHeads + share.firstHead) * group * headDim;
          thread.output.set(heap.f32.subarray(from, from + narrow), to);
        }
        return;
      }
      default:
        what satisfies never;
    }
  };
  return { info: { layout, kvBytes, dtypeCode: heap.u32[config / 4] as number }, run };
}

/**
 * How long this thread was kept from running by others so far; Linux counts it at every change (Documentation/scheduler/
 * sched-stats.rst), where CPU times are only counted by the tick. 0 elsewhere.
 */
const schedule = existsSync('/proc/thread-self/schedstat') ? openSync('/proc/thread-self/schedstat', 'r') : null;
const scheduleText = Buffer.alloc(128);
function waitedMs(): number {
  if (schedule === null) return 0;
  const length = readSync(schedule, scheduleText, 0, scheduleText.length, 0);
  return Number(scheduleText.toString('latin1', 0, length).split(' ')[1]) / 1e6;
}

const thread: ThreadData = workerData;
const control = new Int32Array(thread.control);
const times = new Float64Array(thread.control);
const { info, run } = start(thread);
parentPort?.postMessage(info);
for (let command = 0; ; command++) {
  while (Atomics.load(control, COMMAND) === command) Atomics.wait(control, COMMAND, command);
  // All begin together: waking takes longer for some than for others.
  Atomics.add(control, ARRIVED, 1);
  while (Atomics.load(control, ARRIVED) < thread.threads * (command + 1));
  const waitedBefore = waitedMs();
  const begun = process.hrtime.bigint();
  run(operations[control[OPERATION] as number] as Operation, control[ARGUMENT] as number);
  const ended = process.hrtime.bigint();
  const at = TIMES + TIMES_EACH * thread.index;
  times[at] = Number(begun) / 1e6;
  times[at + 1] = Number(ended) / 1e6;
  times[at + 2] = waitedMs() - waitedBefore;
  Atomics.add(control, DONE, 1);
  Atomics.notify(control, DONE);
}
