/**
 * One shard: a WebAssembly memory with its blocks, and what runs kernels on it. Blocks are taken from memory when a slot
 * first grows into them and given back whole. Which slot has which blocks is LocalAttention's business.
 */
import { type AttentionGeometry, CapacityError, type KvDtype, outputRowFloats, qkvRowFloats } from '@glinthawk/core';
import { attentionKernelInfo, type Int8Kernel } from './kernel.ts';
import type { PageLayout } from './page-layout.ts';
import { roundUp, type WasmHeap } from './wasm-heap.ts';

/** Runs attend commands one after the other, in order. */
export interface ShardRunner {
  /** Addresses in the shard's memory, `totals` 0 for none. Rejects with NodeLostError when the shard is gone. */
  attend(step: number, layer: number, qkv: number, output: number, totals: number): Promise<void>;
  readonly busyMs: number;
  close(error: Error): Promise<void>;
}

const CONFIG_FIELDS = 11;
/** Fields of Step before its entries, and of an Entry, in kernels/layout.h. */
const STEP_FIELDS = 4;
const ENTRY_FIELDS = 4;

/** The enum in kernels/layout.h. int8 pages are laid out by the kernel that reads them. */
const KERNEL_DTYPES: Readonly<Record<Exclude<KvDtype, 'int8'> | Int8Kernel, number>> = {
  f32: 0,
  f16: 1,
  bf16: 2,
  pairs: 3,
  dot: 4,
};

/**
 * Writes the kernels' Config (kernels/layout.h) and returns its address.
 * @param int8 'dot' only with the relaxed build
 */
export function writeConfig(
  heap: WasmHeap,
  geometry: AttentionGeometry,
  kvDtype: KvDtype,
  layout: PageLayout,
  int8: Int8Kernel = attentionKernelInfo().int8,
): number {
  const config = heap.allocate(4 * (CONFIG_FIELDS + geometry.layers));
  const at = config / 4;
  heap.u32.set(
    [
      KERNEL_DTYPES[kvDtype === 'int8' ? int8 : kvDtype],
      geometry.kvHeads,
      geometry.groupSize,
      geometry.headDim,
      layout.paddedDim,
      layout.blockTokens,
      layout.pageBytes,
      layout.valueOffset,
      layout.scaleOffset,
      0, // scale, below
      config + 4 * CONFIG_FIELDS,
      ...geometry.windows,
    ],
    at,
  );
  heap.f32[at + 9] = geometry.softmaxScale * Math.LOG2E; // scores are in base 2
  return config;
}

/** Where a step's parts lie from the start of its staging, each on a cache line of its own. */
export interface StagingLayout {
  readonly qkv: number; // the descriptor is before it, at 0
  readonly output: number;
  readonly totals: number;
  readonly bytes: number;
}

export function stagingLayout(geometry: AttentionGeometry, entries: number, rows: number): StagingLayout {
  const qkv = roundUp(4 * (STEP_FIELDS + ENTRY_FIELDS * entries));
  const output = qkv + roundUp(4 * rows * qkvRowFloats(geometry));
  const totals = output + roundUp(4 * rows * outputRowFloats(geometry));
  const bytes = totals + roundUp(8 * rows * geometry.groupSize * geometry.kvHeads);
  return { qkv, output, totals, bytes };
}

/** What a row takes in staging at most, when it is an entry of its own; a step takes up to STAGING_SLACK_BYTES more. */
export function stagingRowBytes(geometry: AttentionGeometry): number {
  const heads = geometry.groupSize * geometry.kvHeads;
  return 4 * (ENTRY_FIELDS + qkvRowFloats(geometry) + outputRowFloats(geometry)) + 8 * heads;
}

export const STAGING_SLACK_BYTES = 512;

export function writeStep(
  heap: WasmHeap,
  step: number,
  entries: readonly { readonly blockTable: number; readonly position: number; readonly count: number }[],
): void {
  const { u32 } = heap;
  let at = step / 4;
  u32[at] = entries.length;
  at += STEP_FIELDS;
  for (const { blockTable, position, count } of entries) {
    u32[at] = blockTable;
    u32[at + 1] = position;
    u32[at + 2] = count;
    u32[at + 3] = 0; // dead
    at += ENTRY_FIELDS;
  }
}

/** Tells the kernels to leave the entry's KV alone and to write zeros for its rows. */
export function markEntryDead(heap: WasmHeap, step: number, entry: number): void {
  heap.u32[step / 4 + STEP_FIELDS + ENTRY_FIELDS * entry + 3] = 1;
}

export class Shard {
  readonly index: number;
  readonly blocks: number;
  readonly heap: WasmHeap;
  readonly runner: ShardRunner;
  readonly #blockBytes: number;
  #usedBlocks = 0;

  constructor(index: number, blocks: number, blockBytes: number, heap: WasmHeap, runner: ShardRunner) {
    this.index = index;
    this.blocks = blocks;
    this.heap = heap;
    this.runner = runner;
    this.#blockBytes = blockBytes;
  }

  get usedBlocks(): number {
    return this.#usedBlocks;
  }

  /** @throws CapacityError */
  takeBlock(): number {
    if (this.#usedBlocks === this.blocks) {
      throw new CapacityError('KV_CAPACITY', `shard ${this.index} has ${this.blocks} KV blocks and all are in use`, {
        hint: 'free a slot, or give the attention tier more memory',
      });
    }
    const block = this.heap.allocate(this.#blockBytes);
    this.#usedBlocks++;
    return block;
  }

  giveBack(block: number): void {
    this.heap.release(block, this.#blockBytes);
    this.#usedBlocks--;
  }
}
