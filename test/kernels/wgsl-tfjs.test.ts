/** WGSL kernels against @tensorflow/tfjs-backend-wasm, for the operations that it has: an implementation that isn't ours. */
import { type GpuDevice, openGpuDevice } from '@glinthawk/dense/webgpu';
import '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import { afterAll, beforeAll, expect, it } from 'vitest';
import {
  HEAD_CHUNK,
  headCandidatesKernel,
  headMergeKernel,
  LIST_CANDIDATES,
  LIST_WORDS,
  matmulRowsKernel,
  matmulTilesKernel,
  swigluKernel,
} from '../../packages/dense/src/webgpu/kernels.ts';
import { describeWithWebGpu } from '../webgpu.ts';
import { randomNormal, randomSource } from './random-model.ts';
import { errorOf, tolerances, withinTolerance } from './tolerances.ts';
import { WgslRunner } from './wgsl-runner.ts';

/** Both sides round: two f32 tolerances. */
const within = (actual: ArrayLike<number>, expected: ArrayLike<number>) => {
  const error = errorOf(actual, expected);
  const { nmse, maxAbs } = tolerances.wgsl.f32;
  expect(withinTolerance(error, { nmse: 2 * nmse, maxAbs: 2 * maxAbs }), JSON.stringify(error)).toBe(true);
};

describeWithWebGpu('WGSL kernels against tfjs', () => {
  let gpu: GpuDevice;
  let runner: WgslRunner;
  beforeAll(async () => {
    tf.env().set('WASM_HAS_MULTITHREAD_SUPPORT', false);
    await tf.setBackend('wasm');
    await tf.ready();
    gpu = await openGpuDevice({ allowSoftware: true });
    runner = new WgslRunner(gpu);
  });
  afterAll(() => gpu.close());

  for (const kernel of [matmulRowsKernel('f32'), matmulTilesKernel('f32', 32), matmulTilesKernel('f32', 64)]) {
    it(`${kernel.name} ${kernel.constants.ROW_LANES ?? ''} is matMul with a transposed matrix`, async () => {
      for (const [rows, inputs, outputs] of [
        [1, 64, 172],
        [7, 176, 64],
        [40, 128, 257],
      ] as const) {
        const random = randomSource(rows);
        const x = randomNormal(random, rows * inputs);
        const weights = randomNormal(random, outputs * inputs, 1 / Math.sqrt(inputs));
        const params = {
          first_row: 0,
          octets: inputs / 8,
          first_output: 0,
          y_stride: outputs,
          has_bias: 0,
          accumulate: 0,
        };
        const [bytes] = await runner.run({
          kernel,
          shape: { rows, outputs },
          params: { ...params, rows, outputs },
          inputs: [x, weights, new Float32Array(1)],
          outputs: [new Float32Array(rows * outputs)],
        });
        const expected = tf.tidy(() =>
          tf.matMul(tf.tensor2d(x, [rows, inputs]), tf.tensor2d(weights, [outputs, inputs]), false, true),
        );
        within(new Float32Array(bytes as ArrayBuffer), await expected.data());
        expected.dispose();
      }
    });
  }

  it('swiglu is sigmoid(gate) · gate · up', async () => {
    const [rows, width] = [5, 176];
    const gateUp = randomNormal(randomSource(3), rows * 2 * width, 2);
    const [bytes] = await runner.run({
      kernel: swigluKernel(),
      shape: { rows, width },
      params: { rows, width, y_stride: width },
      inputs: [gateUp],
      outputs: [new Float32Array(rows * width)],
    });
    const expected = tf.tidy(() => {
      const [gate, up] = tf.split(tf.tensor2d(gateUp, [rows, 2 * width]), 2, 1) as [tf.Tensor, tf.Tensor];
      return tf.mul(tf.mul(tf.sigmoid(gate), gate), up);
    });
    within(new Float32Array(bytes as ArrayBuffer), await expected.data());
    expected.dispose();
  });

  it('the head is topk, and its sums are softmax’s denominator', async () => {
    const [rows, vocab] = [3, 5000];
    const chunks = Math.ceil(vocab / HEAD_CHUNK);
    const logits = randomNormal(randomSource(4), rows * vocab, 3);
    const ones = new Float32Array(rows).fill(1);
    const [lists] = await runner.run({
      kernel: headCandidatesKernel(),
      shape: { rows, chunks },
      params: { rows, first_row: 0, vocab, chunks },
      inputs: [logits, ones],
      outputs: [new Uint32Array(rows * chunks * LIST_WORDS)],
    });
    const [results] = await runner.run({
      kernel: headMergeKernel(),
      shape: { rows, chunks },
      params: { rows, first_row: 0, chunks },
      inputs: [new Uint32Array(lists as ArrayBuffer), ones],
      outputs: [new Uint32Array(rows * LIST_WORDS)],
    });
    const words = new Int32Array(results as ArrayBuffer);
    const floats = new Float32Array(results as ArrayBuffer);
    const tensor = tf.tensor2d(logits, [rows, vocab]);
    const top = tf.topk(tensor, LIST_CANDIDATES);
    const best = tf.topk(tf.softmax(tensor), 1);
    const [ids, values, probabilities] = await Promise.all([top.indices.data(), top.values.data(), best.values.data()]);
    for (let row = 0; row < rows; row++) {
      const at = row * LIST_WORDS;
      const from = row * LIST_CANDIDATES;
      expect(words.slice(at, at + LIST_CANDIDATES)).toEqual(ids.slice(from, from + LIST_CANDIDATES));
      expect(floats.slice(at + LIST_CANDIDATES, at + 2 * LIST_CANDIDATES)).toEqual(
        values.slice(from, from + LIST_CANDIDATES),
      );
      within([1 / (floats[at + 2 * LIST_CANDIDATES] as number)], [probabilities[row] as number]);
    }
    tf.dispose([tensor, top, best]);
  });
});
