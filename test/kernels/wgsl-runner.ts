/** Runs one WGSL kernel on given arrays and reads its outputs: what the kernel cases and the shader benchmark stand on. */
import type { DeviceError } from '@glinthawk/core';
import type { GpuDevice } from '@glinthawk/dense/webgpu';
import { BUFFER_USAGE, GpuMemory, MAP_READ } from '../../packages/dense/src/webgpu/gpu-memory.ts';
import { type Kernel, paramsBytes, writeParams } from '../../packages/dense/src/webgpu/kernel.ts';
import { Pipelines } from '../../packages/dense/src/webgpu/pipelines.ts';

export type KernelArray = Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>;

export interface KernelCall<Shape> {
  readonly kernel: Kernel<Shape>;
  readonly shape: Shape;
  readonly params: Readonly<Record<string, number>>;
  readonly inputs: readonly KernelArray[];
  /** What the outputs hold before; the results have their lengths. */
  readonly outputs: readonly KernelArray[];
}

export class WgslRunner {
  readonly gpu: GpuDevice;
  readonly #pipelines: Pipelines;
  #failure: DeviceError | null = null;

  constructor(gpu: GpuDevice) {
    this.gpu = gpu;
    this.#pipelines = Pipelines.of(gpu.device);
    gpu.failed.then((error) => {
      this.#failure = error;
    });
  }

  /** Whether the device has what the kernel needs. */
  supports(kernel: Kernel<never>): boolean {
    return kernel.features.every((feature) => this.gpu.device.features.has(feature));
  }

  /** @returns the bytes of each output. @throws DeviceError */
  async run<Shape>(call: KernelCall<Shape>): Promise<readonly ArrayBuffer[]> {
    const { device } = this.gpu;
    const { kernel } = call;
    await this.#pipelines.compile(kernel);
    const memory = new GpuMemory(device);
    try {
      const { storage, copyDst, copySrc, mapRead, uniform } = BUFFER_USAGE;
      const upload = (array: ArrayBufferView<ArrayBuffer>, usage: number) => {
        const buffer = memory.create(kernel.name, array.byteLength, usage | copyDst);
        device.queue.writeBuffer(buffer, 0, array.buffer, array.byteOffset, array.byteLength);
        return buffer;
      };
      const params = new DataView(new ArrayBuffer(paramsBytes(kernel)));
      writeParams(kernel, call.params, params, 0);
      const inputs = call.inputs.map((array) => upload(array, storage));
      const outputs = call.outputs.map((array) => upload(array, storage | copySrc));
      const buffers = [...inputs, ...outputs, upload(params, uniform)];
      const bindGroup = device.createBindGroup({
        layout: this.#pipelines.layout(kernel),
        entries: buffers.map((buffer, binding) => ({ binding, resource: { buffer } })),
      });
      const pipeline = this.#pipelines.get(kernel);
      if (!pipeline) throw new Error(`${kernel.name} was not compiled`);
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, bindGroup);
      pass.dispatchWorkgroups(...kernel.dispatch(call.shape));
      pass.end();
      const readbacks = outputs.map((buffer) => {
        const readback = memory.create('readback', buffer.size, mapRead | copyDst);
        encoder.copyBufferToBuffer(buffer, 0, readback, 0, buffer.size);
        return readback;
      });
      device.queue.submit([encoder.finish()]);
      const results: ArrayBuffer[] = [];
      for (const [i, readback] of readbacks.entries()) {
        await readback.mapAsync(MAP_READ);
        results.push(readback.getMappedRange().slice(0, call.outputs[i]?.byteLength ?? 0));
      }
      if (this.#failure) throw this.#failure;
      return results;
    } finally {
      memory.close();
    }
  }
}
