/**
 * Prompts that begin alike, on real models through real tiers: what is generated is the same with and without sharing, whatever the
 * nodes, their memory, and what is lost on the way.
 */
import { type AttentionSource, localAttentionSource } from '@glinthawk/attention';
import { NodeLostError } from '@glinthawk/core';
import { createWasmDense, type DenseBackend } from '@glinthawk/dense';
import { createEngine, type EngineOptions, type EngineStats, type GenerationRequest } from '@glinthawk/engine';
import { type Model, openModel } from '@glinthawk/model';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { describeWithModel } from '../models.ts';
import { localNodes, remoteNodes } from './attention-nodes.ts';
import { type Outcome, outcomes, requestOf } from './engine.ts';
import { loadGolden } from './golden.ts';

/** Its first connection is lost in the middle of an attend. */
function losesItself(source: AttentionSource, atAttend: number): AttentionSource {
  let connections = 0;
  return {
    name: source.name,
    async connect(geometry, options) {
      const backend = await source.connect(geometry, options);
      if (connections++ > 0) return backend;
      const { promise: lost, resolve: lose } = Promise.withResolvers<NodeLostError>();
      const attend = backend.attend.bind(backend);
      let attends = 0;
      return Object.assign(backend, {
        lost,
        attend: (...args: Parameters<typeof attend>) => {
          if (++attends < atAttend) return attend(...args);
          const error = new NodeLostError(source.name, 'lost, as told');
          lose(error);
          return Promise.reject(error);
        },
      });
    },
  };
}

for (const name of ['stories260K', 'tale-1m']) {
  describeWithModel(`200 prompts with common prefixes on ${name}`, name, (path) => {
    let model: Model;
    let dense: DenseBackend;
    let requests: GenerationRequest[];
    let reference: ReadonlyMap<string, Outcome>;

    async function run(attention: readonly AttentionSource[], options: Partial<EngineOptions> = {}) {
      const engine = await createEngine({
        dense,
        attention,
        kvDtype: 'f32',
        fingerprint: model.fingerprint,
        microBatchRows: 64,
        inFlight: 2,
        ...(model.tokenizer ? { tokenizer: model.tokenizer } : {}),
        ...options,
      });
      try {
        return { got: await outcomes(engine, requests), stats: engine.stats() };
      } finally {
        await engine.close();
      }
    }

    async function expectSame(
      attention: readonly AttentionSource[],
      options: Partial<EngineOptions> = {},
    ): Promise<EngineStats> {
      const { got, stats } = await run(attention, options);
      for (const [id, { ids, text }] of reference) expect({ id, ...got.get(id) }).toMatchObject({ id, ids, text });
      expect(stats).toMatchObject({ usedBlocks: 0, running: 0, waiting: 0, finished: requests.length, failed: 0 });
      return stats;
    }

    beforeAll(async () => {
      model = await openModel(path);
      dense = await createWasmDense(model, { workers: 1 });
      const [story = []] = loadGolden(path).map(({ promptIds, greedyIds }) => [...promptIds, ...greedyIds]);
      // Cuts of one story, each with an end of its own; every fourth request is one of several choices of its prompt.
      requests = Array.from({ length: 200 }, (_, i) => {
        const prompt = i - (i % 4 === 3 ? 1 : 0);
        const cut = 1 + ((prompt * 7) % Math.min(72, story.length));
        const end = [3 + (prompt % 50), 5 + (prompt % 7)];
        const sampling = i % 4 < 2 ? {} : { temperature: 0.8, seed: BigInt(i) };
        return requestOf(`p${i}`, [...story.slice(0, cut), ...end], 4 + 3 * (i % 13), { sampling });
      });
      const { got, stats } = await run(localNodes(1).sources, { prefixSharing: false });
      expect(stats).toMatchObject({ prefixHitTokens: 0, cachedBlocks: 0 });
      reference = got;
    });
    afterAll(async () => {
      await dense.close();
      await model.close();
    });

    it('on one node: half of the prompts’ tokens and more need not be computed', async () => {
      const { promptTokens, prefixHitTokens } = await expectSame(localNodes(2).sources);
      expect(promptTokens).toBe(requests.reduce((sum, { promptIds }) => sum + promptIds.length, 0));
      expect(prefixHitTokens).toBeGreaterThan(promptTokens / 2);
    });

    it('on two nodes behind TCP, in small steps', async () => {
      const nodes = await remoteNodes('tcp', 2);
      const stats = await expectSame(nodes.sources, { microBatchRows: 13, prefillChunk: 5, inFlight: 3 });
      await nodes.close();
      expect(stats.prefixHitTokens).toBeGreaterThan(0);
    });

    it('where memory is short: sequences are preempted, and what is kept gives way', async () => {
      const { layers, kvHeads, headDim } = model.config;
      const memoryBytes = 256 * layers * kvHeads * headDim * 2 * 4;
      const source = localAttentionSource({ workers: 1, memoryBytes, blockTokens: 16 });
      const stats = await expectSame([source], { microBatchRows: 64, inFlight: 1 });
      expect(stats.kvCapacityTokens).toBeLessThan(300);
      expect(stats.preemptions).toBeGreaterThan(0);
      expect(stats.prefixHitTokens).toBeGreaterThan(0);
    });

    it('where a node is lost with all that stands there', async () => {
      const [first, second] = [localNodes(1).sources, localNodes(1).sources];
      const stats = await expectSame([...first, ...second.map((source) => losesItself(source, 40))]);
      expect(stats.nodesLost).toBe(1);
    });
  });
}
