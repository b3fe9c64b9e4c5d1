/** The `wasm` dense backend reproduces the goldens, with reference attention beside it. */
import { createWasmDense, type DenseBackend } from '@glinthawk/dense';
import { openModel } from '@glinthawk/model';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { describeWithModel } from '../models.ts';
import { ReferenceAttentionSource } from '../reference/attention.ts';
import { generateNaively } from '../reference/generate.ts';
import { expectFirstTop, loadGolden } from './golden.ts';

const tiny = ['llama3', 'llama_bias', 'mistral', 'qwen2', 'qwen3', 'qwen3_yarn'].map((name) => `tiny/${name}`);

for (const name of ['tale-1m', 'stories260K', ...tiny]) {
  describeWithModel(`wasm dense on ${name}`, name, (path) => {
    let dense: DenseBackend;
    beforeAll(async () => {
      const model = await openModel(path);
      dense = await createWasmDense(model, { workers: 2 });
      await model.close();
    });
    afterAll(() => dense.close());

    for (const [index, golden] of loadGolden(path).entries()) {
      it(`case ${index}: ${golden.promptIds.length} prompt tokens, ${golden.greedyIds.length} generated`, async () => {
        const { ids, first } = await generateNaively(
          dense,
          new ReferenceAttentionSource(),
          golden.promptIds,
          golden.greedyIds.length,
        );
        expect(ids).toEqual(golden.greedyIds);
        expectFirstTop(first, golden, 1e-3);
      });
    }
  });
}

// Slow beside plain attention loops: one short case here; the engine's goldens run them all.
describeWithModel('wasm dense on smollm2-135m-instruct', 'smollm2-135m-instruct', (path) => {
  it('the shortest case: first log-probabilities and generated ids', async () => {
    const model = await openModel(path);
    const dense = await createWasmDense(model, { workers: 2 });
    await model.close();
    try {
      const cases = [...loadGolden(path)].sort((a, b) => a.promptIds.length - b.promptIds.length);
      const golden = cases[0];
      if (golden === undefined) throw new Error('no golden case');
      const count = Math.min(16, golden.greedyIds.length);
      const { ids, first } = await generateNaively(dense, new ReferenceAttentionSource(), golden.promptIds, count);
      expect(ids).toEqual(golden.greedyIds.slice(0, count));
      expectFirstTop(first, golden, 1e-3);
    } finally {
      await dense.close();
    }
  });
});
