/** Attention kernels in Node: the shared cases on every build and KV dtype and on a pool of workers, and a second library. */
import { attentionKernelInfo, createInlineAttention, createLocalAttention } from '@glinthawk/attention';
import '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import {
  attentionCases,
  beyondTolerance,
  checkAttentionCase,
  fillNormal,
  kernelVariants,
  randomSource,
  runAttentionCase,
} from './attention-cases.ts';
import { errorOf, tolerances, withinTolerance } from './tolerances.ts';

it('this Node runs relaxed SIMD and shares memory with workers, so that both builds and the pool are tested', () => {
  expect(attentionKernelInfo()).toMatchObject({ build: 'relaxed', relaxedSimd: true, sharedMemory: true });
});

for (const { name, kvDtype, build, int8 } of kernelVariants) {
  describe(`attention, ${name}`, () => {
    for (const testCase of attentionCases) {
      it(testCase.name, async () => {
        expect(await checkAttentionCase(testCase, kvDtype, build, int8)).toEqual([]);
      });
    }
  });
}

describe.each(kernelVariants)('attention, $name, on three workers', ({ kvDtype, build, int8 }) => {
  for (const testCase of attentionCases.filter(({ runs }) => runs.length > 2).slice(0, 2)) {
    it(testCase.name, async () => {
      const { geometry, blockTokens } = testCase;
      const options = { kvDtype, build, int8, blockTokens, workers: 3, shards: 2, memoryBytes: 256 << 20 };
      const pool = await createLocalAttention(geometry, options);
      expect(beyondTolerance(await runAttentionCase(pool, testCase), kvDtype, int8)).toEqual([]);
      expect(pool.stats()).toMatchObject({ usedBlocks: 0, openSlots: 0 });
      await pool.close();
      expect(pool.allocatedBytes()).toBe(0);
    });
  }
});

it('a decode step agrees with tfjs-backend-wasm', async () => {
  const tokens = 131;
  const [kvHeads, groupSize, headDim] = [2, 4, 64];
  const random = randomSource(5);
  const q = fillNormal(new Float32Array(kvHeads * groupSize * headDim), random);
  const keys = fillNormal(new Float32Array(tokens * kvHeads * headDim), random); // [tokens, kvHeads, headDim]
  const values = fillNormal(new Float32Array(tokens * kvHeads * headDim), random);

  const softmaxScale = 1 / Math.sqrt(headDim);
  const geometry = { layers: 1, kvHeads, groupSize, headDim, softmaxScale, windows: [0], maxContextTokens: tokens };
  const backend = await createInlineAttention(geometry, { kvDtype: 'f32', memoryBytes: 64 << 20 });
  const slot = { index: 0, generation: 0 };
  const width = kvHeads * headDim;
  const qkv = new Float32Array(tokens * (groupSize + 2) * width);
  for (let t = 0; t < tokens; t++) {
    const row = qkv.subarray(t * (groupSize + 2) * width);
    row.set(q); // only the last row's output is looked at
    row.set(keys.subarray(t * width, (t + 1) * width), groupSize * width);
    row.set(values.subarray(t * width, (t + 1) * width), (groupSize + 1) * width);
  }
  const output = new Float32Array(tokens * groupSize * width);
  backend.open(slot, 0);
  backend.announce({ id: 0, entries: [{ slot, position: 0, count: tokens }] });
  await backend.attend(0, 0, qkv, output);
  await backend.close();

  tf.env().set('WASM_HAS_MULTITHREAD_SUPPORT', false);
  await tf.setBackend('wasm');
  const expected = tf.tidy(() => {
    const byHead = (array: Float32Array) => tf.transpose(tf.tensor3d(array, [tokens, kvHeads, headDim]), [1, 0, 2]);
    const scores = tf.matMul(tf.tensor3d(q, [kvHeads, groupSize, headDim]), byHead(keys), false, true);
    return tf.matMul(tf.softmax(tf.mul(scores, softmaxScale)), byHead(values)).dataSync();
  });
  const error = errorOf(output.subarray((tokens - 1) * groupSize * width), expected);
  expect(withinTolerance(error, tolerances.attention.f32), JSON.stringify(error)).toBe(true);
});
