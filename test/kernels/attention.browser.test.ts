/** Attention kernels in a browser: the shared cases on every build and KV dtype, and on a pool of Web Workers. */
import { attentionKernelInfo, createLocalAttention } from '@glinthawk/attention';
import { describe, expect, it } from 'vitest';
import {
  attentionCases,
  beyondTolerance,
  checkAttentionCase,
  kernelVariants,
  runAttentionCase,
} from './attention-cases.ts';

it('this browser runs relaxed SIMD and shares memory with workers, so that both builds and the pool are tested', () => {
  expect(attentionKernelInfo()).toMatchObject({ build: 'relaxed', relaxedSimd: true, sharedMemory: true });
});

for (const { name, kvDtype, build, int8 } of kernelVariants) {
  describe(`attention, ${name}`, () => {
    for (const testCase of attentionCases) {
      it(testCase.name, async () => {
        expect(await checkAttentionCase(testCase, kvDtype, build, int8)).toEqual([]);
      });
    }
  });
}

describe.each(kernelVariants)('attention, $name, on three Web Workers', ({ kvDtype, build, int8 }) => {
  for (const testCase of attentionCases.filter(({ runs }) => runs.length > 2).slice(0, 3)) {
    it(testCase.name, async () => {
      const { geometry, blockTokens } = testCase;
      const options = { kvDtype, build, int8, blockTokens, workers: 3, shards: 2, memoryBytes: 256 << 20 };
      const pool = await createLocalAttention(geometry, options);
      expect(beyondTolerance(await runAttentionCase(pool, testCase), kvDtype, int8)).toEqual([]);
      expect(pool.stats()).toMatchObject({ usedBlocks: 0, openSlots: 0 });
      await pool.close();
      expect(pool.allocatedBytes()).toBe(0);
    });
  }
});
