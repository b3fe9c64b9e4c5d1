/**
 * Shares out memory: how large a block is, how many WASM memories there are, each below 4 GiB, and how many blocks each has. As
 * few memories as KV needs, all with as many blocks; how many workers there are has no part in it but for their scratch.
 */
import { type AttentionGeometry, CapacityError, InputError, type KvDtype, type RowDtype } from '@glinthawk/core';
import { platform } from '#platform';
import { heapBase } from './kernel.ts';
import { layerGroups } from './kv-blocks.ts';
import { slotTableBytes } from './kv-token-bytes.ts';
import { DEFAULT_BLOCK_TOKENS, KV_DTYPES, type PageLayout, pageLayout, validateGeometry } from './page-layout.ts';
import { stagingRowBytes } from './step-layout.ts';
import { type HeapPlan, mostBlocks } from './wasm-heap.ts';

/** What staging has room for in each memory: 32 micro-batches of 256 rows in flight, all of them in one. */
const STAGED_ROWS = 32 * 256;
/** Small rows cost little, and then steps may be long; of large ones fewer are in flight. */
const MIN_STAGING_BYTES = 64 << 20;
const MAX_STAGING_BYTES = 1024 << 20;
/** Slots whose tables there is room for in each memory, were each as long as the longest context. */
const TABLE_SLOTS = 8192;
const MIN_TABLE_BYTES = 16 << 20;
const MAX_TABLE_BYTES = 256 << 20;
/** More than the Config of any model takes. */
const CONFIG_BYTES = 1 << 20;

export interface ShardPlan {
  readonly layout: PageLayout;
  readonly shards: number;
  /** Of each shard. */
  readonly heap: HeapPlan;
  /** Entries of a slot's block table for one layer group. */
  readonly tableBlocks: number;
  /** Slots that one shard has tables for. */
  readonly maxSlots: number;
}

/** @throws InputError, UnsupportedError, CapacityError */
export function planShards(
  geometry: AttentionGeometry,
  options: {
    readonly kvDtype: KvDtype;
    readonly workers: number;
    readonly rowDtype?: RowDtype;
    /** For KV, in all memories together. */
    readonly memoryBytes?: number;
    readonly blockTokens?: number;
    /** At least so many memories. Default: as few as KV needs. */
    readonly shards?: number;
  },
): ShardPlan {
  validateGeometry(geometry);
  const { kvDtype, workers, rowDtype = 'f32', memoryBytes = platform.defaultMemoryBytes() } = options;
  const { shards: leastShards = 1 } = options;
  if (!KV_DTYPES.includes(kvDtype)) {
    throw new InputError('KV_DTYPE', `a KV cache is ${KV_DTYPES.join(', ')}, found ${String(kvDtype)}`);
  }
  if (!Number.isInteger(workers) || workers < 1) {
    throw new InputError('ATTENTION_WORKERS', `workers must be a whole number of at least 1, found ${workers}`);
  }
  if (!Number.isInteger(leastShards) || leastShards < 1) {
    throw new InputError('ATTENTION_SHARDS', `shards must be a whole number of at least 1, found ${leastShards}`);
  }
  if (!(memoryBytes > 0)) {
    throw new InputError('ATTENTION_MEMORY', `memoryBytes must be positive, found ${memoryBytes}`);
  }
  const layout = pageLayout(geometry, kvDtype, options.blockTokens ?? DEFAULT_BLOCK_TOKENS, memoryBytes / leastShards);
  const { blockBytes, blockTokens, frameBlocks, frameBytes } = layout;
  const tableBlocks = Math.ceil(geometry.maxContextTokens / blockTokens);
  const slotBytes = slotTableBytes(layerGroups(geometry).length, tableBlocks);
  const tables = clamp(TABLE_SLOTS * slotBytes, Math.max(MIN_TABLE_BYTES, slotBytes), MAX_TABLE_BYTES);
  const baseBytes = heapBase(workers);
  const keptBytes = CONFIG_BYTES + tables;
  const stagingBytes = clamp(STAGED_ROWS * stagingRowBytes(geometry, rowDtype), MIN_STAGING_BYTES, MAX_STAGING_BYTES);

  const room = mostBlocks({ baseBytes, keptBytes, stagingBytes, frameBlocks, frameBytes });
  const wanted = Math.floor(memoryBytes / blockBytes);
  if (room < 1) {
    throw new CapacityError(
      'KV_CAPACITY',
      `a WASM memory has no room for a KV block of ${blockBytes} bytes beside ${baseBytes + keptBytes + stagingBytes} of workers, tables and staging`,
      { hint: 'use fewer workers or fewer tokens a block' },
    );
  }
  const shards = Math.max(leastShards, Math.ceil(wanted / room));
  const blocks = Math.floor(wanted / shards / frameBlocks) * frameBlocks;
  if (blocks < 1) {
    throw new CapacityError(
      'KV_CAPACITY',
      `a KV block of ${blockTokens} tokens takes ${blockBytes} bytes; each of ${shards} memories has ${Math.floor(memoryBytes / shards)}`,
      { hint: 'give the attention tier more memory, fewer tokens a block, or a smaller KV dtype' },
    );
  }
  return {
    layout,
    shards,
    heap: { baseBytes, keptBytes, stagingBytes, blocks, frameBlocks, frameBytes },
    tableBlocks,
    maxSlots: Math.floor(tables / slotBytes),
  };
}

function clamp(value: number, least: number, most: number): number {
  return Math.max(least, Math.min(value, most));
}
