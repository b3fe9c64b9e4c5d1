/**
 * The dense tier on WebGPU: weights in GPU buffers, one submission per layer and micro-batch. The device is the caller's when
 * it was handed in, the backend's own when it was opened here.
 */
import {
  CapacityError,
  DeviceError,
  type Logger,
  type ModelConfig,
  ropeFrequencies,
  silentLogger,
  UnsupportedError,
} from '@glinthawk/core';
import type { DenseBackend, DenseBatch, DenseInfo, DenseModel } from '../backend.ts';
import { type GpuDevice, type GpuDeviceOptions, openGpuDevice } from './device.ts';
import { BUFFER_USAGE, GpuMemory } from './gpu-memory.ts';
import type { WeightDtype, WeightFormat } from './kernels.ts';
import { type GpuWeights, loadWeights } from './model-weights.ts';
import { Pipelines } from './pipelines.ts';
import { ScratchPool } from './scratch.ts';
import { type BatchContext, WebGpuBatch } from './webgpu-batch.ts';

export interface WebGpuDenseOptions {
  /** `auto` is f16, which halves what a step reads; activations and sums are f32 always. */
  readonly weightDtype?: WeightDtype | 'auto';
  /** How f16 weights are read: `auto` is `native` where the device has shader-f16, else `packed` words. */
  readonly f16Kernels?: 'auto' | 'native' | 'packed';
  /** Largest binding to use, below the device's own limit: for tests of split matrices. */
  readonly maxBindingBytes?: number;
  /** Told after each layer that has been loaded. */
  readonly onLayer?: (loaded: number, layers: number) => void;
  readonly logger?: Logger;
}

/** Rows of a micro-batch stand in one dimension of a grid. */
const MAX_ROWS = 65_535;

/**
 * Loads a model's weights onto a GPU.
 * @throws DeviceError, CapacityError, ModelFormatError, UnsupportedError
 */
export async function createWebGpuDense(
  gpu: GpuDevice | GpuDeviceOptions,
  model: DenseModel,
  options: WebGpuDenseOptions = {},
): Promise<DenseBackend> {
  const owned = !('device' in gpu);
  const opened = owned ? await openGpuDevice(gpu) : gpu;
  try {
    return await WebGpuDense.load(opened, owned, model, options);
  } catch (thrown) {
    if (owned) opened.close();
    throw thrown;
  }
}

class WebGpuDense implements DenseBackend {
  readonly info: DenseInfo;
  readonly config: ModelConfig;
  /** The queue runs one submission at a time; a second one waiting in it hides the host's part of the first. */
  readonly concurrency = 2;
  readonly lost: Promise<DeviceError>;

  readonly #gpu: GpuDevice;
  readonly #owned: boolean;
  readonly #memory: GpuMemory;
  readonly #context: BatchContext;
  readonly #batches = new Set<WebGpuBatch>();
  #failure: DeviceError | null = null;

  static async load(
    gpu: GpuDevice,
    owned: boolean,
    { config, weights: source }: DenseModel,
    options: WebGpuDenseOptions,
  ): Promise<WebGpuDense> {
    const { device } = gpu;
    if (config.headDim % 2 !== 0) throw new UnsupportedError('HEAD_DIM', `head_dim ${config.headDim} is odd`);
    const dtype = options.weightDtype === 'f32' ? 'f32' : 'f16';
    const format = weightFormat(dtype, options.f16Kernels ?? 'auto', device);
    const { maxStorageBufferBindingSize, maxBufferSize } = device.limits;
    const maxBindingBytes = Math.min(
      maxStorageBufferBindingSize,
      maxBufferSize,
      options.maxBindingBytes ?? Number.POSITIVE_INFINITY,
    );
    const memory = new GpuMemory(device);
    let failure: DeviceError | null = null;
    gpu.failed.then((error) => {
      failure = error;
    });
    try {
      const { onLayer } = options;
      const weights = await loadWeights(device, memory, config, source, {
        dtype,
        maxBindingBytes,
        ...(onLayer ? { onLayer } : {}),
      });
      if (failure) throw failure;
      const backend = new WebGpuDense(gpu, owned, config, memory, weights, format, maxBindingBytes);
      (options.logger ?? silentLogger).info('weights are on the GPU', {
        adapter: gpu.adapter.description,
        kernels: format,
        bytes: memory.bytes,
      });
      return backend;
    } catch (thrown) {
      memory.close();
      throw failure ?? thrown;
    }
  }

  private constructor(
    gpu: GpuDevice,
    owned: boolean,
    config: ModelConfig,
    memory: GpuMemory,
    weights: GpuWeights,
    format: WeightFormat,
    maxBindingBytes: number,
  ) {
    const { device } = gpu;
    this.#gpu = gpu;
    this.#owned = owned;
    this.#memory = memory;
    this.config = config;
    this.info = {
      kind: 'webgpu',
      description: `${gpu.adapter.description}${gpu.adapter.software ? ' (software)' : ''}, ${describeFormat(format)} weights`,
      weightDtype: weights.embed.dtype,
      weightBytes: memory.bytes,
    };
    this.lost = gpu.failed.then((error) => {
      this.#failure = error;
      return error;
    });
    this.#context = {
      device,
      memory,
      pipelines: Pipelines.of(device),
      config,
      weights,
      format,
      rope: ropeFrequencies(config),
      scratchPool: new ScratchPool(memory, config, maxBindingBytes),
      nothing: memory.create('nothing', 16, BUFFER_USAGE.storage),
      failure: () => this.#failure,
      onDestroy: (batch) => this.#batches.delete(batch),
    };
  }

  async createBatch({
    maxRows,
    maxHeadRows,
  }: {
    readonly maxRows: number;
    readonly maxHeadRows: number;
  }): Promise<DenseBatch> {
    if (this.#failure) throw this.#failure;
    if (!(maxRows >= 1 && maxRows <= MAX_ROWS && maxHeadRows >= 1 && maxHeadRows <= MAX_ROWS)) {
      throw new CapacityError(
        'BATCH_ROWS',
        `a batch of ${maxRows} rows and ${maxHeadRows} head rows: 1 to ${MAX_ROWS} fit`,
      );
    }
    const batch = await WebGpuBatch.create(this.#context, { maxRows, maxHeadRows });
    this.#batches.add(batch);
    return batch;
  }

  allocatedBytes(): number {
    return this.#memory.bytes;
  }

  async close(): Promise<void> {
    this.#failure ??= new DeviceError('CLOSED', 'this dense backend has been closed');
    for (const batch of [...this.#batches]) batch.destroy();
    this.#memory.close();
    if (this.#owned) this.#gpu.close();
  }
}

function weightFormat(dtype: WeightDtype, kernels: 'auto' | 'native' | 'packed', device: GPUDevice): WeightFormat {
  if (dtype === 'f32') return 'f32';
  const native = device.features.has('shader-f16');
  if (kernels === 'native' && !native) {
    throw new DeviceError('GPU_FEATURE', 'native f16 kernels need shader-f16, which this device lacks', {
      hint: 'Use packed f16 kernels.',
    });
  }
  return kernels === 'packed' || !native ? 'packed' : 'f16';
}

function describeFormat(format: WeightFormat): string {
  return format === 'packed' ? 'f16 (packed)' : format;
}
