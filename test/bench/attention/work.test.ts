import { expect, test } from 'vitest';
import { naiveAttention } from '../../kernels/attention-cases.ts';
import { joinShares } from './peers/contender.ts';
import { matmulForm, shareData } from './peers/matmul-form.ts';
import { exactRow, operations, shareWork, visibleTokens, type Work, workData } from './work.ts';

const work: Work = { headDim: 8, group: 3, kvHeads: 5, context: 20, sequences: 3, chunk: 4, place: 'dram' };

test('every head of every sequence is one thread’s, also where they don’t divide evenly', () => {
  for (const threads of [1, 2, 3, 4, 7]) {
    const owners = new Map<string, number>();
    for (const { firstSequence, sequences, firstHead, kvHeads } of shareWork(work, threads)) {
      for (let s = 0; s < sequences; s++) {
        for (let h = 0; h < kvHeads; h++) {
          const place = `${firstSequence + s}.${firstHead + h}`;
          owners.set(place, (owners.get(place) ?? 0) + 1);
        }
      }
    }
    expect(owners.size).toBe(work.sequences * work.kvHeads);
    expect([...owners.values()].every((count) => count === 1)).toBe(true);
  }
});

test('a chunk sees what came before it, and of itself no later token', () => {
  expect(visibleTokens(work)).toBe(17 + 18 + 19 + 20);
  expect(operations({ ...work, chunk: 1, sequences: 1, kvHeads: 1, group: 1 })).toBe(20 * 8 * 4);
});

test('shares put together are the whole', () => {
  const data = workData(work);
  for (const threads of [1, 2, 4]) {
    const parts = shareWork(work, threads).map((share) => ({ share, output: shareData(work, share, data).q }));
    expect(joinShares(work, parts)).toEqual(Float32Array.from(data.q));
  }
});

test('products and a softmax in matrix form are the attention of each row', () => {
  const data = workData(work);
  const { matrices, rows, q, keys, values, mask, toRows } = matmulForm(work, data, 2);
  const { headDim, context } = work;
  const output = new Float32Array(q.length);
  for (let m = 0; m < matrices; m++) {
    for (let row = 0; row < rows; row++) {
      const at = (m * rows + row) * headDim;
      const visible = Array.from({ length: context }, (_, t) => t).filter(
        (t) => (mask?.[row * context + t] ?? 0) === 0,
      );
      const column = (t: number) =>
        Array.from({ length: headDim }, (_, d) => keys[(m * headDim + d) * context + t] as number);
      const k = visible.map(column);
      const v = visible.map((t) => values.subarray((m * context + t) * headDim, (m * context + t + 1) * headDim));
      output.set(naiveAttention(q.subarray(at, at + headDim), k, v, 0, [0, k.length], 1), at);
    }
  }
  const ordered = toRows(output);
  for (const [sequence, token, head] of [
    [0, 0, 0],
    [2, 3, 14],
    [1, 2, 7],
  ] as const) {
    const from = ((sequence * work.chunk + token) * work.kvHeads * work.group + head) * headDim;
    const exact = exactRow(work, data, sequence, token, head);
    for (const [d, x] of exact.entries()) expect(ordered[from + d]).toBeCloseTo(x, 5);
  }
});
