/** Shares out memory: how large a block is, and how many each shard has. */
import { type AttentionGeometry, CapacityError, InputError, type KvDtype } from '@glinthawk/core';
import { platform } from '#platform';
import { defaultBlockTokens, KV_DTYPES, type PageLayout, pageLayout, validateGeometry } from './page-layout.ts';
import { stagingRowBytes } from './shard.ts';
import { HEAP_BASE, type HeapBytes, MAX_MEMORY_BYTES, TABLE_BYTES } from './wasm-heap.ts';

/** What staging has room for in each shard: 32 micro-batches of 256 rows in flight, all of them in one shard. */
const STAGED_ROWS = 32 * 256;
/** Small rows cost little, and then steps may be long; of large ones fewer are in flight. */
const MIN_STAGING_BYTES = 64 << 20;
const MAX_STAGING_BYTES = 1024 << 20;

export interface ShardPlan {
  readonly layout: PageLayout;
  /** Of each shard. */
  readonly blocks: number;
  readonly heapBytes: HeapBytes;
}

/** @throws InputError, UnsupportedError, CapacityError */
export function planShards(
  geometry: AttentionGeometry,
  options: {
    readonly kvDtype: KvDtype;
    readonly workers: number;
    readonly memoryBytes?: number;
    readonly blockTokens?: number;
  },
): ShardPlan {
  validateGeometry(geometry);
  const { kvDtype, workers, memoryBytes = platform.defaultMemoryBytes() } = options;
  if (!KV_DTYPES.includes(kvDtype)) {
    throw new InputError('KV_DTYPE', `a KV cache is ${KV_DTYPES.join(', ')}, found ${String(kvDtype)}`);
  }
  if (!Number.isInteger(workers) || workers < 1) {
    throw new InputError('ATTENTION_WORKERS', `workers must be a whole number of at least 1, found ${workers}`);
  }
  if (!(memoryBytes > 0)) {
    throw new InputError('ATTENTION_MEMORY', `memoryBytes must be positive, found ${memoryBytes}`);
  }
  const wantedBytes = STAGED_ROWS * stagingRowBytes(geometry);
  const staging = Math.min(Math.max(wantedBytes, MIN_STAGING_BYTES), MAX_STAGING_BYTES);
  const shardBytes = Math.min(memoryBytes / workers, MAX_MEMORY_BYTES - HEAP_BASE - staging - TABLE_BYTES);
  const layout = pageLayout(
    geometry,
    kvDtype,
    options.blockTokens ?? defaultBlockTokens(geometry, kvDtype, shardBytes),
  );
  const blocks = Math.floor(shardBytes / layout.blockBytes);
  if (blocks < 1) {
    throw new CapacityError(
      'KV_CAPACITY',
      `a KV block of ${layout.blockTokens} tokens takes ${layout.blockBytes} bytes; each of ${workers} workers has ${Math.floor(shardBytes)}`,
      { hint: 'give the attention tier more memory, fewer workers, or a smaller KV dtype' },
    );
  }
  return { layout, blocks, heapBytes: { staging, kept: blocks * layout.blockBytes + TABLE_BYTES } };
}
