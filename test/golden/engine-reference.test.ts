/** The engine over the reference backends: goldens whatever the micro-batches, chunks and nodes. */
import type { AttentionSource } from '@glinthawk/attention';
import { createEngine, type EngineOptions } from '@glinthawk/engine';
import { type Model, openModel } from '@glinthawk/model';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { describeWithModel } from '../models.ts';
import { ReferenceAttentionSource } from '../reference/attention.ts';
import { openReferenceDense, type ReferenceDense } from '../reference/dense.ts';
import { expectGoldens, goldenRequests, outcomes } from './engine.ts';
import { loadGolden } from './golden.ts';

interface Configuration {
  readonly rows: number;
  readonly inFlight: number;
  readonly prefillChunk: number;
  readonly nodes: number;
}

/** Every value beside every other at least once, without all 216 combinations. */
const configurations: Configuration[] = [];
for (const [i, rows] of [1, 7, 64].entries()) {
  for (const [j, prefillChunk] of [1, 5, 512].entries()) {
    for (const nodes of [1, 2, 3])
      configurations.push({ rows, prefillChunk, nodes, inFlight: 1 + ((3 * i + j + 3 * nodes) % 8) });
  }
}

describeWithModel('engine over reference backends on stories260K', 'stories260K', (path) => {
  let model: Model;
  let dense: ReferenceDense;
  beforeAll(async () => {
    model = await openModel(path);
    dense = await openReferenceDense(model);
  });
  afterAll(async () => {
    expect(dense.batches).toBe(0);
    await dense.close();
    await model.close();
  });

  const goldens = loadGolden(path);
  for (const { rows, inFlight, prefillChunk, nodes } of configurations) {
    it(`${rows} rows, ${inFlight} in flight, chunks of ${prefillChunk}, ${nodes} nodes`, async () => {
      const sources = Array.from(
        { length: nodes },
        (_, i) => new ReferenceAttentionSource({ name: `node ${i}`, shards: i === 1 ? [64, 64] : [64] }),
      );
      const options: EngineOptions = {
        dense,
        attention: sources satisfies readonly AttentionSource[],
        kvDtype: nodes === 2 ? 'f16' : 'f32',
        fingerprint: model.fingerprint,
        microBatchRows: rows,
        inFlight,
        prefillChunk,
        ...(model.tokenizer === null ? {} : { tokenizer: model.tokenizer }),
      };
      const engine = await createEngine(options);
      expectGoldens(await outcomes(engine, goldenRequests(goldens, false)), goldens, { tolerance: 1e-4, texts: true });
      expect(engine.stats()).toMatchObject({
        usedBlocks: 0,
        kvBytes: 0,
        running: 0,
        waiting: 0,
        finished: goldens.length,
      });
      for (const [i, source] of sources.entries()) {
        // What is kept for others that begin alike is all that is left.
        expect(source.live?.stats().usedBlocks).toBe(engine.stats().nodes[i]?.cachedBlocks);
        expect(source.steps).toBe(0);
      }
      await engine.close();
      for (const source of sources) expect(source.live).toBe(null);
    });
  }
});
