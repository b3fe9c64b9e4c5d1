import { CapacityError } from '@glinthawk/core';
import { expect, it } from 'vitest';
import { randomNormal, randomSource } from '../../../../test/kernels/random-model.ts';
import { createTfjsEngine } from './tfjs-engine.ts';

const random = randomSource(3);
const engine = await createTfjsEngine(null);

/** One row and column in f32, summed in the order of the inputs: XNNPACK's own order, so bits are equal. */
function naive(
  x: Float32Array,
  weights: Float32Array,
  inputs: number,
  row: number,
  output: number,
  bias: number,
): number {
  let sum = bias;
  for (let i = 0; i < inputs; i++) {
    sum = Math.fround(sum + Math.fround((x[row * inputs + i] as number) * (weights[output * inputs + i] as number)));
  }
  return sum;
}

it('products are f32 sums in the order of the inputs, whatever the rows and columns beside them', () => {
  const rows = 64;
  for (const [inputs, outputs] of [
    [1, 1],
    [3, 2],
    [64, 7],
    [172, 9],
    [24, 257],
  ] as const) {
    const weights = randomNormal(random, outputs * inputs);
    const x = randomNormal(random, rows * inputs);
    for (const bias of [null, randomNormal(random, outputs)]) {
      const matrix = engine.addMatrix(weights, inputs, outputs, bias);
      engine.reserve(rows * inputs, rows * outputs);
      for (const [first, count] of [
        [0, 64],
        [0, 1],
        [63, 1],
        [5, 2],
        [9, 7],
        [1, 63],
      ] as const) {
        engine.input(count * inputs).set(x.subarray(first * inputs, (first + count) * inputs));
        const y = engine.multiply(matrix, count);
        for (let row = 0; row < count; row++) {
          for (let output = 0; output < outputs; output++) {
            const expected = naive(x, weights, inputs, first + row, output, bias?.[output] ?? 0);
            if (y[row * outputs + output] !== expected) {
              expect.fail(`${inputs}×${outputs}, ${count} rows: [${row}, ${output}] ${y[row * outputs + output]}`);
            }
          }
        }
      }
    }
  }
});

it('neither tensors nor memory grow from product to product', () => {
  const matrix = engine.addMatrix(randomNormal(random, 300 * 200), 200, 300, null);
  engine.reserve(64 * 200, 64 * 300);
  engine.input(64 * 200).fill(1);
  engine.multiply(matrix, 64);
  const tensors = engine.liveTensors();
  const heap = engine.heapBytes();
  for (let i = 0; i < 2000; i++) engine.multiply(matrix, 1 + (i % 64));
  expect(engine.liveTensors()).toBe(tensors);
  expect(engine.heapBytes()).toBe(heap);
});

it('holds a matrix once: packed, not beside its source', () => {
  const matrices = 20;
  const inputs = 1024;
  const outputs = 512;
  engine.addMatrix(new Float32Array(inputs * outputs).fill(0.5), inputs, outputs, null);
  const before = engine.heapBytes();
  for (let i = 0; i < matrices; i++) {
    engine.addMatrix(new Float32Array(inputs * outputs).fill(i), inputs, outputs, null);
  }
  expect(engine.heapBytes() - before).toBeLessThan(1.5 * matrices * inputs * outputs * 4);
});

it('more than a 32-bit memory holds is a CapacityError', () => {
  expect(() => engine.reserve(2 ** 29, 2 ** 29)).toThrow(CapacityError);
  expect(() => engine.reserve(2 ** 30 + 1, 1)).toThrow(CapacityError);
  // What failed left the engine as it was.
  const matrix = engine.addMatrix(Float32Array.of(3), 1, 1, null);
  engine.input(1).fill(2);
  expect(Array.from(engine.multiply(matrix, 1))).toEqual([6]);
});
