/** Rows that come and go in a backend's own memory, in each row dtype, against attend() on what they round to. */
import {
  type AttentionGeometry,
  decodeRows,
  encodeRows,
  type KvDtype,
  outputRowBytes,
  qkvRowBytes,
  type RowDtype,
} from '@glinthawk/core';
import { afterEach, describe, expect, it } from 'vitest';
import { fillNormal, randomSource } from '../../../test/kernels/attention-cases.ts';
import type { AttentionBackend, StagedAttention } from './backend.ts';
import { createInlineAttention } from './inline.ts';
import { createLocalAttention } from './pool.ts';

const geometry: AttentionGeometry = {
  layers: 2,
  kvHeads: 3,
  groupSize: 2,
  headDim: 14,
  softmaxScale: 0.3,
  windows: [0, 0],
  maxContextTokens: 128,
};
const QKV_HEADS = 12;
const HEADS = 6;
const slot = (index: number) => ({ index, generation: 0 });
const opened: AttentionBackend[] = [];

afterEach(async () => {
  for (const backend of opened.splice(0)) await backend.close();
});

async function create(kvDtype: KvDtype, rowDtype: RowDtype, workers: number): Promise<StagedAttention> {
  const options = { kvDtype, rowDtype, memoryBytes: 1 << 20, blockTokens: 16, shards: 2 };
  const backend = await (workers === 0
    ? createInlineAttention(geometry, options)
    : createLocalAttention(geometry, { ...options, workers }));
  opened.push(backend);
  for (const index of [0, 1, 2]) backend.open(slot(index), index === 2 ? 1 : 0);
  return backend;
}

/** A step over both memories, in the order of entries. */
const entries = [0, 1, 2].map((index) => ({ slot: slot(index), position: 0, count: 3 + index }));
const rows = 12;

describe.each<[RowDtype, KvDtype, number]>([
  ['f32', 'f16', 0],
  ['f32', 'f32', 2],
  ['f16', 'f32', 0],
  ['f16', 'int8', 2],
  ['int8', 'f32', 2],
  ['int8', 'bf16', 0],
])('staged rows in %s, KV in %s, %i workers', (rowDtype, kvDtype, workers) => {
  it('are attended to as rows that lie elsewhere', async () => {
    const staged = await create(kvDtype, rowDtype, workers);
    const plain = await create(kvDtype, 'f32', 0);
    const random = randomSource(5);
    for (const backend of [staged, plain]) backend.announce({ id: 1, entries });
    for (let layer = 0; layer < geometry.layers; layer++) {
      const bytes = new Uint8Array(rows * qkvRowBytes(geometry, rowDtype));
      const floats = fillNormal(new Float32Array(rows * QKV_HEADS * geometry.headDim), random);
      encodeRows(rowDtype, QKV_HEADS, geometry.headDim, floats, bytes);
      decodeRows(rowDtype, QKV_HEADS, geometry.headDim, bytes, floats);
      const pieces = staged.staged(1);
      expect(pieces.qkv.map(({ length }) => length / qkvRowBytes(geometry, rowDtype))).toEqual([7, 5]);
      let at = 0;
      for (const piece of pieces.qkv) {
        piece.set(bytes.subarray(at, at + piece.length));
        at += piece.length;
      }
      const [lse, plainLse] = [new Float32Array(rows * HEADS), new Float32Array(rows * HEADS)];
      await staged.attendStaged(1, layer, lse);
      const expected = new Float32Array(rows * HEADS * geometry.headDim);
      await plain.attend(1, layer, floats, expected, plainLse);
      const output = new Uint8Array(rows * outputRowBytes(geometry, rowDtype));
      at = 0;
      for (const piece of staged.staged(1).output) {
        output.set(piece, at);
        at += piece.length;
      }
      const expectedBytes = new Uint8Array(output.length);
      encodeRows(rowDtype, HEADS, geometry.headDim, expected, expectedBytes);
      expect(output).toEqual(expectedBytes);
      expect(lse).toEqual(plainLse);
    }
  });
});

it('rows of other dtypes are refused by attend', async () => {
  const backend = await create('f32', 'f16', 0);
  backend.announce({ id: 1, entries });
  await expect(backend.attend(1, 0, new Float32Array(1e4), new Float32Array(1e4))).rejects.toThrow(/use attendStaged/);
});

it('a step that failed, or is not there, has no rows', async () => {
  const backend = await create('f32', 'f32', 0);
  expect(() => backend.staged(1)).toThrow(/isn't announced/);
  backend.announce({ id: 1, entries: [{ slot: slot(0), position: 5, count: 1 }] });
  expect(() => backend.staged(1)).toThrow(/holds 0 tokens/);
  await expect(backend.attendStaged(1, 0)).rejects.toThrow(/holds 0 tokens/);
  backend.retire(1);
  expect(() => backend.staged(1)).toThrow(/isn't announced/);
});
