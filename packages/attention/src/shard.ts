/** One shard: a WebAssembly memory of KV blocks and block tables. Which slot has which blocks is SlotBlocks' business. */
import type { AttentionGeometry, KvDtype, RowDtype } from '@glinthawk/core';
import { BlockPool } from './block-pool.ts';
import type { Int8Kernel } from './kernel.ts';
import type { KernelMemory } from './kernel-runner.ts';
import { layerGroups } from './kv-blocks.ts';
import type { ShardPlan } from './plan-shards.ts';
import type { SlotBlocks } from './slot-blocks.ts';
import { writeConfig } from './step-layout.ts';
import { createMemory, WasmHeap } from './wasm-heap.ts';

export interface Shard extends KernelMemory {
  readonly index: number;
  readonly heap: WasmHeap;
  readonly pool: BlockPool;
  /** Who took a block last; it may have it no more. */
  readonly owners: SlotBlocks[];
}

/** The memories of a plan. @throws CapacityError */
export function createShards(
  plan: ShardPlan,
  options: {
    readonly geometry: AttentionGeometry;
    readonly kvDtype: KvDtype;
    readonly rowDtype: RowDtype;
    readonly int8: Int8Kernel;
    /** With workers. */
    readonly shared: boolean;
  },
): Shard[] {
  const { shared, ...kernels } = options;
  const groups = layerGroups(options.geometry);
  return Array.from({ length: plan.shards }, (_, index) => {
    const memory = createMemory(plan.heap, shared);
    const heap = new WasmHeap(memory, plan.heap);
    const { layout, tableBlocks } = plan;
    const config = writeConfig(heap, { ...kernels, layout, groups, tableBlocks });
    return { index, memory, config, heap, pool: new BlockPool(plan.heap.blocks, layout.frameBlocks), owners: [] };
  });
}
