/** Attention in the calling thread: for tests, and where workers can't share memory. */
import type { AttentionGeometry, KvDtype, RowDtype } from '@glinthawk/core';
import type { StagedAttention } from './backend.ts';
import { createInlineRunner } from './inline-runner.ts';
import { attentionKernelInfo, type Int8Kernel, int8Kernel, loadKernel } from './kernel.ts';
import { LocalAttention } from './local-attention.ts';
import { planShards } from './plan-shards.ts';
import type { KernelBuild } from './platform.ts';
import { createShards } from './shard.ts';

export interface InlineAttentionOptions {
  readonly kvDtype: KvDtype;
  /** Of rows in staging, for who uses that: attend() itself takes and gives f32. Default: f32. */
  readonly rowDtype?: RowDtype;
  /** KV at most; memory grows as it is used. Default: a quarter of the machine's. */
  readonly memoryBytes?: number;
  /** Memories at least: more than KV needs, for tests. */
  readonly shards?: number;
  readonly blockTokens?: number;
  /** Default: the fastest that this machine runs. */
  readonly build?: KernelBuild;
  /** Default: what suits this machine. `dot` only where that is the default. */
  readonly int8?: Int8Kernel;
  readonly name?: string;
}

/** @throws InputError, UnsupportedError, CapacityError, DeviceError */
export async function createInlineAttention(
  geometry: AttentionGeometry,
  options: InlineAttentionOptions,
): Promise<StagedAttention> {
  const { kvDtype, rowDtype = 'f32', name = 'inline', build = attentionKernelInfo().build } = options;
  const { int8 = int8Kernel(build) } = options;
  const plan = planShards(geometry, { ...options, workers: 1 });
  const module = await loadKernel(build, false);
  const shards = createShards(plan, { geometry, kvDtype, rowDtype, int8, shared: false });
  const runner = createInlineRunner(module, shards);
  return new LocalAttention({ name, geometry, kvDtype, rowDtype, plan, shards, runner, lost: new Promise(() => {}) });
}
