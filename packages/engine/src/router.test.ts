import type { AttentionGeometry } from '@glinthawk/core';
import type { DenseBatch } from '@glinthawk/dense';
import { describe, expect, it } from 'vitest';
import { KvPart, KvShard } from './kv-shard.ts';
import type { NodeConnection } from './node-connection.ts';
import { Router } from './router.ts';
import type { Sequence } from './sequence.ts';
import { SplitRows } from './split-rows.ts';
import { layOutStep, type Segment } from './step-layout.ts';

const geometry: AttentionGeometry = {
  layers: 1,
  kvHeads: 1,
  groupSize: 2,
  headDim: 2,
  softmaxScale: 1,
  windows: [0],
  maxContextTokens: 100,
};
const QKV = 8; // (2 + 2) · 1 · 2
const OUTPUT = 4;

interface Arrays {
  readonly qkv: Float32Array;
  readonly output: Float32Array;
  readonly logSumExp?: Float32Array;
}

/** A node that answers each row with its first number times `factor`, and a log-sum-exp of its own. */
function nodeOf(index: number, factor: number, logSumExp: number) {
  const given: Arrays[] = [];
  const attend = async (_step: number, _layer: number, { rows }: Segment, arrays: Arrays) => {
    given.push(arrays);
    await null;
    for (let row = 0; row < rows; row++) {
      arrays.output.fill(factor * (arrays.qkv[row * QKV] as number), row * OUTPUT, (row + 1) * OUTPUT);
    }
    arrays.logSumExp?.fill(logSumExp);
  };
  const node = { index, attends: 0, busyPerAttendMs: 0, attend } as unknown as NodeConnection;
  return { node, given };
}

let slots = 0;
function part(node: number, firstToken: number, tokens: number): KvPart<Sequence> {
  const shard = new KvShard<Sequence>({ node, index: 0 }, { blockTokens: 16, stepTokens: 512, windows: [0] }, 9);
  const made = new KvPart<Sequence>(null, shard, { index: slots++, generation: 1 }, firstToken);
  made.tokens = tokens;
  return made;
}

function batchOf(rows: number): DenseBatch {
  const qkv = Float32Array.from({ length: rows * QKV }, (_, i) => Math.floor(i / QKV) + 1);
  return { qkv, attended: new Float32Array(rows * OUTPUT).fill(Number.NaN) } as unknown as DenseBatch;
}

/** Row by row: the number that all of its output is. */
const rowsOf = ({ attended }: DenseBatch) =>
  Array.from({ length: attended.length / OUTPUT }, (_, row) => {
    const numbers = new Set(attended.subarray(row * OUTPUT, (row + 1) * OUTPUT));
    expect(numbers.size).toBe(1);
    return [...numbers][0] as number;
  });

describe('attend', () => {
  const router = new Router(geometry);
  const step = (rows: Parameters<typeof layOutStep>[0], nodes: readonly NodeConnection[]) => ({
    id: 1,
    ...layOutStep(rows, (index) => nodes[index] ?? null),
  });

  it('contexts that lie whole: rows go out from where they lie and come back there, and no buffer is made', async () => {
    const [a, b] = [nodeOf(0, 10, 0), nodeOf(1, 100, 0)];
    const split = new SplitRows(router.widths);
    const batch = batchOf(5);
    const laid = step(
      [
        { row: 0, count: 3, position: 4, parts: [part(0, 0, 4)] },
        { row: 3, count: 2, position: 0, parts: [part(1, 0, 0)] },
      ],
      [a.node, b.node],
    );
    split.reserve(laid.stagedRows);
    await router.attend(batch, split, laid, 0);
    expect(rowsOf(batch)).toEqual([10, 20, 30, 400, 500]);
    expect({ bytes: split.bytes, copiedBytes: split.copiedBytes }).toEqual({ bytes: 0, copiedBytes: 0 });
    for (const { qkv, output, logSumExp } of [...a.given, ...b.given]) {
      expect(qkv.buffer).toBe(batch.qkv.buffer);
      expect(output.buffer).toBe(batch.attended.buffer);
      expect(logSumExp).toBe(undefined);
    }
  });

  it('one that is split over two nodes, beside others: merged by log-sum-exp, the others as ever', async () => {
    const [a, b] = [nodeOf(0, 10, Math.log(3)), nodeOf(1, 100, Math.log(1))];
    const split = new SplitRows(router.widths);
    const batch = batchOf(4);
    const laid = step(
      [
        { row: 0, count: 1, position: 4, parts: [part(0, 0, 4)] },
        { row: 1, count: 2, position: 32, parts: [part(0, 0, 32), part(1, 32, 0)] },
        { row: 3, count: 1, position: 9, parts: [part(1, 0, 9)] },
      ],
      [a.node, b.node],
    );
    for (const layer of [0, 1]) {
      split.reserve(laid.stagedRows);
      const { bytes } = split;
      await router.attend(batch, split, laid, layer);
      expect(rowsOf(batch)).toEqual([10, 0.75 * 20 + 0.25 * 200, 0.75 * 30 + 0.25 * 300, 400]);
      expect(split.bytes).toBe(bytes);
    }
    expect(b.given[0]?.qkv.buffer).toBe(batch.qkv.buffer);
    expect(split.copiedBytes).toBe(2 * 4 * OUTPUT * (1 + 2 * 2));
    split.destroy();
    expect(split.bytes).toBe(0);
  });

  it('rows of a node that are no neighbours are gathered, and put back', async () => {
    const [a, b] = [nodeOf(0, 10, 0), nodeOf(1, 100, 0)];
    const split = new SplitRows(router.widths);
    const batch = batchOf(3);
    const laid = step(
      [
        { row: 0, count: 1, position: 4, parts: [part(0, 0, 4)] },
        { row: 1, count: 1, position: 4, parts: [part(1, 0, 4)] },
        { row: 2, count: 1, position: 20, parts: [part(0, 0, 16), part(1, 16, 4)] },
      ],
      [a.node, b.node],
    );
    split.reserve(laid.stagedRows);
    await router.attend(batch, split, laid, 0);
    expect(rowsOf(batch)).toEqual([10, 200, 0.5 * 30 + 0.5 * 300]);
    expect(Array.from(a.given[0]?.qkv ?? []).filter((_, i) => i % QKV === 0)).toEqual([1, 3]);
  });

  it('one piece fails: it is thrown when all have settled, and nothing is merged', async () => {
    const a = nodeOf(0, 10, 0);
    let settled = false;
    const slow = {
      ...a.node,
      attend: () =>
        new Promise<void>((resolve) => setTimeout(resolve, 20)).then(() => {
          settled = true;
        }),
    };
    const failing = { ...a.node, attend: () => Promise.reject(new Error('no')) };
    const laid = step([{ row: 0, count: 1, position: 20, parts: [part(0, 0, 16), part(1, 16, 4)] }], [
      failing,
      slow,
    ] as unknown as NodeConnection[]);
    const split = new SplitRows(router.widths);
    split.reserve(laid.stagedRows);
    const batch = batchOf(1);
    await expect(router.attend(batch, split, laid, 0)).rejects.toThrow('no');
    expect(settled).toBe(true);
    expect(batch.attended.every(Number.isNaN)).toBe(true);
  });
});
