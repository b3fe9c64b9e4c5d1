/**
 * The `wasm` dense backend against plain loops in double precision: shapes, biases, norms, rows, workers, with and without shared
 * memory. One list for Node and for Chromium. The attention output is random numbers; what matters is that both get the same.
 */
import type { ModelConfig } from '@glinthawk/core';
import { createWasmDense, type WasmDenseOptions } from '@glinthawk/dense';
import { openReferenceDense } from '../reference/dense.ts';
import { randomModel } from './random-model.ts';
import { randomAttended, randomStep, type StepTrace, sameBits, traceDifference, traceStep } from './step-trace.ts';

export interface DenseWasmCase {
  readonly name: string;
  readonly config: Partial<ModelConfig>;
  readonly rows: readonly number[];
  readonly options: readonly WasmDenseOptions[];
}

const plain: Partial<ModelConfig> = { qkvBias: false, outputBias: false, mlpBias: false, qkNorm: false };

export const denseWasmCases: readonly DenseWasmCase[] = [
  {
    name: 'llama: no biases, tied head',
    config: { ...plain, tiedEmbeddings: true },
    rows: [1, 7, 64],
    options: [{ workers: 1 }, { workers: 2 }, { workers: 3 }, { sharedMemory: false }],
  },
  {
    name: 'every bias, q/k norms, head_dim 24, dim 72, FFN 100',
    config: { hiddenSize: 72, intermediateSize: 100, heads: 6, kvHeads: 2, headDim: 24 },
    rows: [1, 5],
    options: [{ workers: 1 }, { workers: 3 }, { sharedMemory: false }],
  },
  {
    name: 'more workers than heads and panels: dim 16, one head, vocab 40',
    config: { hiddenSize: 16, intermediateSize: 20, heads: 1, kvHeads: 1, headDim: 6, vocabSize: 40, layers: 1 },
    rows: [1, 3],
    options: [{ workers: 1 }, { workers: 4 }],
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
    options: [{ workers: 2 }],
  },
];

/** Runs a case and compares: with the reference, and bit by bit between the options. @returns what is wrong, in words */
export async function runDenseWasmCase({ config, rows, options }: DenseWasmCase): Promise<readonly string[]> {
  const model = randomModel(config);
  const reference = await openReferenceDense(model);
  const problems: string[] = [];
  const first: StepTrace[] = [];
  for (const option of options) {
    const backend = await createWasmDense(model, option);
    try {
      for (const [i, count] of rows.entries()) {
        const step = randomStep(model.config, count, count);
        const attended = randomAttended(model.config, count, count);
        const trace = await traceStep(backend, step, attended, count + (i % 2));
        const label = `${JSON.stringify(option)}, ${count} rows: `;
        const problem = traceDifference(trace, await traceStep(reference, step, attended));
        if (problem !== null) problems.push(label + problem);
        first[i] ??= trace;
        if (!sameBits(trace, first[i] as StepTrace)) problems.push(`${label}not the bits of the first option`);
      }
    } finally {
      await backend.close();
    }
    if (backend.allocatedBytes() !== 0) problems.push(`${backend.allocatedBytes()} bytes are left after close`);
  }
  return problems;
}
