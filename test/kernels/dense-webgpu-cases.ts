/**
 * The whole `webgpu` dense backend against plain loops in double precision, on random models of awkward shapes: one list for
 * Node and for Chromium. The reference has the weights as the GPU holds them, so f16 is held to f32's tolerance.
 */
import { f32ArrayToF16, type ModelConfig } from '@glinthawk/core';
import { createWebGpuDense, type GpuDevice, type WebGpuDenseOptions } from '@glinthawk/dense/webgpu';
import { openReferenceDense } from '../reference/dense.ts';
import { type RandomModel, randomModel } from './random-model.ts';
import { randomAttended, randomStep, traceDifference, traceStep } from './step-trace.ts';

export interface DenseWebGpuCase {
  readonly name: string;
  readonly config: Partial<ModelConfig>;
  readonly rows: readonly number[];
  readonly options: readonly WebGpuDenseOptions[];
}

const plain: Partial<ModelConfig> = { qkvBias: false, outputBias: false, mlpBias: false, qkNorm: false };
const f32: WebGpuDenseOptions = { weightDtype: 'f32' };
const f16: WebGpuDenseOptions = { weightDtype: 'f16' };
const packed: WebGpuDenseOptions = { weightDtype: 'f16', f16Kernels: 'packed' };

export const denseWebGpuCases: readonly DenseWebGpuCase[] = [
  {
    name: 'llama: no biases, tied head',
    config: { ...plain, tiedEmbeddings: true },
    rows: [1, 7, 17, 70],
    options: [f32, f16, packed],
  },
  {
    name: 'every bias, q/k norms, head_dim 24, dim 72, FFN 100',
    config: { hiddenSize: 72, intermediateSize: 100, heads: 6, kvHeads: 2, headDim: 24 },
    rows: [1, 5, 33],
    options: [f32, f16],
  },
  {
    name: 'nothing a multiple of 8: dim 30, FFN 50, 3 heads of 6',
    config: { hiddenSize: 30, intermediateSize: 50, heads: 3, kvHeads: 1, headDim: 6, vocabSize: 40, layers: 1 },
    rows: [1, 9],
    options: [f32, packed],
  },
  {
    name: 'matrices split over bindings of 4 KiB, logits three rows at a time',
    config: { tiedEmbeddings: false },
    rows: [1, 20],
    options: [
      { ...f32, maxBindingBytes: 4096 },
      { ...packed, maxBindingBytes: 4096 },
    ],
  },
  {
    name: 'linear RoPE scaling, q/k/v biases, vocab 2048',
    config: {
      ...plain,
      qkvBias: true,
      vocabSize: 2048,
      rope: { theta: 1e6, scaling: { type: 'linear', factor: 4 } },
    },
    rows: [9],
    options: [f32],
  },
];

/** The model with its matrices rounded to f16; vectors stay f32, as on the GPU. */
function halved({ config, weights }: RandomModel): RandomModel {
  return {
    config,
    weights: {
      ...weights,
      async read(name, rows) {
        const values = await weights.read(name, rows);
        if (weights.info(name).shape.length === 1) return values;
        const half = new Uint16Array(values.length);
        f32ArrayToF16(values, half);
        return Float32Array.from(new Float16Array(half.buffer));
      },
    },
  };
}

/** Runs a case and compares. @returns what is wrong, in words */
export async function runDenseWebGpuCase(gpu: GpuDevice, testCase: DenseWebGpuCase): Promise<readonly string[]> {
  const model = randomModel(testCase.config);
  const problems: string[] = [];
  for (const options of testCase.options) {
    const reference = await openReferenceDense(options.weightDtype === 'f16' ? halved(model) : model);
    const backend = await createWebGpuDense(gpu, model, options);
    try {
      for (const [i, rows] of testCase.rows.entries()) {
        const step = randomStep(model.config, rows, rows);
        const attended = randomAttended(model.config, rows, rows);
        const trace = await traceStep(backend, step, attended, rows + (i % 2));
        const problem = traceDifference(trace, await traceStep(reference, step, attended));
        if (problem !== null) problems.push(`${JSON.stringify(options)}, ${rows} rows: ${problem}`);
      }
    } finally {
      await backend.close();
    }
    if (backend.allocatedBytes() !== 0) problems.push(`${backend.allocatedBytes()} bytes are left after close`);
  }
  return problems;
}
