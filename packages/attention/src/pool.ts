/**
 * Attention in this process on a pool of workers, all of them on every memory of KV: how many memories there are depends on KV
 * alone. q, k and v are copied once, into a memory, and the output once, out of it.
 */
import { type AttentionGeometry, type KvDtype, type Logger, type NodeLostError, silentLogger } from '@glinthawk/core';
import { platform } from '#platform';
import type { AttentionSource, StagedAttention } from './backend.ts';
import { createInlineAttention, type InlineAttentionOptions } from './inline.ts';
import { attentionKernelInfo, int8Kernel, loadKernel } from './kernel.ts';
import { LocalAttention } from './local-attention.ts';
import { planShards } from './plan-shards.ts';
import type { Platform } from './platform.ts';
import { createShards } from './shard.ts';
import { startWorkers } from './worker-pool.ts';

export interface LocalAttentionOptions extends InlineAttentionOptions {
  /** Default: one a core. */
  readonly workers?: number;
  readonly logger?: Logger;
}

/**
 * A pool of workers; where memory can't be shared with workers, kernels run in this thread, which the logger is told.
 * @throws InputError, UnsupportedError, CapacityError, DeviceError
 */
export function createLocalAttention(
  geometry: AttentionGeometry,
  options: LocalAttentionOptions,
): Promise<StagedAttention> {
  return createPool(geometry, options, platform);
}

/** createLocalAttention on a platform that a test may have changed. */
export async function createPool(
  geometry: AttentionGeometry,
  options: LocalAttentionOptions,
  platform: Platform,
): Promise<StagedAttention> {
  const { kvDtype, rowDtype = 'f32', name = 'local', logger = silentLogger } = options;
  const { workers = platform.defaultWorkers() } = options;
  if (!platform.sharedMemory()) {
    logger.warn(
      'no memory can be shared with workers here (a page must be cross-origin isolated): attention runs in this thread',
    );
    return createInlineAttention(geometry, { ...options, name });
  }
  const plan = planShards(geometry, { ...options, workers });
  const { build = attentionKernelInfo().build } = options;
  const { int8 = int8Kernel(build) } = options;
  const module = await loadKernel(build, true);
  const shards = createShards(plan, { geometry, kvDtype, rowDtype, int8, shared: true });
  const { promise: lost, resolve: onLost } = Promise.withResolvers<NodeLostError>();
  const memories = shards.map(({ memory, config }) => ({ memory, config }));
  const runner = await startWorkers({ name, module, memories, workers, platform, onLost });
  return new LocalAttention({ name, geometry, kvDtype, rowDtype, plan, shards, runner, lost });
}

export type LocalAttentionSourceOptions = Omit<LocalAttentionOptions, 'kvDtype'>;

/** Workers of this process, made anew at each connect. */
export function localAttentionSource(options: LocalAttentionSourceOptions = {}): AttentionSource {
  return {
    name: options.name ?? 'local',
    connect: (geometry: AttentionGeometry, { kvDtype }: { readonly kvDtype: KvDtype }) =>
      createLocalAttention(geometry, { ...options, kvDtype }),
  };
}
