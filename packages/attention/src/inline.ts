/** Attention in the calling thread: one shard, for tests, and where workers can't share memory. */
import type { AttentionGeometry, KvDtype } from '@glinthawk/core';
import type { AttentionBackend } from './backend.ts';
import { attentionKernelInfo, type Int8Kernel, instantiateKernel, int8Kernel, loadKernel } from './kernel.ts';
import { LocalAttention } from './local-attention.ts';
import { planShards } from './plan-shards.ts';
import type { KernelBuild } from './platform.ts';
import { Shard, type ShardRunner, writeConfig } from './shard.ts';
import { createMemory, WasmHeap } from './wasm-heap.ts';

export interface InlineAttentionOptions {
  readonly kvDtype: KvDtype;
  /** KV at most; memory grows as it is used. Default: a quarter of the machine's, and less than 4 GiB. */
  readonly memoryBytes?: number;
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
): Promise<AttentionBackend> {
  const { kvDtype, name = 'inline', build = attentionKernelInfo().build, int8 = int8Kernel(build) } = options;
  const { layout, blocks, heapBytes } = planShards(geometry, { ...options, workers: 1 });
  const module = await loadKernel(build, false);
  const memory = createMemory(heapBytes, false);
  const heap = new WasmHeap(memory, heapBytes);
  const kernel = instantiateKernel(module, memory);
  const config = writeConfig(heap, geometry, kvDtype, layout, int8);
  let busyMs = 0;
  const runner: ShardRunner = {
    async attend(step, layer, qkv, output, totals) {
      const started = performance.now();
      kernel.attend(config, step, layer, qkv, output, totals);
      busyMs += performance.now() - started;
    },
    get busyMs() {
      return busyMs;
    },
    async close() {},
  };
  const shards = [new Shard(0, blocks, layout.blockBytes, heap, runner)];
  return new LocalAttention({ name, geometry, kvDtype, layout, heapBytes, shards, lost: new Promise(() => {}) });
}
