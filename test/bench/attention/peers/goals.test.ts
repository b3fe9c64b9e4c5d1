import { expect, test } from 'vitest';
import type { Work } from '../work.ts';
import type { PeerResult } from './compare.ts';
import { goalLines, goalRatios, goalSummary, leastMs } from './goals.ts';

const work: Work = { headDim: 128, group: 1, kvHeads: 8, context: 2048, sequences: 16, chunk: 1, place: 'dram' };
const result = (name: string, kv: string, best: number, least: number | null = null): PeerResult => ({
  work,
  name,
  kv,
  threads: 2,
  note: '',
  milliseconds: [best + 1, best, best + 2],
  leastMs: least,
  nmse: 0,
});
const results = [
  result('glinthawk', 'f32', 6, 5),
  result('glinthawk', 'int8', 2, 1),
  result('native C', 'f32', 1),
  result('tfjs', 'f32', 10),
  result('onnx-web', 'f32', 8),
  result('onnx-node', 'f32', 7),
  result('onnx-node GQA', 'f32', 20),
];

test('a ratio is to the fastest of those that a goal names, by the best runs', () => {
  expect(goalRatios(results)).toMatchObject([
    { kv: 'f32', peer: 'onnx-web', ratio: 8 / 6, ceiling: 8 / 5 },
    { kv: 'int8', peer: 'onnx-web', ratio: 4, ceiling: 8 },
    { kv: 'int8', peer: 'onnx-node', ratio: 3.5, ceiling: 7 },
  ]);
  expect(goalRatios(results.filter(({ name }) => name !== 'tfjs' && name !== 'onnx-web'))).toHaveLength(1);
});

test('lines say by which dtypes a goal is met, the summary where it isn’t', () => {
  expect(goalLines(results)).toEqual([
    '2 threads, goal ≥ 3x of every WASM peer: met by int8; of onnx-web: f32 1.3x (ceiling 1.6x), int8 4.0x (ceiling 8.0x)',
    '2 threads, goal ≥ 1x of native onnxruntime: met; of onnx-node: int8 3.5x (ceiling 7.0x)',
  ]);
  expect(goalSummary(results)).toEqual([
    '≥ 3x of every WASM peer, f32: in 0 of 1; not in\n  1.3x of onnx-web, ceiling 1.6x: d128 g1 kv8 ctx 2048 x16, 2 thr',
    '≥ 3x of every WASM peer, int8: in 1 of 1',
    '≥ 1x of native onnxruntime, int8: in 1 of 1',
  ]);
});

test('the least time is that of the ceiling that binds', () => {
  const ceilings = { read: 30, readTwo: 40, fma: 60, dotI16: 100, dotI8: 250, undisturbed: true };
  expect(leastMs(work, 'f32', 400e6, ceilings)).toBeCloseTo(10);
  expect(leastMs({ ...work, group: 8 }, 'f32', 40e6, ceilings)).toBeCloseTo((8 * 2048 * 16 * 8 * 128 * 4) / 60e6);
});
