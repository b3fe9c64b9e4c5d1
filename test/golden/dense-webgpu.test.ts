/** The `webgpu` dense backend reproduces the goldens, with reference attention beside it, in every weight format. */
import type { DenseBackend } from '@glinthawk/dense';
import { createWebGpuDense, type GpuDevice, openGpuDevice, type WebGpuDenseOptions } from '@glinthawk/dense/webgpu';
import { openModel } from '@glinthawk/model';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { describeWithModel } from '../models.ts';
import { ReferenceAttentionSource } from '../reference/attention.ts';
import { generateNaively } from '../reference/generate.ts';
import { describeWithWebGpu } from '../webgpu.ts';
import { expectFirstTop, loadGolden } from './golden.ts';

const tiny = ['llama3', 'llama_bias', 'mistral', 'qwen2', 'qwen3', 'qwen3_yarn'].map((name) => `tiny/${name}`);

/** What f16 weights do to a first step's logits, over f32 arithmetic's own error. */
const formats: readonly (WebGpuDenseOptions & { readonly tolerance: number })[] = [
  { weightDtype: 'f32', tolerance: 1e-3 },
  { weightDtype: 'f16', f16Kernels: 'auto', tolerance: 2e-2 },
  { weightDtype: 'f16', f16Kernels: 'packed', tolerance: 2e-2 },
];

describeWithWebGpu('webgpu dense', () => {
  let gpu: GpuDevice;
  beforeAll(async () => {
    gpu = await openGpuDevice({ allowSoftware: true });
  });
  afterAll(() => gpu.close());

  for (const name of ['tale-1m', 'stories260K', ...tiny]) {
    describeWithModel(`on ${name}`, name, (path) => {
      for (const { tolerance, ...options } of formats) {
        describe(`${options.weightDtype} ${options.f16Kernels ?? ''}`, () => {
          let dense: DenseBackend;
          beforeAll(async () => {
            const model = await openModel(path);
            dense = await createWebGpuDense(gpu, model, options);
            await model.close();
          });
          afterAll(() => dense.close());

          // Every case in f32, two in f16: the engine's goldens run them all.
          const cases = options.weightDtype === 'f16' ? loadGolden(path).slice(0, 2) : loadGolden(path);
          for (const [index, golden] of cases.entries()) {
            it(`case ${index}: ${golden.promptIds.length} prompt tokens, ${golden.greedyIds.length} generated`, async () => {
              const { ids, first } = await generateNaively(
                dense,
                new ReferenceAttentionSource(),
                golden.promptIds,
                golden.greedyIds.length,
              );
              expectFirstTop(first, golden, tolerance);
              expect(ids).toEqual(golden.greedyIds);
            });
          }
        });
      }
    });
  }

  // Slow on a software adapter: three short cases and the first ids of each.
  describeWithModel('on smollm2-135m-instruct', 'smollm2-135m-instruct', (path) => {
    const cases = [...loadGolden(path)].sort((a, b) => a.promptIds.length - b.promptIds.length).slice(0, 3);
    let dense: DenseBackend;
    beforeAll(async () => {
      const model = await openModel(path);
      dense = await createWebGpuDense(gpu, model);
      await model.close();
    });
    afterAll(() => dense.close());

    for (const golden of cases) {
      const count = Math.min(12, golden.greedyIds.length);
      it(`${golden.promptIds.length} prompt tokens, the first ${count} of ${golden.greedyIds.length} generated`, async () => {
        const { ids, first } = await generateNaively(dense, new ReferenceAttentionSource(), golden.promptIds, count);
        expectFirstTop(first, golden, 2e-2);
        expect(ids).toEqual(golden.greedyIds.slice(0, count));
      });
    }
  });
});
