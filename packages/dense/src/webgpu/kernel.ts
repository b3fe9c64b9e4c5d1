/**
 * A kernel as data: its WGSL, its bindings in order, the layout of its Params uniform, the values of its override constants
 * and the grid for a shape. Nothing here touches a device; `pipelines.ts` compiles kernels, `kernels.ts` declares them.
 * Invariant, held by a test: bindings and params are what the shader declares.
 */
export type BindingKind = 'input' | 'output' | 'params';

export interface KernelBinding {
  readonly name: string;
  readonly kind: BindingKind;
}

/** All params are 4-byte scalars in the order of the shader's struct, so that offsets are 4 × index. */
export interface KernelParam {
  readonly name: string;
  readonly type: 'u32' | 'f32';
}

/** Workgroups in x, y, z. */
export type Grid = readonly [number, number, number];

export interface Kernel<Shape> {
  /** The shader's file name in shaders/, without `.wgsl`. */
  readonly name: string;
  readonly wgsl: string;
  /** Inputs, then outputs, then Params: binding i of group 0 is the i-th. */
  readonly bindings: readonly KernelBinding[];
  readonly params: readonly KernelParam[];
  /** Values of the shader's override constants. A change of these, and nothing else, makes another pipeline. */
  readonly constants: Readonly<Record<string, number>>;
  readonly features: readonly GPUFeatureName[];
  dispatch(shape: Shape): Grid;
}

/** What tells one pipeline from another; also its label. */
export function variantKey(kernel: Kernel<never>): string {
  const constants = Object.entries(kernel.constants).map(([name, value]) => `${name}=${value}`);
  return constants.length === 0 ? kernel.name : `${kernel.name}[${constants.join(',')}]`;
}

/** Bytes of a kernel's Params uniform: WGSL rounds a uniform struct of scalars to no more than 16. */
export function paramsBytes(kernel: Kernel<never>): number {
  return Math.ceil((kernel.params.length * 4) / 16) * 16;
}

/** Writes one value for each of the kernel's params at `byteOffset`. @throws Error when one is missing: a bug. */
export function writeParams(
  kernel: Kernel<never>,
  values: Readonly<Record<string, number>>,
  target: DataView,
  byteOffset: number,
): void {
  kernel.params.forEach(({ name, type }, i) => {
    const value = values[name];
    if (value === undefined) throw new Error(`${kernel.name}: no value for the param ${name}`);
    if (type === 'u32') target.setUint32(byteOffset + 4 * i, value, true);
    else target.setFloat32(byteOffset + 4 * i, value, true);
  });
}
