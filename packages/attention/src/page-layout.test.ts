import type { AttentionGeometry, KvDtype } from '@glinthawk/core';
import { describe, expect, it } from 'vitest';
import { defaultBlockTokens, pageLayout } from './page-layout.ts';

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

describe('block sizes', () => {
  it.each<[string, AttentionGeometry, KvDtype, number, number]>([
    ['stories260K: short contexts, small blocks', model(5, 4, 8, 512), 'f32', GIB, 32],
    ['SmolLM2: pages of 64 KiB', model(30, 3, 64, 8192), 'f16', 3 * GIB, 256],
    ['Llama 8B: pages of 64 KiB', model(32, 8, 128, 131072), 'f16', 3 * GIB, 128],
    ['Llama 8B, f32', model(32, 8, 128, 131072), 'f32', 3 * GIB, 64],
    ['Llama 8B in little memory: enough blocks', model(32, 8, 128, 131072), 'f16', GIB / 4, 16],
    ['contexts of 20 tokens', model(1, 1, 128, 20), 'f16', GIB, 16],
  ])('%s', (_, geometry, kvDtype, shardBytes, blockTokens) => {
    expect(defaultBlockTokens(geometry, kvDtype, shardBytes)).toBe(blockTokens);
  });
});

it('a block has the layers of one group', () => {
  const alike = model(6, 2, 16, 64);
  const mixed = { ...alike, windows: [32, 32, 0, 32, 32, 0] };
  expect(pageLayout(mixed, 'f16', 16).blockBytes).toBe(pageLayout(alike, 'f16', 16).blockBytes / 3);
});

it('a page is K, V and int8 scales; a block is the pages of all heads and of the layers of a group, and padding', () => {
  const geometry = model(3, 2, 12, 64); // 12 is padded to 16
  expect(pageLayout(geometry, 'int8', 16)).toEqual({
    blockTokens: 16,
    paddedDim: 16,
    valueOffset: 256,
    scaleOffset: 512,
    pageBytes: 640,
    blockBytes: 3840,
  });
  expect(pageLayout(model(2, 1, 128, 64), 'f32', 64)).toMatchObject({ pageBytes: 65536, blockBytes: 2 * 65536 + 320 });
});
