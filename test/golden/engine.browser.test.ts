/**
 * The same engine in a page: goldens exactly in Chromium, dense layers on WebGPU (SwiftShader) and in WASM, attention in Web
 * Workers, models read as Blobs.
 */
import { localAttentionSource } from '@glinthawk/attention';
import { createWasmDense, createWebGpuDense, type DenseBackend, openGpuDevice } from '@glinthawk/dense';
import { createEngine } from '@glinthawk/engine';
import { blobFiles, type Model, openModelFiles } from '@glinthawk/model';
import { describe, expect, inject, it } from 'vitest';
import { expectGoldens, goldenRequests, outcomes } from './engine.ts';
import { parseGolden } from './golden-cases.ts';

declare module 'vitest' {
  interface ProvidedContext {
    readonly modelsRoot: string;
    readonly inCi: boolean;
  }
}

const files = [
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'model.safetensors',
  'golden.json',
];
const models = [
  { name: 'tale-1m', folder: new URL('../../examples/tale-1m', import.meta.url).href },
  { name: 'stories260K', folder: new URL(`/@fs${inject('modelsRoot')}/stories260K`, location.href).href },
];

/** The model's files, or null when this server hasn't got them (it then answers with a page). */
async function fetchModel(folder: string): Promise<ReadonlyMap<string, Blob> | null> {
  const blobs = new Map<string, Blob>();
  for (const file of files) {
    const response = await fetch(`${folder}/${file}`);
    if (!response.ok || response.headers.get('content-type')?.startsWith('text/html')) return null;
    blobs.set(file, await response.blob());
  }
  return blobs;
}

const backends: Readonly<Record<string, (model: Model) => Promise<{ dense: DenseBackend; done: () => unknown }>>> = {
  wasm: async (model) => ({ dense: await createWasmDense(model, { workers: 2 }), done: () => {} }),
  'webgpu, f32 weights': async (model) => {
    const gpu = await openGpuDevice({ allowSoftware: true });
    return { dense: await createWebGpuDense(gpu, model, { weightDtype: 'f32' }), done: () => gpu.close() };
  },
  'webgpu, f16 weights': async (model) => {
    const gpu = await openGpuDevice({ allowSoftware: true });
    return { dense: await createWebGpuDense(gpu, model, { weightDtype: 'f16' }), done: () => gpu.close() };
  },
};

for (const { name, folder } of models) {
  const blobs = await fetchModel(folder);
  describe.skipIf(blobs === null && !inject('inCi'))(name, () => {
    for (const [title, open] of Object.entries(backends)) {
      it(`on ${title}`, async () => {
        if (blobs === null) throw new Error(`CI needs the model ${name} in ${folder}`);
        const model = await openModelFiles(blobFiles(name, blobs));
        // SwiftShader takes half a minute for all of the longer model's stories: one of them there.
        const most = name === 'tale-1m' && title !== 'wasm' ? 1 : Number.POSITIVE_INFINITY;
        const goldens = parseGolden((await blobs.get('golden.json')?.text()) ?? '').slice(0, most);
        const { dense, done } = await open(model);
        const engine = await createEngine({
          dense,
          attention: [localAttentionSource({ workers: 2, memoryBytes: 64 * 2 ** 20 })],
          kvDtype: 'f16',
          fingerprint: model.fingerprint,
          inFlight: 2,
          ...(model.tokenizer ? { tokenizer: model.tokenizer } : {}),
        });
        const got = await outcomes(engine, goldenRequests(goldens, false));
        expectGoldens(got, goldens, { tolerance: 2e-2, texts: true });
        await engine.close();
        await dense.close();
        await done();
        await model.close();
        expect(dense.allocatedBytes()).toBe(0);
      });
    }
  });
}
