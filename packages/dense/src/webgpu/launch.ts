/**
 * From kernels to recorded work. A LaunchSpec says what to run on which buffers; `LaunchTable` gives every spec of a batch its
 * slot in one params buffer and its bind group, once; afterwards a step only rewrites row counts and records dispatches.
 */

import { BUFFER_USAGE, type GpuMemory } from './gpu-memory.ts';
import { type Grid, type Kernel, paramsBytes, writeParams } from './kernel.ts';
import type { KernelVariant } from './kernels.ts';
import type { Pipelines } from './pipelines.ts';

/** Whose rows a launch works on: the step's, all its head rows, one (for `logits`), or those of the n-th chunk of head rows. */
export type RowScope = 'step' | 'head' | 'one' | number;

export interface LaunchSpec {
  readonly scope: RowScope;
  /** Ascending in `upToRows`; all with the same bindings and params. */
  readonly variants: readonly KernelVariant<{ readonly rows: number }>[];
  /** All but `rows`. */
  readonly params: Readonly<Record<string, number>>;
  /** Inputs, then outputs, as the kernel's bindings. */
  readonly buffers: readonly (GPUBuffer | GPUBufferBinding)[];
}

/** A spec for kernels whose grid depends on more than the rows: `shape` is what is added to them. */
export function launchSpec<Extra>(
  variants: readonly KernelVariant<Extra & { readonly rows: number }>[],
  shape: Extra,
  rest: Pick<LaunchSpec, 'scope' | 'params' | 'buffers'>,
): LaunchSpec {
  const bound = variants.map(({ upToRows, kernel }) => ({
    upToRows,
    kernel: { ...kernel, dispatch: ({ rows }: { rows: number }): Grid => kernel.dispatch({ ...shape, rows }) },
  }));
  return { ...rest, variants: bound };
}

/** The only variant of a kernel that has one. */
export function only<Shape>(kernel: Kernel<Shape>): readonly KernelVariant<Shape>[] {
  return [{ upToRows: Number.POSITIVE_INFINITY, kernel }];
}

interface LaunchChoice {
  readonly upToRows: number;
  readonly pipeline: GPUComputePipeline;
  dispatch(shape: { readonly rows: number }): Grid;
}

export interface Launch {
  readonly spec: LaunchSpec;
  readonly slot: number;
  readonly bindGroup: GPUBindGroup;
  /** The spec's variants that were compiled. */
  readonly choices: readonly LaunchChoice[];
}

/** WebGPU's default minUniformBufferOffsetAlignment, the largest that an adapter may have. */
const SLOT_BYTES = 256;

export class LaunchTable {
  readonly #device: GPUDevice;
  readonly #memory: GpuMemory;
  /** Specs with equal params share a slot: layers are alike, so there are few. */
  readonly #slots = new Map<string, { readonly index: number; readonly scope: RowScope }>();
  readonly #host: DataView;
  readonly #buffer: GPUBuffer;
  readonly #launches = new Map<LaunchSpec, Launch>();

  /** The pipelines of the specs must have been compiled, by `compileSpecs`. */
  constructor(device: GPUDevice, memory: GpuMemory, pipelines: Pipelines, specs: readonly LaunchSpec[]) {
    this.#device = device;
    this.#memory = memory;
    const indices = specs.map((spec) => this.#slotOf(spec));
    const bytes = this.#slots.size * SLOT_BYTES;
    this.#host = new DataView(new ArrayBuffer(bytes));
    this.#buffer = memory.create('params', bytes, BUFFER_USAGE.uniform | BUFFER_USAGE.copyDst);
    specs.forEach((spec, i) => {
      const slot = indices[i] as number;
      const kernel = firstKernel(spec);
      this.write({ spec, slot }, {});
      const buffers = [...spec.buffers, { buffer: this.#buffer, offset: slot * SLOT_BYTES, size: paramsBytes(kernel) }];
      const bindGroup = device.createBindGroup({
        label: kernel.name,
        layout: pipelines.layout(kernel),
        entries: buffers.map((item, binding) => ({ binding, resource: 'buffer' in item ? item : { buffer: item } })),
      });
      const choices = spec.variants.flatMap(({ upToRows, kernel: variant }): readonly LaunchChoice[] => {
        const pipeline = pipelines.get(variant);
        return pipeline ? [{ upToRows, pipeline, dispatch: variant.dispatch }] : [];
      });
      this.#launches.set(spec, { spec, slot, bindGroup, choices });
    });
  }

  #slotOf(spec: LaunchSpec): number {
    const key = JSON.stringify([spec.scope, firstKernel(spec).name, spec.params]);
    const known = this.#slots.get(key);
    if (known) return known.index;
    const index = this.#slots.size;
    this.#slots.set(key, { index, scope: spec.scope });
    return index;
  }

  launches(specs: readonly LaunchSpec[]): readonly Launch[] {
    return specs.map((spec) => {
      const launch = this.#launches.get(spec);
      if (!launch) throw new Error(`${firstKernel(spec).name}: a launch that isn't in its table`);
      return launch;
    });
  }

  /** Sets params on the host beside the spec's own; `upload` sends them. */
  write({ spec, slot }: Pick<Launch, 'spec' | 'slot'>, params: Readonly<Record<string, number>>): void {
    writeParams(firstKernel(spec), { rows: 0, ...spec.params, ...params }, this.#host, slot * SLOT_BYTES);
  }

  /** Sets every slot's rows (the first word of all Params), and sends all params. */
  setRows(rowsOf: (scope: RowScope) => number): void {
    for (const { index, scope } of this.#slots.values()) this.#host.setUint32(index * SLOT_BYTES, rowsOf(scope), true);
    this.upload();
  }

  upload(): void {
    this.#device.queue.writeBuffer(this.#buffer, 0, this.#host.buffer as ArrayBuffer);
  }

  /** `likeRows` chooses variants as if there were so many rows: variants add up in different orders, so bits depend on it. */
  record(
    pass: GPUComputePassEncoder,
    launches: readonly Launch[],
    rowsOf: (scope: RowScope) => number,
    likeRows?: number,
  ): void {
    for (const { spec, bindGroup, choices } of launches) {
      const rows = rowsOf(spec.scope);
      if (rows === 0) continue;
      const choice = choices.find(({ upToRows }) => (likeRows ?? rows) <= upToRows);
      if (!choice) throw new Error(`${firstKernel(spec).name}: no variant was compiled for ${rows} rows`);
      pass.setPipeline(choice.pipeline);
      pass.setBindGroup(0, bindGroup);
      pass.dispatchWorkgroups(...choice.dispatch({ rows }));
    }
  }

  destroy(): void {
    this.#memory.destroy(this.#buffer);
  }
}

/** Compiles what the specs may need for up to `maxRows` rows. @throws DeviceError */
export async function compileSpecs(
  pipelines: Pipelines,
  specs: readonly LaunchSpec[],
  maxRows: (scope: RowScope) => number,
): Promise<void> {
  const needed = specs.flatMap(({ scope, variants }) =>
    variants.filter((_, i) => i === 0 || (variants[i - 1]?.upToRows ?? 0) < maxRows(scope)).map(({ kernel }) => kernel),
  );
  await Promise.all(needed.map((kernel) => pipelines.compile(kernel)));
}

function firstKernel(spec: LaunchSpec): Kernel<{ readonly rows: number }> {
  const kernel = spec.variants[0]?.kernel;
  if (!kernel) throw new Error('a launch without a kernel');
  return kernel;
}
