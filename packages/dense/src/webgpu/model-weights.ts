/** A model's weights on the GPU, by role: q, k and v as one matrix, gate and up as one. */
import type { ModelConfig, WeightName, WeightSource } from '@glinthawk/core';
import type { GpuMemory } from './gpu-memory.ts';
import type { WeightDtype } from './kernels.ts';
import { type GpuMatrix, WeightUploader } from './matrix.ts';

export interface GpuLayer {
  readonly attnNorm: GPUBuffer; // [hidden]
  readonly qkv: GpuMatrix; // [(heads + 2 kvHeads) headDim, hidden]
  readonly qkvBias: GPUBuffer | null; // [(heads + 2 kvHeads) headDim]
  readonly qNorm: GPUBuffer | null; // [headDim]
  readonly kNorm: GPUBuffer | null; // [headDim]
  readonly o: GpuMatrix; // [hidden, heads headDim]
  readonly oBias: GPUBuffer | null; // [hidden]
  readonly mlpNorm: GPUBuffer; // [hidden]
  readonly gateUp: GpuMatrix; // [2 intermediate, hidden]
  readonly gateUpBias: GPUBuffer | null; // [2 intermediate]
  readonly down: GpuMatrix; // [hidden, intermediate]
  readonly downBias: GPUBuffer | null; // [hidden]
}

export interface GpuWeights {
  readonly embed: GpuMatrix; // [vocab, hidden]
  readonly finalNorm: GPUBuffer; // [hidden]
  /** The same as `embed` when they are tied. */
  readonly head: GpuMatrix; // [vocab, hidden]
  readonly layers: readonly GpuLayer[];
}

export interface LoadOptions {
  readonly dtype: WeightDtype;
  readonly maxBindingBytes: number;
  /** Told after each layer. */
  readonly onLayer?: (loaded: number, layers: number) => void;
}

/** @throws CapacityError, DeviceError, ModelFormatError */
export async function loadWeights(
  device: GPUDevice,
  memory: GpuMemory,
  config: ModelConfig,
  source: WeightSource,
  options: LoadOptions,
): Promise<GpuWeights> {
  const uploader = new WeightUploader(device, memory, source, options.maxBindingBytes);
  const { hiddenSize: hidden, intermediateSize: intermediate, headDim } = config;
  const attended = config.heads * headDim;
  const matrix = (names: readonly WeightName[], inputs: number) => uploader.matrix(names, inputs, options.dtype);
  const embed = await matrix(['embed'], hidden);
  const finalNorm = await uploader.vector(['finalNorm']);
  const head = config.tiedEmbeddings ? embed : await matrix(['head'], hidden);
  const layers: GpuLayer[] = [];
  for (let layer = 0; layer < config.layers; layer++) {
    const at = `layers.${layer}` as const;
    layers.push({
      attnNorm: await uploader.vector([`${at}.attnNorm`]),
      qkv: await matrix([`${at}.q`, `${at}.k`, `${at}.v`], hidden),
      qkvBias: config.qkvBias ? await uploader.vector([`${at}.qBias`, `${at}.kBias`, `${at}.vBias`]) : null,
      qNorm: config.qkNorm ? await uploader.vector([`${at}.qNorm`]) : null,
      kNorm: config.qkNorm ? await uploader.vector([`${at}.kNorm`]) : null,
      o: await matrix([`${at}.o`], attended),
      oBias: config.outputBias ? await uploader.vector([`${at}.oBias`]) : null,
      mlpNorm: await uploader.vector([`${at}.mlpNorm`]),
      gateUp: await matrix([`${at}.gate`, `${at}.up`], hidden),
      gateUpBias: config.mlpBias ? await uploader.vector([`${at}.gateBias`, `${at}.upBias`]) : null,
      down: await matrix([`${at}.down`], intermediate),
      downBias: config.mlpBias ? await uploader.vector([`${at}.downBias`]) : null,
    });
    options.onLayer?.(layer + 1, config.layers);
  }
  device.queue.submit([]);
  await device.queue.onSubmittedWorkDone();
  return { embed, finalNorm, head, layers };
}
