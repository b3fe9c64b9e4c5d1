/** Compiles kernels, each variant once for a device, and knows their bind group layouts. */
import { DeviceError, toError } from '@glinthawk/core';
import { checkedSetup } from './gpu-memory.ts';
import { type BindingKind, type Kernel, variantKey } from './kernel.ts';

/** GPUShaderStage.COMPUTE. */
const COMPUTE_STAGE = 0x4;
const BUFFER_TYPES: Readonly<Record<BindingKind, GPUBufferBindingType>> = {
  input: 'read-only-storage',
  output: 'storage',
  params: 'uniform',
};

const byDevice = new WeakMap<GPUDevice, Pipelines>();

export class Pipelines {
  readonly #device: GPUDevice;
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  readonly #compiling = new Map<string, Promise<void>>();
  readonly #compiled = new Map<string, GPUComputePipeline>();

  /** The device's own: whatever runs on it shares what was compiled. */
  static of(device: GPUDevice): Pipelines {
    const known = byDevice.get(device);
    if (known) return known;
    const made = new Pipelines(device);
    byDevice.set(device, made);
    return made;
  }

  private constructor(device: GPUDevice) {
    this.#device = device;
  }

  /** Kernels with bindings of the same kinds share a layout, so that variants share bind groups. */
  layout(kernel: Kernel<never>): GPUBindGroupLayout {
    const kinds = kernel.bindings.map(({ kind }) => kind);
    const key = kinds.join();
    const known = this.#layouts.get(key);
    if (known) return known;
    const layout = this.#device.createBindGroupLayout({
      label: key,
      entries: kinds.map((kind, binding) => ({
        binding,
        visibility: COMPUTE_STAGE,
        buffer: { type: BUFFER_TYPES[kind] },
      })),
    });
    this.#layouts.set(key, layout);
    return layout;
  }

  /** Compiles the kernel unless that has been done. @throws DeviceError with the compiler's message. */
  compile(kernel: Kernel<never>): Promise<void> {
    const key = variantKey(kernel);
    const known = this.#compiling.get(key);
    if (known) return known;
    const compiling = this.#compile(kernel, key);
    this.#compiling.set(key, compiling);
    return compiling;
  }

  /** The kernel's pipeline, if it has been compiled. */
  get(kernel: Kernel<never>): GPUComputePipeline | undefined {
    return this.#compiled.get(variantKey(kernel));
  }

  async #compile(kernel: Kernel<never>, key: string): Promise<void> {
    const missing = kernel.features.filter((feature) => !this.#device.features.has(feature));
    if (missing.length > 0) {
      throw new DeviceError('GPU_FEATURE', `the kernel ${key} needs ${missing.join(', ')}, which this device lacks`);
    }
    try {
      const { module, layout } = await checkedSetup(this.#device, () => ({
        module: this.#device.createShaderModule({ label: kernel.name, code: kernel.wgsl }),
        layout: this.#device.createPipelineLayout({ label: key, bindGroupLayouts: [this.layout(kernel)] }),
      }));
      const pipeline = await this.#device.createComputePipelineAsync({
        label: key,
        layout,
        compute: { module, entryPoint: 'main', constants: kernel.constants },
      });
      this.#compiled.set(key, pipeline);
    } catch (cause) {
      throw new DeviceError('GPU_COMPILE', `the kernel ${key} does not compile: ${toError(cause).message}`, { cause });
    }
  }
}
