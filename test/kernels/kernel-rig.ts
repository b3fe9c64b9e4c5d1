/**
 * The kernels on a memory of their own, driven by hand: slots whose blocks lie in random order, and steps whose tasks run in any
 * order on any of several instances, as the workers of a pool would.
 */
import type { Int8Kernel, KernelBuild } from '@glinthawk/attention';
import { type AttentionGeometry, type KvDtype, outputRowBytes, qkvRowBytes, type RowDtype } from '@glinthawk/core';
import { instantiateKernel, type Kernel, loadKernel } from '../../packages/attention/src/kernel.ts';
import { layerGroups } from '../../packages/attention/src/kv-blocks.ts';
import { planShards, type ShardPlan } from '../../packages/attention/src/plan-shards.ts';
import { createShards, type Shard } from '../../packages/attention/src/shard.ts';
import {
  type KernelEntry,
  layOutStep,
  markEntryDead,
  passesOfLayer,
  type StepLayout,
  wantLogSumExp,
  writeStep,
} from '../../packages/attention/src/step-layout.ts';
import { randomSource } from './attention-cases.ts';

export interface RigOptions {
  readonly geometry: AttentionGeometry;
  readonly kvDtype: KvDtype;
  readonly build: KernelBuild;
  readonly int8: Int8Kernel;
  readonly rowDtype?: RowDtype;
  /** The build for pools, on shared memory. */
  readonly shared?: boolean;
  readonly blockTokens?: number;
  readonly seed?: number;
}

export interface RigStep {
  readonly entries: readonly KernelEntry[];
  /** [rows, (groupSize + 2) kvHeads headDim], as rows.ts says */
  readonly qkv: Uint8Array;
  readonly layer?: number;
  /** Cuts the step as for so many workers, and runs its tasks in random order on all instances; 1 runs it whole on the first. */
  readonly workers?: number;
  /** Indices of entries. */
  readonly dead?: readonly number[];
}

export interface RigResult {
  readonly output: Uint8Array<ArrayBuffer>;
  readonly logSumExp: Float32Array;
  readonly layout: StepLayout;
}

const INSTANCES = 3;

export class KernelRig {
  readonly #options: RigOptions;
  readonly #plan: ShardPlan;
  readonly #shard: Shard;
  readonly #kernels: readonly Kernel[];
  readonly #random: () => number;

  static async create(options: RigOptions): Promise<KernelRig> {
    const { build, shared = false } = options;
    return new KernelRig(options, await loadKernel(build, shared));
  }

  private constructor(options: RigOptions, module: WebAssembly.Module) {
    const { geometry, kvDtype, rowDtype = 'f32', int8, shared = false, blockTokens = 32, seed = 1 } = options;
    this.#options = options;
    this.#plan = planShards(geometry, { kvDtype, workers: INSTANCES, memoryBytes: 64 << 20, blockTokens });
    const [shard] = createShards(this.#plan, { geometry, kvDtype, rowDtype, int8, shared });
    if (shard === undefined) throw new RangeError('a plan has a shard');
    this.#shard = shard;
    // Without atomics one instance writes the module's data at each start: before there is anything else.
    const instances = shared ? INSTANCES : 1;
    this.#kernels = Array.from({ length: instances }, (_, i) => instantiateKernel(module, shard.memory, i));
    this.#random = randomSource(seed);
  }

  /** Tables of a slot whose blocks are there for the longest context. */
  slot(): number {
    const { tableBlocks } = this.#plan;
    const { heap, pool } = this.#shard;
    const groups = layerGroups(this.#options.geometry).length;
    const tables = heap.allocate(4 * groups * tableBlocks);
    const blocks = Array.from({ length: groups * tableBlocks }, () => heap.block(pool.takeLone(new Set())));
    heap.u32.set(this.#shuffled(blocks), tables / 4);
    return tables;
  }

  run({ entries, qkv, layer = 0, workers = 1, dead = [] }: RigStep): RigResult {
    const { geometry, rowDtype = 'f32' } = this.#options;
    const { heap, config } = this.#shard;
    const layout = layOutStep({ geometry, rowDtype, layout: this.#plan.layout }, entries, workers);
    const step = heap.stage(layout.bytes);
    heap.u8.fill(0xff, step, step + layout.bytes); // NaN where nothing is written
    writeStep(heap, step, layout, entries);
    for (const entry of dead) markEntryDead(heap, step, layout, entry);
    wantLogSumExp(heap, step, layout, true);
    const rows = qkv.length / qkvRowBytes(geometry, rowDtype);
    heap.u8.set(qkv, step + layout.qkv);
    for (const { descriptor, tasks } of passesOfLayer(layout, layer)) {
      for (const task of this.#shuffled([...tasks.keys()])) {
        const kernel = this.#kernels[Math.floor(this.#random() * this.#kernels.length)] as Kernel;
        kernel.attend(config, step + descriptor, layer, task, task + 1);
      }
    }
    const at = step + layout.output;
    const output = heap.u8.slice(at, at + rows * outputRowBytes(geometry, rowDtype));
    const sums = (step + layout.logSumExp) / 4;
    const logSumExp = heap.f32.slice(sums, sums + rows * geometry.kvHeads * geometry.groupSize);
    heap.unstage(step, layout.bytes);
    return { output, logSumExp, layout };
  }

  #shuffled<T>(items: readonly T[]): T[] {
    const all = [...items];
    for (let i = all.length - 1; i > 0; i--) {
      const j = Math.floor(this.#random() * (i + 1));
      [all[i], all[j]] = [all[j] as T, all[i] as T];
    }
    return all;
  }
}

export function bytesOf(floats: Float32Array): Uint8Array {
  return new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);
}
