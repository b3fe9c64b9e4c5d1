/** The reference backends reproduce every golden: whatever is held to them stands on firm ground. */
import { openModel } from '@glinthawk/model';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { describeWithModel } from '../models.ts';
import { ReferenceAttentionSource } from '../reference/attention.ts';
import { openReferenceDense, type ReferenceDense } from '../reference/dense.ts';
import { generateNaively } from '../reference/generate.ts';
import { expectFirstTop, loadGolden } from './golden.ts';

const tiny = ['llama3', 'llama_bias', 'mistral', 'qwen2', 'qwen3', 'qwen3_yarn'].map((name) => `tiny/${name}`);

for (const name of ['tale-1m', 'stories260K', ...tiny]) {
  describeWithModel(`reference backends on ${name}`, name, (path) => {
    let dense: ReferenceDense;
    beforeAll(async () => {
      const model = await openModel(path);
      dense = await openReferenceDense(model);
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
        expectFirstTop(first, golden, 1e-4);
      });
    }
  });
}
