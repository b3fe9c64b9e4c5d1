/** Contexts that lie in several parts, over shards and nodes: longer than any of them, grown out of one, lost with one. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { outcomes, requestOf } from '../../../test/golden/engine.ts';
import { fakeGreedy } from '../../../test/reference/fake-dense.ts';
import type { AttentionSpan, EngineApi, ResidentReport } from './engine-api.ts';
import { rig } from './engine-rig.fixture.ts';
import type { GenerationRequest } from './request.ts';

async function expectAll(engine: EngineApi, given: readonly GenerationRequest[]): Promise<void> {
  const got = await outcomes(engine, given);
  for (const { id, promptIds, maxTokens } of given) {
    expect(got.get(id)?.ids, id).toEqual(fakeGreedy(promptIds, maxTokens));
  }
}

const prompt = (length: number, seed = 1) => Array.from({ length }, (_, i) => (i * 31 + seed * 17) % 96);

/** Short requests that go along. */
const others = (count: number) =>
  Array.from({ length: count }, (_, i) => requestOf(`o${i}`, prompt(1 + (i % 5), i), 9));

/** What residents() says at every step of a node. */
function watched(spans: AttentionSpan[], seen: (readonly ResidentReport[])[], engine: () => EngineApi | undefined) {
  return {
    onAttention: (span: AttentionSpan) => {
      spans.push(span);
      seen.push(engine()?.residents() ?? []);
    },
  };
}

describe('a prompt that is longer than any shard', () => {
  for (const [name, nodes] of [
    ['three shards of one node', [{ blockTokens: 4, shards: [8, 8, 8] }]],
    [
      'two nodes',
      [
        { blockTokens: 4, shards: [12] },
        { blockTokens: 4, shards: [13] },
      ],
    ],
    [
      'three nodes with blocks of different sizes',
      [
        { blockTokens: 1, shards: [33] },
        { blockTokens: 16, shards: [2] },
        { blockTokens: 4, shards: [5, 4] },
      ],
    ],
  ] as const) {
    for (const prefillChunk of [1, 7, 512]) {
      it(`${name}, chunks of ${prefillChunk}`, async () => {
        let engine: EngineApi | undefined;
        const spans: AttentionSpan[] = [];
        const seen: (readonly ResidentReport[])[] = [];
        const observer = watched(spans, seen, () => engine);
        ({ engine } = await rig(nodes, { prefillChunk, observer, microBatchRows: 16 }));
        expect(engine.contextTokens).toBeGreaterThanOrEqual(94);
        await expectAll(engine, [requestOf('long', prompt(80), 12)]);
        expect(engine.stats()).toMatchObject({ preemptions: 0, failed: 0 });
        const parts = Math.max(...seen.map((residents) => residents.length));
        expect(parts).toBeGreaterThan(1);
        // Each part is told once, and together they are the whole context.
        const last = seen.at(-1) ?? [];
        expect(last.reduce((sum, { tokens }) => sum + tokens, 0)).toBeGreaterThanOrEqual(80);
        expect(new Set(last.map(({ node, shard }) => `${node}/${shard}`)).size).toBe(last.length);
      });
    }
  }

  it('beside others that come and go', async () => {
    const nodes = [
      { blockTokens: 4, shards: [10, 10], latencyMs: 1 },
      { blockTokens: 8, shards: [6] },
    ];
    const { engine } = await rig(nodes, { microBatchRows: 16, inFlight: 3, prefillChunk: 9 });
    const given = [
      ...others(10),
      requestOf('long', prompt(90), 20),
      ...others(30),
      requestOf('too', prompt(70, 3), 30),
    ];
    await expectAll(
      engine,
      given.map((request, i) => ({ ...request, id: `${request.id} ${i}` })),
    );
    expect(engine.stats().failed).toBe(0);
  });

  it('and than all of them: KV_CAPACITY, and others go on', async () => {
    const { engine } = await rig([
      { blockTokens: 4, shards: [8, 8] },
      { blockTokens: 4, shards: [8] },
    ]);
    expect(engine.contextTokens).toBe(96);
    const got = await outcomes(engine, [
      requestOf('long', prompt(97), 5),
      requestOf('fits', prompt(95), 5),
      ...others(3),
    ]);
    expect(got.get('long')?.errorCode).toBe('KV_CAPACITY');
    expect(got.get('fits')).toMatchObject({ reason: 'length', ids: fakeGreedy(prompt(95), 1) });
    for (const { id, promptIds, maxTokens } of others(3)) {
      expect(got.get(id)?.ids).toEqual(fakeGreedy(promptIds, maxTokens));
    }
  });

  it('and than 64 shards of many: the message says so', async () => {
    const { engine } = await rig([{ blockTokens: 1, shards: new Array(70).fill(2) }]);
    expect(engine.contextTokens).toBe(128);
    await expectAll(engine, [requestOf('fits', prompt(100), 28)]);
    // What grew while a node was there that is gone.
    const { engine: shrunk } = await rig([
      { blockTokens: 1, shards: new Array(70).fill(2) },
      { blockTokens: 4, shards: [20], dieAtAttend: [100] },
    ]);
    const errors: string[] = [];
    for await (const event of shrunk.generate([requestOf('long', prompt(190), 10)])) {
      if (event.type === 'error') errors.push(event.error.message);
    }
    expect(errors).toEqual([expect.stringMatching(/ hold 128 of one sequence, in the 64 parts that it may have$/)]);
  });

  it('a node takes fewer rows than the context has parts there: one token at a time', async () => {
    const alter = () => ({ limits: { maxStepRows: 4, maxSlots: 100, maxSteps: 100 } });
    const { engine } = await rig([{ blockTokens: 4, shards: [4, 4, 4, 4], alter }], { microBatchRows: 16 });
    await expectAll(engine, [requestOf('long', prompt(50), 10), ...others(4)]);
  });
});

describe('a context that grows out of its shard', () => {
  it('goes on in another, and nobody is preempted', async () => {
    const { engine } = await rig([
      { blockTokens: 4, shards: [8] },
      { blockTokens: 2, shards: [8, 8] },
    ]);
    await expectAll(engine, [requestOf('grows', [1, 2, 3], 60)]);
    expect(engine.stats()).toMatchObject({ preemptions: 0, failed: 0, nodesLost: 0 });
  });

  it('many at once: other nodes are filled before anybody is preempted', async () => {
    let engine: EngineApi | undefined;
    const seen: (readonly ResidentReport[])[] = [];
    const observer = watched([], seen, () => engine);
    const nodes = [12, 12, 120].map((blocks) => ({ blockTokens: 4, shards: [blocks] }));
    ({ engine } = await rig(nodes, { microBatchRows: 16, inFlight: 2, observer }));
    const given = Array.from({ length: 9 }, (_, i) => requestOf(`r${i}`, [i, i + 1], 40));
    await expectAll(engine, given);
    expect(engine.stats().preemptions).toBe(0);
    expect(Math.max(...seen.map((residents) => residents.length))).toBeGreaterThan(given.length);
  });

  it('the oldest goes on when all shards are full, and all end', async () => {
    const { engine } = await rig(
      [
        { blockTokens: 4, shards: [6, 5] },
        { blockTokens: 4, shards: [7] },
      ],
      {
        microBatchRows: 8,
        inFlight: 3,
      },
    );
    const given = Array.from({ length: 8 }, (_, i) => requestOf(`r${i}`, [i, i + 1], 60));
    await expectAll(engine, given);
    expect(engine.stats().preemptions).toBeGreaterThan(0);
  });
});

describe('sliding windows', () => {
  // Odd: the fake model rounds what is summed up, and no half may come of it.
  const windows = [7, 7, 7];

  it('parts that left every window are given back while the sequence goes on', async () => {
    const seen: (readonly ResidentReport[])[] = [];
    let engine: EngineApi | undefined;
    const observer = watched([], seen, () => engine);
    ({ engine } = await rig(
      [
        { blockTokens: 4, shards: [3, 3, 3] },
        { blockTokens: 4, shards: [3, 3, 3] },
      ],
      { prefillChunk: 6, observer },
      { config: { windows } },
    ));
    const alone = await rig([{ blockTokens: 4, shards: [64] }], { prefillChunk: 6 }, { config: { windows } });
    const request = requestOf('long', prompt(48), 12);
    const [got, expected] = [await outcomes(engine, [request]), await outcomes(alone.engine, [request])];
    expect(got.get('long')?.ids).toEqual(expected.get('long')?.ids);
    expect(new Set(seen.flat().map(({ node }) => node))).toEqual(new Set([0, 1]));
    expect(Math.max(...seen.map((parts) => parts.length))).toBeGreaterThan(2);
    expect(seen.at(-1)?.reduce((sum, { blocks }) => sum + blocks, 0)).toBeLessThanOrEqual(4);
  });

  it('some layers with, some without: as in one shard', async () => {
    const config = { windows: [0, 5, 5] };
    const request = requestOf('long', prompt(60), 20);
    const whole = await rig([{ blockTokens: 4, shards: [200] }], {}, { config });
    const parts = await rig(
      [
        { blockTokens: 2, shards: [60, 50] },
        { blockTokens: 4, shards: [30] },
      ],
      {},
      { config },
    );
    const [got, expected] = [await outcomes(parts.engine, [request]), await outcomes(whole.engine, [request])];
    expect(got.get('long')?.ids).toEqual(expected.get('long')?.ids);
  });
});

describe('a node is lost that has a part', () => {
  it('at any attend: the rest is given back, and all is done again', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 60 }),
        fc.boolean(),
        fc.constantFrom(0, 1),
        fc.constantFrom(0, 1, 2),
        async (dieAt, silentDeath, latencyMs, which) => {
          const nodes = [10, 9, 12].map((blocks, i) => ({
            blockTokens: 4,
            shards: [blocks],
            latencyMs,
            ...(i === which ? { dieAtAttend: [dieAt], silentDeath } : {}),
          }));
          const { engine } = await rig(nodes, {
            prefillChunk: 10,
            inFlight: 2,
            microBatchRows: 12,
            waitForNodes: true,
          });
          await expectAll(engine, [requestOf('long', prompt(80), 16), ...others(6)]);
        },
      ),
      { numRuns: 20 },
    );
  });

  it('and is not waited for: what needs it fails, others go on', async () => {
    const { engine } = await rig([
      { blockTokens: 4, shards: [10] },
      { blockTokens: 4, shards: [10], dieAtAttend: [9] },
    ]);
    const got = await outcomes(engine, [requestOf('long', prompt(60), 16), ...others(4)]);
    expect(got.get('long')?.errorCode).toBe('KV_CAPACITY');
    for (const { id, promptIds, maxTokens } of others(4)) {
      expect(got.get(id)?.ids).toEqual(fakeGreedy(promptIds, maxTokens));
    }
  });
});

it('random requests over random small shards give what one alone gives', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        rows: fc.constantFrom(1, 5, 33),
        inFlight: fc.constantFrom(1, 3),
        prefillChunk: fc.constantFrom(1, 6, 512),
        nodes: fc.array(
          fc.record({
            blockTokens: fc.constantFrom(1, 4, 16),
            tokens: fc.array(fc.integer({ min: 16, max: 90 }), { minLength: 1, maxLength: 3 }),
          }),
          { minLength: 2, maxLength: 3 },
        ),
        given: fc.array(
          fc.record({ length: fc.integer({ min: 1, max: 100 }), maxTokens: fc.integer({ min: 1, max: 40 }) }),
          { minLength: 8, maxLength: 8 },
        ),
      }),
      async ({ rows, inFlight, prefillChunk, nodes, given }) => {
        const { engine } = await rig(
          nodes.map(({ blockTokens, tokens }) => ({
            blockTokens,
            shards: tokens.map((each) => Math.ceil(each / blockTokens)),
          })),
          { microBatchRows: rows, inFlight, prefillChunk },
        );
        const most = engine.contextTokens;
        const requests = given.map(({ length, maxTokens }, i) =>
          requestOf(
            `r${i}`,
            prompt(Math.min(length, most - 1), i),
            Math.min(maxTokens, most - Math.min(length, most - 1)),
          ),
        );
        await expectAll(engine, requests);
        expect(engine.stats()).toMatchObject({ failed: 0, nodesLost: 0 });
      },
    ),
    { numRuns: 40 },
  );
});
