/**
 * A real instruct model from its GGUF file: every golden on `wasm`, from the prompt's text on, three short ones on WebGPU.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { createWasmDense, createWebGpuDense, type DenseBackend, openGpuDevice } from '@glinthawk/dense';
import { createEngine } from '@glinthawk/engine';
import { encodeChat, encodePrompt, type Model, openModel } from '@glinthawk/model';
import { expect, it } from 'vitest';
import { describeWithModel } from '../models.ts';
import { describeWithWebGpu } from '../webgpu.ts';
import { localNodes } from './attention-nodes.ts';
import { expectGoldens, goldenRequests, outcomes } from './engine.ts';
import { type GoldenCase, loadGolden } from './golden.ts';

const ggufIn = (folder: string) => join(folder, readdirSync(folder).find((file) => file.endsWith('.gguf')) ?? '');

async function expectAll(
  model: Model,
  dense: DenseBackend,
  goldens: readonly GoldenCase[],
  tolerance: number,
): Promise<void> {
  for (const { kind, prompt, promptIds } of goldens) {
    if (kind === 'ids') continue;
    const ids = kind === 'chat' ? encodeChat(model, [{ role: 'user', content: prompt }]) : encodePrompt(model, prompt);
    expect(ids).toEqual(promptIds);
  }
  const engine = await createEngine({
    dense,
    attention: localNodes(2, 2 ** 29).sources,
    kvDtype: 'f32',
    fingerprint: model.fingerprint,
    contextTokens: 2048,
    ...(model.tokenizer ? { tokenizer: model.tokenizer } : {}),
  });
  const got = await outcomes(engine, goldenRequests(goldens, false));
  for (const [i, golden] of goldens.entries()) {
    expect(got.get(`golden-${i}`)).toMatchObject({ ids: golden.greedyIds, reason: golden.finishReason });
  }
  expectGoldens(got, goldens, { tolerance, texts: true });
  await engine.close();
}

describeWithModel('SmolLM2-135M-Instruct, Q4_1', 'smollm2-135m-instruct', (folder) => {
  const goldens = loadGolden(folder);

  it('answers every golden on wasm', async () => {
    const model = await openModel(ggufIn(folder));
    const dense = await createWasmDense(model, { workers: 2 });
    await expectAll(model, dense, goldens, 1e-3);
    await dense.close();
    await model.close();
  });

  describeWithWebGpu('webgpu dense', () => {
    it('answers three short goldens', async () => {
      const short = [...goldens]
        .sort((a, b) => a.promptIds.length + a.greedyIds.length - b.promptIds.length - b.greedyIds.length)
        .slice(0, 3);
      const model = await openModel(ggufIn(folder));
      const gpu = await openGpuDevice({ allowSoftware: true });
      const dense = await createWebGpuDense(gpu, model, { weightDtype: 'f32' });
      await expectAll(model, dense, short, 1e-3);
      await dense.close();
      await gpu.close();
      await model.close();
    });
  });
});
