/** Shares out memory: how large a block is, and how many each shard has. */
import { type AttentionGeometry, CapacityError, InputError, type KvDtype } from '@glinthawk/core';
import { platform } from '#platform';
import { defaultBlockTokens, KV_DTYPES, type PageLayout, pageLayout, validateGeometry } from './page-layout.ts';
import { HEAP_BASE, MAX_MEMORY_BYTES, STAGING_BYTES } from './wasm-heap.ts';

const MAX_SHARD_KV_BYTES = MAX_MEMORY_BYTES - HEAP_BASE - STAGING_BYTES;

export interface ShardPlan {
  readonly layout: PageLayout;
  /** Of each shard. */
  readonly blocks: number;
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
  const shardBytes = Math.min(memoryBytes / workers, MAX_SHARD_KV_BYTES);
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
  return { layout, blocks };
}
