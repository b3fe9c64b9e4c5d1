/** The oracle agrees with naive loops, so that a kernel which disagrees with both is wrong. */
import { expect, it } from 'vitest';
import { randomNormal, randomSource } from './random-model.ts';
import { tfjsOracle, tfjsTensors } from './tfjs-oracle.ts';

const random = randomSource(9);
const oracle = await tfjsOracle();

function expectClose(got: Float32Array, expected: ArrayLike<number>): void {
  expect(got.length).toBe(expected.length);
  for (const [i, value] of got.entries()) expect(Math.abs(value - (expected[i] as number))).toBeLessThan(1e-4);
  expect(tfjsTensors()).toBe(0);
}

const sum = (count: number, term: (i: number) => number) =>
  Array.from({ length: count }, (_, i) => term(i)).reduce((a, b) => a + b, 0);
const at = (values: Float32Array, i: number) => values[i] as number;

it('linear', () => {
  const [rows, inputs, outputs] = [3, 13, 7];
  const x = randomNormal(random, rows * inputs);
  const w = randomNormal(random, outputs * inputs);
  const bias = randomNormal(random, outputs);
  const expected = Array.from({ length: rows * outputs }, (_, i) => {
    const [row, output] = [Math.floor(i / outputs), i % outputs];
    return at(bias, output) + sum(inputs, (k) => at(x, row * inputs + k) * at(w, output * inputs + k));
  });
  expectClose(oracle.linear(x, w, rows, inputs, bias), expected);
});

it('softmax and logSumExp', () => {
  const x = randomNormal(random, 2 * 9, 3);
  const sums = [0, 1].map((row) => sum(9, (i) => Math.exp(at(x, row * 9 + i))));
  expectClose(
    oracle.softmax(x, 2),
    Array.from(x, (value, i) => Math.exp(value) / (sums[Math.floor(i / 9)] as number)),
  );
  expectClose(oracle.logSumExp(x, 2), sums.map(Math.log));
});

it('rmsNorm, swiGlu and gather', () => {
  const x = randomNormal(random, 2 * 11);
  const weight = randomNormal(random, 11);
  const means = [0, 1].map((row) => sum(11, (i) => at(x, row * 11 + i) ** 2) / 11);
  expectClose(
    oracle.rmsNorm(x, weight, 1e-5),
    Array.from(x, (value, i) => (value / Math.sqrt((means[Math.floor(i / 11)] as number) + 1e-5)) * at(weight, i % 11)),
  );
  expectClose(
    oracle.swiGlu(x, x),
    Array.from(x, (value) => value ** 2 / (1 + Math.exp(-value))),
  );
  expectClose(oracle.gather(x, 2, Uint32Array.from([10, 0, 10])), [
    at(x, 20),
    at(x, 21),
    at(x, 0),
    at(x, 1),
    at(x, 20),
    at(x, 21),
  ]);
});

it('attention, causal', () => {
  const [tokens, headDim, scale] = [5, 6, 0.4];
  const [q, k, v] = [0, 1, 2].map(() => randomNormal(random, tokens * headDim)) as [
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  const expected: number[] = [];
  for (let query = 0; query < tokens; query++) {
    const scores = Array.from({ length: query + 1 }, (_, key) =>
      Math.exp(scale * sum(headDim, (d) => at(q, query * headDim + d) * at(k, key * headDim + d))),
    );
    const total = sum(scores.length, (i) => scores[i] as number);
    for (let d = 0; d < headDim; d++) {
      expected.push(sum(scores.length, (key) => ((scores[key] as number) / total) * at(v, key * headDim + d)));
    }
  }
  expectClose(
    oracle.attention(q, k, v, headDim, scale, (query, key) => key <= query),
    expected,
  );
});
