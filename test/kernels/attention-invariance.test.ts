/**
 * A row's output is the same bit for bit however its sequence was cut into runs: decoded token by token, prefilled in chunks of any
 * length, or both. An engine that batches differently, or resumes after the loss of a node, then gets the same tokens.
 */
import { createInlineAttention, type Int8Kernel, type KernelBuild } from '@glinthawk/attention';
import { type AttentionGeometry, type KvDtype, outputRowFloats, qkvRowFloats } from '@glinthawk/core';
import { describe, expect, it } from 'vitest';
import { fillNormal, kernelVariants, randomSource } from './attention-cases.ts';

/** Two tiles of four blocks, a third begun. */
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
): Promise<Uint32Array> {
  const backend = await createInlineAttention(geometry, {
    ...variant,
    blockTokens: BLOCK_TOKENS,
    memoryBytes: 16 << 20,
  });
  const slot = { index: 0, generation: 0 };
  backend.open(slot, 0);
  const output = new Float32Array(TOKENS * outputRowFloats(geometry));
  let position = 0;
  for (const [id, count] of runs.entries()) {
    backend.announce({ id, entries: [{ slot, position, count }] });
    const rows = (array: Float32Array, width: number) => array.subarray(position * width, (position + count) * width);
    await backend.attend(id, 0, rows(qkv, qkvRowFloats(geometry)), rows(output, outputRowFloats(geometry)));
    backend.retire(id);
    position += count;
  }
  await backend.close();
  expect(position).toBe(TOKENS);
  return new Uint32Array(output.buffer);
}

/** Runs of up to `longest` tokens that add up to TOKENS. */
function cut(random: () => number, longest: number): number[] {
  const runs: number[] = [];
  for (let left = TOKENS; left > 0; left -= runs.at(-1) ?? left)
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
});
