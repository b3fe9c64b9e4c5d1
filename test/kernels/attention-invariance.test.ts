/**
 * A row's output is the same bit for bit however its sequence was cut into runs: decoded token by token, prefilled in chunks of any
 * length, or both; and whatever the size of blocks, and wherever they lie. An engine that batches differently, or resumes after the loss of a node, then gets the same tokens.
 */
import { createInlineAttention, type Int8Kernel, type KernelBuild } from '@glinthawk/attention';
import { type AttentionGeometry, type KvDtype, outputRowFloats, qkvRowFloats } from '@glinthawk/core';
import { describe, expect, it } from 'vitest';
import { fillNormal, kernelVariants, randomSource } from './attention-cases.ts';

const TOKENS = 150;
const BLOCK_TOKENS = 16;

interface Variant {
  readonly kvDtype: KvDtype;
  readonly build: KernelBuild;
  readonly int8: Int8Kernel;
}

async function attendInRuns(
  geometry: AttentionGeometry,
  variant: Variant,
  qkv: Float32Array, // [TOKENS, qkvRowFloats]
  runs: readonly number[],
  blockTokens = BLOCK_TOKENS,
): Promise<Uint32Array> {
  const tokens = qkv.length / qkvRowFloats(geometry);
  const backend = await createInlineAttention(geometry, {
    ...variant,
    blockTokens,
    memoryBytes: 16 << 20,
  });
  const slot = { index: 0, generation: 0 };
  backend.open(slot, 0);
  const output = new Float32Array(tokens * outputRowFloats(geometry));
  let position = 0;
  for (const [id, count] of runs.entries()) {
    backend.announce({ id, entries: [{ slot, position, count }] });
    const rows = (array: Float32Array, width: number) => array.subarray(position * width, (position + count) * width);
    await backend.attend(id, 0, rows(qkv, qkvRowFloats(geometry)), rows(output, outputRowFloats(geometry)));
    backend.retire(id);
    position += count;
  }
  await backend.close();
  expect(position).toBe(tokens);
  return new Uint32Array(output.buffer);
}

/** Runs of up to `longest` tokens that add up to `tokens`. */
function cut(random: () => number, longest: number, tokens = TOKENS): number[] {
  const runs: number[] = [];
  for (let left = tokens; left > 0; left -= runs.at(-1) ?? left)
    runs.push(Math.min(left, 1 + Math.floor(random() * longest)));
  return runs;
}

describe.each(kernelVariants)('$name', (variant) => {
  for (const [groupSize, headDim, window] of [
    [1, 32, 0],
    [1, 24, 37],
    [2, 8, 0],
    [3, 72, 0],
    [4, 32, 0],
    [4, 16, 37],
    [5, 8, 0],
    [7, 32, 0],
    [8, 24, 37],
    [13, 8, 0],
  ] as const) {
    it(`group ${groupSize}, head_dim ${headDim}, window ${window}: any cut gives the same bits`, async () => {
      const geometry: AttentionGeometry = {
        layers: 1,
        kvHeads: 1,
        groupSize,
        headDim,
        softmaxScale: 1 / Math.sqrt(headDim),
        windows: [window],
        maxContextTokens: 256,
      };
      const random = randomSource(groupSize * 1009 + headDim + window);
      const qkv = fillNormal(new Float32Array(TOKENS * qkvRowFloats(geometry)), random, 2);
      const whole = await attendInRuns(geometry, variant, qkv, [TOKENS]);
      for (const longest of [1, 3, 7, 20, 64, 100]) {
        const runs = cut(random, longest);
        const cutUp = await attendInRuns(geometry, variant, qkv, runs);
        const differing = cutUp.findIndex((bits, i) => bits !== whole[i]);
        expect({ runs, differing }).toEqual({ runs, differing: -1 });
      }
    });
  }

  for (const [groupSize, headDim, window] of [
    [1, 8, 0],
    [2, 16, 300],
    [4, 8, 0],
    [5, 16, 300],
  ] as const) {
    it(`group ${groupSize}, head_dim ${headDim}, window ${window}: any size of blocks gives the same bits`, async () => {
      const tokens = 1100;
      const geometry: AttentionGeometry = {
        layers: 1,
        kvHeads: 1,
        groupSize,
        headDim,
        softmaxScale: 1 / Math.sqrt(headDim),
        windows: [window],
        maxContextTokens: 2048,
      };
      const random = randomSource(groupSize * 2003 + headDim + window);
      const qkv = fillNormal(new Float32Array(tokens * qkvRowFloats(geometry)), random, 2);
      const whole = await attendInRuns(geometry, variant, qkv, [tokens], 32);
      for (const blockTokens of [16, 32, 64, 256, 512]) {
        const runs = cut(random, 400, tokens);
        const bits = await attendInRuns(geometry, variant, qkv, runs, blockTokens);
        const differing = bits.findIndex((word, i) => word !== whole[i]);
        expect({ blockTokens, runs, differing }).toEqual({ blockTokens, runs, differing: -1 });
      }
    });
  }
});
