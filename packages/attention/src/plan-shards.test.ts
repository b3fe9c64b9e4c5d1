/** Memories: as few as KV needs, equal, each below 4 GiB; and what a token of KV really takes. */
import { type AttentionGeometry, CapacityError, InputError, type KvDtype } from '@glinthawk/core';
import { describe, expect, it } from 'vitest';
import { layerGroups } from './kv-blocks.ts';
import { kvTokenBytes } from './kv-token-bytes.ts';
import { planShards } from './plan-shards.ts';
import { MAX_MEMORY_BYTES } from './wasm-heap.ts';

const GIB = 2 ** 30;
const model = (layers: number, kvHeads: number, groupSize: number, headDim: number, maxContextTokens: number) => ({
  layers,
  kvHeads,
  groupSize,
  headDim,
  softmaxScale: 1,
  windows: Array.from({ length: layers }, () => 0),
  maxContextTokens,
});
const smollm2 = model(30, 3, 3, 64, 8192);
const llama8b = model(32, 8, 4, 128, 131072);
const llama70b = model(80, 8, 8, 128, 131072);
/** Five layers of six see 1,024 tokens. */
const gemma: AttentionGeometry = {
  ...model(48, 8, 2, 256, 131072),
  windows: Array.from({ length: 48 }, (_, layer) => (layer % 6 === 5 ? 0 : 1024)),
};

describe('memories', () => {
  it.each<[string, AttentionGeometry, KvDtype, number, number, number]>([
    ['SmolLM2 in 1 GiB', smollm2, 'f16', 1, 2, 1],
    ['SmolLM2 in 1 GiB on 64 workers', smollm2, 'f16', 1, 64, 1],
    ['Llama 8B in 3 GiB', llama8b, 'f16', 3, 8, 1],
    ['Llama 8B in 8 GiB on one worker', llama8b, 'int8', 8, 1, 3],
    ['Llama 70B in 500 GiB on 128 workers', llama70b, 'f16', 500, 128, 160],
    ['layer groups in 64 GiB', gemma, 'bf16', 64, 16, 20],
  ])('%s', (_, geometry, kvDtype, gibs, workers, shards) => {
    const memoryBytes = gibs * GIB;
    const plan = planShards(geometry, { kvDtype, workers, memoryBytes, blockTokens: 32 });
    expect(plan.shards).toBe(shards);
    const { baseBytes, keptBytes, stagingBytes, blocks, frameBlocks, frameBytes } = plan.heap;
    const kvBytes = (blocks / frameBlocks) * frameBytes;
    expect(blocks % frameBlocks).toBe(0);
    expect(baseBytes + keptBytes + stagingBytes + kvBytes).toBeLessThanOrEqual(MAX_MEMORY_BYTES);
    expect(plan.shards * kvBytes).toBeLessThanOrEqual(memoryBytes);
    expect(memoryBytes - plan.shards * kvBytes).toBeLessThan(plan.shards * frameBytes);
    expect(plan.maxSlots).toBeGreaterThanOrEqual(512);
  });

  it('are as many as asked for, where that is more', () => {
    const options = { kvDtype: 'f16', workers: 2, memoryBytes: GIB, blockTokens: 32 } as const;
    const one = planShards(smollm2, options);
    const four = planShards(smollm2, { ...options, shards: 4 });
    expect(four.shards).toBe(4);
    expect(4 * four.heap.blocks).toBeGreaterThan(one.heap.blocks - 4 * one.heap.frameBlocks);
    expect(planShards(llama8b, { ...options, memoryBytes: 16 * GIB, shards: 2 }).shards).toBeGreaterThan(4);
    expect(() => planShards(smollm2, { ...options, shards: 0 })).toThrow(InputError);
  });

  it('with no room for a block say so', () => {
    const options = { kvDtype: 'f16', memoryBytes: GIB, blockTokens: 32 } as const;
    expect(() => planShards(llama8b, { ...options, workers: 5000 })).toThrow(
      /no room for a KV block .* use fewer|no room/,
    );
    expect(() => planShards(llama8b, { ...options, workers: 2, memoryBytes: 1 << 20 })).toThrow(CapacityError);
  });
});

describe('a token of KV', () => {
  it.each<[string, AttentionGeometry, KvDtype, number]>([
    ['SmolLM2 f16', smollm2, 'f16', 2 * 2 * 64 * 3 * 30],
    ['Llama 8B bf16', llama8b, 'bf16', 2 * 2 * 128 * 8 * 32],
    ['Llama 8B int8', llama8b, 'int8', (2 * 128 + 8) * 8 * 32],
    ['Llama 70B f32', llama70b, 'f32', 2 * 4 * 128 * 8 * 80],
  ])('%s takes little more than its values', (_, geometry, kvDtype, bytes) => {
    const { theoretical, real } = kvTokenBytes(geometry, kvDtype, 1024, 32);
    expect(theoretical).toBe(bytes);
    expect(real / theoretical).toBeGreaterThan(1.01);
    expect(real / theoretical).toBeLessThan(1.02);
  });

  it('costs only what its windows keep', () => {
    const { theoretical, real } = kvTokenBytes(gemma, 'f16', 16384, 32);
    const row = 2 * 2 * 256 * 8;
    expect(theoretical).toBe(row * (8 + (40 * 1024) / 16384));
    expect(real / theoretical).toBeLessThan(1.02);
    expect(layerGroups(gemma)).toHaveLength(6);
  });
});
