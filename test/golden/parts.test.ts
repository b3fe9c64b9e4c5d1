/**
 * Goldens of stories that no KV memory holds alone: each lies in two parts or more, over the memories of one node, over nodes in this
 * process, and over two nodes behind TCP. The ids are those of one memory, exactly (KV and rows in f32).
 */
import { type AttentionSource, createInlineAttention } from '@glinthawk/attention';
import { remoteSource, serveAttention } from '@glinthawk/attention/node';
import type { AttentionGeometry, KvDtype } from '@glinthawk/core';
import { createEngine, type EngineApi, type EngineOptions } from '@glinthawk/engine';
import { type Model, openModel } from '@glinthawk/model';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { describeWithModel } from '../models.ts';
import { ReferenceAttentionSource } from '../reference/attention.ts';
import { openReferenceDense, type ReferenceDense } from '../reference/dense.ts';
import { expectGoldens, goldenRequests, outcomes } from './engine.ts';
import { loadGolden } from './golden.ts';

const BLOCK_TOKENS = 16;

/** Real kernels in this thread; so many memories of so many blocks. */
async function openInline(geometry: AttentionGeometry, kvDtype: KvDtype, shards: number, blocks: number) {
  const options = { kvDtype, blockTokens: BLOCK_TOKENS };
  const probe = await createInlineAttention(geometry, { ...options, memoryBytes: 2 ** 24 });
  const { blockBytes } = probe.capacity;
  await probe.close();
  const backend = await createInlineAttention(geometry, {
    ...options,
    shards,
    memoryBytes: shards * blocks * blockBytes,
  });
  expect(backend.capacity.shards).toEqual(Array.from({ length: shards }, () => ({ blocks })));
  return backend;
}

const inline = (name: string, shards: number, blocks: number): AttentionSource => ({
  name,
  connect: (geometry, { kvDtype }) => openInline(geometry, kvDtype, shards, blocks),
});

interface Run {
  readonly engine: EngineApi;
  /** Most parts that each request had at the same time. */
  readonly parts: ReadonlyMap<string, number>;
}

async function run(
  model: Model,
  dense: ReferenceDense,
  attention: readonly AttentionSource[],
  options: Partial<EngineOptions>,
  use: (run: Run) => Promise<void>,
): Promise<void> {
  const parts = new Map<string, number>();
  let engine: EngineApi | null = null;
  const onAttention = () => {
    const now = new Map<string, number>();
    for (const { requestId } of engine?.residents() ?? []) now.set(requestId, (now.get(requestId) ?? 0) + 1);
    for (const [id, count] of now) parts.set(id, Math.max(count, parts.get(id) ?? 0));
  };
  engine = await createEngine({
    dense,
    attention,
    kvDtype: 'f32',
    fingerprint: model.fingerprint,
    observer: { onAttention },
    ...(model.tokenizer === null ? {} : { tokenizer: model.tokenizer }),
    ...options,
  });
  try {
    await use({ engine, parts });
    expect(engine.stats()).toMatchObject({
      usedBlocks: 0,
      kvBytes: 0,
      running: 0,
      waiting: 0,
      failed: 0,
      nodesLost: 0,
    });
  } finally {
    await engine.close();
  }
}

for (const [name, windowed] of [
  ['stories260K', false],
  ['tiny/mistral', true],
] as const) {
  describeWithModel(`${name} with contexts in parts`, name, (path) => {
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
    const check = async ({ engine, parts }: Run) => {
      const got = await outcomes(engine, goldenRequests(goldens, false));
      expectGoldens(got, goldens, { tolerance: 1e-4, texts: true });
      for (const [i, { promptIds, greedyIds }] of goldens.entries()) {
        if (windowed || promptIds.length + greedyIds.length < 64) continue;
        expect(parts.get(`golden-${i}`), `parts of golden ${i}`).toBeGreaterThanOrEqual(2);
      }
      expect(Math.max(...parts.values())).toBeGreaterThanOrEqual(2);
    };
    const reference = (blockTokens: number, ...shards: readonly number[]) =>
      new ReferenceAttentionSource({ name: `blocks of ${blockTokens}`, blockTokens, shards });

    for (const [title, attention, options] of [
      ['reference: memories of one node', [reference(16, 2, 2, 2, 2, 2)], { microBatchRows: 7, prefillChunk: 5 }],
      ['reference: nodes of other block sizes', [reference(1, 34, 30), reference(8, 6), reference(16, 2, 2)], {}],
      ['memories of one node', [inline('one', 6, 2)], { inFlight: 2, prefillChunk: 7 }],
      ['memories that hold half', [inline('one', 4, 3)], { microBatchRows: 16 }],
      ['three nodes', [inline('a', 1, 3), inline('b', 2, 2), inline('c', 1, 2)], { microBatchRows: 5, inFlight: 3 }],
    ] as const) {
      it(title, () => run(model, dense, attention, options, check));
    }

    it('two nodes behind TCP, each too small for it', async () => {
      const token = 'a token of the tests';
      // With a window of 24 tokens a memory of three blocks holds any length.
      const sizes = windowed
        ? ([
            [3, 2],
            [2, 2],
          ] as const)
        : ([
            [1, 3],
            [1, 4],
          ] as const);
      const servers = [];
      for (const [shards, blocks] of sizes) {
        servers.push(
          await serveAttention({
            host: '127.0.0.1',
            port: 0,
            token,
            createBackend: (geometry, { kvDtype }) => openInline(geometry, kvDtype, shards, blocks),
          }),
        );
      }
      const attention = servers.map(({ listener }) => remoteSource(`tcp://127.0.0.1:${listener.port}`, { token }));
      try {
        await run(model, dense, attention, { inFlight: 2, prefillChunk: 9 }, check);
      } finally {
        for (const { close } of servers) await close();
      }
    });
  });
}
