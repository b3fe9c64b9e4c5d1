import { type AttentionGeometry, InputError, type KvDtype } from '@glinthawk/core';
import { expect, it } from 'vitest';
import { copyBlock, KV_DTYPES, pageLayout } from './page-layout.ts';

const GIB = 2 ** 30;
const model = (layers: number, kvHeads: number, headDim: number, maxContextTokens: number): AttentionGeometry => ({
  layers,
  kvHeads,
  groupSize: 1,
  headDim,
  softmaxScale: 1,
  windows: Array.from({ length: layers }, () => 0),
  maxContextTokens,
});

it('a page is K, V and int8 scales; a frame is the pages of all layers and heads, and blocks are parts of it', () => {
  const geometry = model(3, 2, 12, 64); // 12 is padded to 16
  expect(pageLayout(geometry, 'int8', 16)).toEqual({
    blockTokens: 16,
    paddedDim: 16,
    pageTokens: 256,
    valueOffset: 4096,
    scaleOffset: 8192,
    pageBytes: 10240,
    frameBlocks: 16,
    frameBytes: 61440,
    blockBytes: 3840,
  });
  expect(pageLayout(model(1, 1, 128, 64), 'f32', 512)).toMatchObject({ pageTokens: 512, frameBlocks: 1 });
  for (const kvDtype of KV_DTYPES) expect(pageLayout(geometry, kvDtype, 16).pageBytes % 64).toBe(0);
});

it.each<[string, AttentionGeometry, KvDtype, number, number]>([
  ['in a large memory', model(32, 8, 128, 131072), 'f16', 2 * GIB, 256],
  ['in a small one', model(32, 8, 128, 131072), 'f16', GIB / 8, 64],
  ['in one of a few blocks', model(32, 8, 128, 131072), 'f16', 32 << 20, 32],
  ['of a small model', model(5, 4, 8, 512), 'f32', 16 << 20, 256],
])('pages %s', (_, geometry, kvDtype, memoryBytes, pageTokens) => {
  expect(pageLayout(geometry, kvDtype, 32, memoryBytes).pageTokens).toBe(pageTokens);
});

it('blocks are powers of two, 16 to 512 tokens', () => {
  for (const blockTokens of [0, 8, 48, 1024, 32.5, Number.NaN]) {
    expect(() => pageLayout(model(1, 1, 8, 64), 'f32', blockTokens)).toThrow(InputError);
  }
});

it.each(KV_DTYPES)('copying a block copies its part of all pages, and nothing else: %s', (kvDtype) => {
  const layout = pageLayout(model(2, 3, 20, 64), kvDtype, 64);
  const { frameBytes, blockBytes, pageBytes, frameBlocks } = layout;
  const memory = new Uint8Array(2 * frameBytes);
  for (let i = 0; i < frameBytes; i++) memory[i] = 1 + (i % 251);
  copyBlock(memory, layout, 1, frameBytes + 3);
  let copied = 0;
  for (let i = 0; i < frameBytes; i++) if (memory[frameBytes + i] !== 0) copied++;
  expect(copied).toBe((6 * pageBytes) / frameBlocks);
  expect(copied).toBe(Math.floor(blockBytes) - (frameBytes - 6 * pageBytes) / frameBlocks);
  // All blocks, each to where it is in another frame, make the same frame.
  for (let i = 0; i < frameBlocks; i++) copyBlock(memory, layout, i, frameBytes + i);
  expect(Buffer.compare(memory.subarray(frameBytes), memory.subarray(0, frameBytes))).toBe(
    frameBytes > 6 * pageBytes ? -1 : 0,
  );
});
