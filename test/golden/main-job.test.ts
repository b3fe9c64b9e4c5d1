/**
 * The whole thing, with nothing in it replaced: goldens exactly, whatever the dense backend, transport, number of nodes, rows of
 * a micro-batch, micro-batches in flight, prefill chunks and KV dtype; and 200 prompts that come out the same everywhere.
 */
import type { KvDtype } from '@glinthawk/core';
import { createWasmDense, createWebGpuDense, type DenseBackend, type GpuDevice, openGpuDevice } from '@glinthawk/dense';
import { createEngine, type EngineStats, type GenerationRequest } from '@glinthawk/engine';
import { type Model, openModel } from '@glinthawk/model';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { describeWithModel } from '../models.ts';
import { describeWithWebGpu } from '../webgpu.ts';
import { localNodes, type Nodes, remoteNodes } from './attention-nodes.ts';
import { expectGoldens, goldenRequests, type Outcome, outcomes, requestOf } from './engine.ts';
import { loadGolden } from './golden.ts';

interface Configuration {
  readonly attention: 'local' | 'tcp' | 'ws';
  /** Nodes, or workers of the local one. */
  readonly nodes: number;
  readonly rows: number;
  readonly inFlight: number;
  readonly prefillChunk: number;
  readonly kvDtype: KvDtype;
}

/** Every value beside every value of every other column at least once, and every in-flight count. */
const configurations: Configuration[] = [];
for (const [a, attention] of (['local', 'tcp', 'ws'] as const).entries()) {
  for (const [r, rows] of [1, 7, 64].entries()) {
    for (const [c, prefillChunk] of [1, 5, 512].entries()) {
      const at = configurations.length;
      configurations.push({
        attention,
        rows,
        prefillChunk,
        nodes: 1 + ((a + r + c) % 3),
        inFlight: 1 + (at % 8),
        kvDtype: at % 2 ? 'f16' : 'f32',
      });
    }
  }
}
const title = ({ attention, nodes, rows, inFlight, prefillChunk, kvDtype }: Configuration) =>
  `${attention}:${nodes}, ${rows} rows, ${inFlight} in flight, chunks of ${prefillChunk}, kv ${kvDtype}`;

async function runJob(
  model: Model,
  dense: DenseBackend,
  configuration: Configuration,
  requests: readonly GenerationRequest[],
): Promise<{ readonly outcomes: ReadonlyMap<string, Outcome>; readonly stats: EngineStats }> {
  const { attention, nodes: count, rows, inFlight, prefillChunk, kvDtype } = configuration;
  const nodes: Nodes = attention === 'local' ? localNodes(count) : await remoteNodes(attention, count);
  const held = dense.allocatedBytes();
  const engine = await createEngine({
    dense,
    attention: nodes.sources,
    kvDtype,
    fingerprint: model.fingerprint,
    microBatchRows: rows,
    inFlight,
    prefillChunk,
    ...(model.tokenizer ? { tokenizer: model.tokenizer } : {}),
  });
  try {
    const result = await outcomes(engine, requests);
    const stats = engine.stats();
    expect(stats).toMatchObject({ usedBlocks: 0, kvBytes: 0, running: 0, waiting: 0 });
    return { outcomes: result, stats };
  } finally {
    await engine.close();
    await nodes.close();
    expect(dense.allocatedBytes(), 'bytes of the dense tier after the job').toBe(held);
  }
}

/** stories260K with all of `some`, tale-1m (a longer story each) with the first and the last of them. */
function goldensOn(openDense: (model: Model) => Promise<DenseBackend>, some: readonly Configuration[]): void {
  for (const name of ['stories260K', 'tale-1m']) {
    const chosen = some.filter((_, i) => name === 'stories260K' || i === 0 || i === some.length - 1);
    describeWithModel(name, name, (path) => {
      let model: Model;
      let dense: DenseBackend;
      beforeAll(async () => {
        model = await openModel(path);
        dense = await openDense(model);
      });
      afterAll(async () => {
        await dense.close();
        expect(dense.allocatedBytes()).toBe(0);
        await model.close();
      });
      const goldens = loadGolden(path);
      for (const configuration of chosen) {
        it(title(configuration), async () => {
          const { outcomes: got } = await runJob(model, dense, configuration, goldenRequests(goldens, false));
          expectGoldens(got, goldens, { tolerance: 2e-2, texts: true });
        });
      }
    });
  }
}

describe('wasm dense', () => {
  goldensOn((model) => createWasmDense(model, { workers: 2 }), configurations);
});

describeWithWebGpu('webgpu dense', () => {
  let gpu: GpuDevice;
  beforeAll(async () => {
    gpu = await openGpuDevice({ allowSoftware: true });
  });
  afterAll(() => gpu.close());
  // Some of them each: every transport, number of rows, chunk and KV dtype occurs in both.
  describe('f32 weights', () => {
    goldensOn(
      (model) => createWebGpuDense(gpu, model, { weightDtype: 'f32' }),
      configurations.filter((_, i) => i % 5 === 0),
    );
  });
  describe('f16 weights', () => {
    goldensOn(
      (model) => createWebGpuDense(gpu, model, { weightDtype: 'f16' }),
      configurations.filter((_, i) => i % 5 === 2),
    );
  });
});

/** Biases, rope scaling, sliding windows and q/k norms, through everything; ids exactly, first log-probabilities within 1e-3. */
for (const family of ['llama3', 'llama_bias', 'mistral', 'qwen2', 'qwen3', 'qwen3_yarn']) {
  describeWithModel(`tiny ${family}`, `tiny/${family}`, (path) => {
    const goldens = loadGolden(path);
    const hold = async (open: (model: Model) => Promise<DenseBackend>) => {
      const model = await openModel(path);
      const dense = await open(model);
      const configuration = {
        attention: 'tcp',
        nodes: 2,
        rows: 16,
        inFlight: 3,
        prefillChunk: 7,
        kvDtype: 'f32',
      } as const;
      const { outcomes: got } = await runJob(model, dense, configuration, goldenRequests(goldens, true));
      expectGoldens(got, goldens, { tolerance: 1e-3, texts: false });
      await dense.close();
      await model.close();
    };
    it('on wasm', () => hold((model) => createWasmDense(model, { workers: 2 })));
    describeWithWebGpu('webgpu dense', () => {
      it('f32 weights', () =>
        hold((model) => createWebGpuDense({ allowSoftware: true }, model, { weightDtype: 'f32' })));
    });
  });
}

describeWithModel('200 prompts of stories260K', 'stories260K', (path) => {
  let model: Model;
  let dense: DenseBackend;
  let reference: ReadonlyMap<string, Outcome>;
  /** Cuts from the model's own stories, so that lengths and contents differ. */
  let requests: GenerationRequest[];
  const configuration: Configuration = {
    attention: 'local',
    nodes: 1,
    rows: 64,
    inFlight: 2,
    prefillChunk: 512,
    kvDtype: 'f32',
  };
  /** Live handles of this process while nothing runs but the dense workers of this suite. */
  let before: string[];
  beforeAll(async () => {
    model = await openModel(path);
    dense = await createWasmDense(model, { workers: 2 });
    before = process.getActiveResourcesInfo().filter((kind) => /TCP|Worker|Pipe(?!Wrap)/.test(kind));
    const stories = loadGolden(path).map(({ promptIds, greedyIds }) => [...promptIds, ...greedyIds]);
    requests = Array.from({ length: 200 }, (_, i) => {
      const story = stories[i % stories.length] as readonly number[];
      const length = 2 + ((i * 13) % 31);
      return requestOf(`p${i}`, story.slice(0, length), 4 + (i % 13));
    });
    reference = (await runJob(model, dense, configuration, requests)).outcomes;
  });
  afterAll(async () => {
    await dense.close();
    await model.close();
  });

  for (const other of configurations) {
    it(`are the same with ${title(other)}`, async () => {
      const { outcomes: got } = await runJob(model, dense, other, requests);
      for (const [id, { ids, text }] of reference)
        expect({ id, ids, text }).toEqual({ id, ids: got.get(id)?.ids, text: got.get(id)?.text });
    });
  }

  describeWithWebGpu('on webgpu', () => {
    for (const weightDtype of ['f32', 'f16'] as const) {
      it(`are the same with ${weightDtype} weights`, async () => {
        const gpu = await createWebGpuDense({ allowSoftware: true }, model, { weightDtype });
        const { outcomes: got } = await runJob(model, gpu, { ...configuration, nodes: 2, inFlight: 3 }, requests);
        for (const [id, { ids }] of reference) expect({ id, ids: got.get(id)?.ids }).toEqual({ id, ids });
        await gpu.close();
        expect(gpu.allocatedBytes()).toBe(0);
      });
    }
  });

  it('leave no worker, socket or memory behind', async () => {
    await runJob(model, dense, { ...configuration, attention: 'ws', nodes: 2 }, requests.slice(0, 20));
    await runJob(model, dense, { ...configuration, nodes: 3 }, requests.slice(0, 20));
    const own = await createWasmDense(model, { workers: 2 });
    await own.close();
    expect(own.allocatedBytes()).toBe(0);
    const left = () => process.getActiveResourcesInfo().filter((kind) => /TCP|Worker|Pipe(?!Wrap)/.test(kind));
    await expect.poll(left).toEqual(before);
  });

  it('are sampled the same twice, however they are scheduled', async () => {
    const sampled = requests.map((request, i) => ({
      ...request,
      sampling: { ...request.sampling, temperature: 0.9, topP: i % 2 ? 1 : 0.9, topK: i % 3 ? 0 : 20, seed: BigInt(i) },
    }));
    const first = (await runJob(model, dense, configuration, sampled)).outcomes;
    const second = (await runJob(model, dense, configuration, sampled)).outcomes;
    expect(second).toEqual(first);
    const scheduled = await runJob(
      model,
      dense,
      { ...configuration, rows: 7, inFlight: 5, prefillChunk: 5, nodes: 2 },
      sampled,
    );
    for (const [id, { ids }] of first) expect({ id, ids: scheduled.outcomes.get(id)?.ids }).toEqual({ id, ids });
    expect(new Set([...first.values()].map(({ text }) => text)).size).toBeGreaterThan(100);
  });
});
