/** Prompts that begin alike: what is computed, what is kept, and that nothing of it shows in the output. */
import type { AttentionBackend } from '@glinthawk/attention';
import { CapacityError } from '@glinthawk/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { outcomes, requestOf } from '../../../test/golden/engine.ts';
import { fakeGreedy } from '../../../test/reference/fake-dense.ts';
import type { Engine } from './engine.ts';
import type { EngineOptions } from './engine-api.ts';
import { collect, expectCounted, type RigNode, rig } from './engine-rig.fixture.ts';
import type { GenerationRequest } from './request.ts';

const LONG = { config: { contextTokens: 1024 } };
const some = (length: number, seed: number) => Array.from({ length }, (_, i) => (i * 31 + seed * 17 + (i >> 3)) % 96);

async function expectUndisturbed(engine: Engine, given: readonly GenerationRequest[]): Promise<void> {
  const got = await outcomes(engine, given);
  expect(got.size).toBe(given.length);
  for (const { id, promptIds, maxTokens } of given) {
    expect(got.get(id)?.ids, id).toEqual(fakeGreedy(promptIds, maxTokens));
  }
}

/** Rows that are neither prompts' nor generated: what was computed again. */
function recomputed(engine: Engine, given: readonly GenerationRequest[]): number {
  const { rows, promptTokens, prefixHitTokens, generatedTokens } = engine.stats();
  return rows - (promptTokens - prefixHitTokens) - (generatedTokens - given.length);
}

describe('a common prefix', () => {
  const PREFIX = 512;
  const OWN = 2;
  const commonPrefix = (count: number): GenerationRequest[] =>
    Array.from({ length: count }, (_, i) => requestOf(`r${i}`, [...some(PREFIX, 1), i % 96, Math.floor(i / 96)], 1));

  it('of 512 tokens in 1,000 prompts is computed once for each node', async () => {
    const given = commonPrefix(1000);
    const { engine } = await rig([{}, {}], { microBatchRows: 64, inFlight: 3 }, LONG);
    const got = await outcomes(engine, given);
    for (const { id, promptIds, maxTokens } of given.slice(0, 50)) {
      expect(got.get(id)?.ids).toEqual(fakeGreedy(promptIds, maxTokens));
    }
    const { promptTokens, prefixHitTokens, rows } = engine.stats();
    expect(promptTokens).toBe(1000 * (PREFIX + OWN));
    const prefilled = promptTokens - prefixHitTokens;
    expect(prefilled).toBeLessThanOrEqual(2 * PREFIX + 1000 * OWN);
    expect(promptTokens / prefilled).toBeGreaterThan(150);
    expect(rows).toBe(prefilled);
  });

  it('is stored once, and every sequence has what is its own', async () => {
    const { engine, sources } = await rig([{}], { microBatchRows: 64, inFlight: 1 }, LONG);
    await outcomes(engine, commonPrefix(40));
    const { usedBlocks, cachedBlocks } = engine.stats();
    expect(usedBlocks).toBe(0);
    expect(cachedBlocks).toBe(PREFIX / 16 + 40);
    expect(sources[0]?.live?.stats().forkedTokens).toBeGreaterThanOrEqual(39 * PREFIX);
  });

  it('counts once among the residents', async () => {
    const sums: { readonly used: number; readonly residents: number; readonly sequences: number }[] = [];
    const made: { engine?: Engine } = {};
    const onDense = () => {
      const residents = made.engine?.residents() ?? [];
      const blocks = residents.reduce((sum, each) => sum + each.blocks, 0);
      sums.push({ used: made.engine?.stats().usedBlocks ?? 0, residents: blocks, sequences: residents.length });
    };
    const { engine } = await rig([{}], { observer: { onDense } }, LONG);
    made.engine = engine;
    await expectUndisturbed(engine, commonPrefix(20));
    for (const { used, residents } of sums) expect(residents).toBe(used);
    expect(Math.max(...sums.map(({ sequences }) => sequences))).toBeGreaterThan(10);
    expect(Math.max(...sums.map(({ used }) => used))).toBeLessThan(PREFIX / 16 + 2 * 20);
  });

  it('is found by a later call, and by none where prefixes are not shared', async () => {
    for (const prefixSharing of [true, false]) {
      const { engine } = await rig([{}], { prefixSharing }, LONG);
      await expectUndisturbed(engine, commonPrefix(1));
      await expectUndisturbed(engine, commonPrefix(3));
      const { prefixHitTokens, cachedBlocks } = engine.stats();
      if (prefixSharing) expect(prefixHitTokens).toBeGreaterThanOrEqual(3 * PREFIX);
      else expect({ prefixHitTokens, cachedBlocks }).toEqual({ prefixHitTokens: 0, cachedBlocks: 0 });
    }
  });

  it('that ends within a block, or is shorter than one, is shared to its last token', async () => {
    for (const length of [5, 16, 37]) {
      const { engine } = await rig([{}], { inFlight: 1 });
      const given = Array.from({ length: 20 }, (_, i) => requestOf(`r${i}`, [...some(length, 2), i], 3));
      await expectUndisturbed(engine, given);
      expect(engine.stats().prefixHitTokens).toBe(19 * length);
    }
  });

  it('is computed once though it takes many steps; what begins otherwise goes on meanwhile', async () => {
    const { engine } = await rig([{}], { microBatchRows: 16, prefillChunk: 8, inFlight: 2 }, LONG);
    const given = [
      ...commonPrefix(10),
      ...Array.from({ length: 10 }, (_, i) => requestOf(`other${i}`, some(3, 90 + i), 3)),
    ];
    const ends = (await collect(engine.generate(given))).filter(({ type }) => type === 'finish');
    expect(ends.slice(0, 10).every(({ id }) => id.startsWith('other'))).toBe(true);
    expect(engine.stats().promptTokens - engine.stats().prefixHitTokens).toBe(PREFIX + 10 * OWN + 30);
  });
});

it('n choices of one prompt compute it once', async () => {
  const { engine } = await rig([{}], { inFlight: 2 });
  const promptIds = some(45, 3);
  const given = Array.from({ length: 64 }, (_, i) =>
    requestOf(`r${i}`, promptIds, 8, { sampling: { temperature: 1, seed: BigInt(i) } }),
  );
  const got = await outcomes(engine, given);
  expect(engine.stats().promptTokens - engine.stats().prefixHitTokens).toBe(45 + 63);
  const alone = await rig([{}], { prefixSharing: false, microBatchRows: 3 });
  expect(got).toEqual(await outcomes(alone.engine, given));
  expect(new Set([...got.values()].map(({ ids }) => ids.join())).size).toBeGreaterThan(50);
});

describe('output is the same with and without sharing', () => {
  /** Prompts that share much, or little, with others. */
  const family = (shapes: readonly { readonly root: number; readonly cut: number; readonly own: number }[]) =>
    shapes.map(({ root, cut, own }, i) =>
      requestOf(`r${i}`, [...some(60, root).slice(0, cut), ...some(own, 50 + i)], 1 + ((i * 5) % 23)),
    );
  const shapes = fc.array(
    fc.record({
      root: fc.integer({ min: 0, max: 2 }),
      cut: fc.integer({ min: 0, max: 60 }),
      own: fc.integer({ min: 1, max: 6 }),
    }),
    { minLength: 20, maxLength: 20 },
  );

  it('500 random requests over random nodes, small ones too, of which some are lost', async () => {
    await fc.assert(
      fc.asyncProperty(
        shapes,
        fc.record({
          rows: fc.constantFrom(1, 7, 33),
          inFlight: fc.constantFrom(1, 2, 5),
          prefillChunk: fc.constantFrom(1, 3, 512),
          blockTokens: fc.constantFrom(1, 4, 16),
          tokens: fc.array(fc.integer({ min: 100, max: 300 }), { minLength: 1, maxLength: 3 }),
          dieAtAttend: fc.array(fc.integer({ min: 5, max: 150 }), { maxLength: 2 }),
        }),
        async (given, { rows, inFlight, prefillChunk, blockTokens, tokens, dieAtAttend }) => {
          const shards = tokens.map((each) => Math.ceil(each / blockTokens));
          const nodes: RigNode[] = [
            { blockTokens, shards },
            { blockTokens, shards, dieAtAttend },
          ];
          const { engine } = await rig(nodes, { microBatchRows: rows, inFlight, prefillChunk });
          await expectUndisturbed(engine, family(given));
          expectCounted();
        },
      ),
      { numRuns: 25 },
    );
  });

  it('random requests with sliding windows', async () => {
    await fc.assert(
      fc.asyncProperty(
        shapes,
        fc.constantFrom([0, 20, 20], [8, 8, 8], [0, 0, 33]),
        fc.constantFrom(1, 5, 512),
        fc.constantFrom(1, 4, 16),
        async (given, windows, prefillChunk, blockTokens) => {
          const requests = family(given);
          const run = async (options: Partial<EngineOptions>, tokens: number) => {
            const shards = [Math.ceil((3 * tokens) / blockTokens)];
            const { engine } = await rig([{ blockTokens, shards }], options, { config: { windows } });
            return outcomes(engine, requests);
          };
          const small = await run({ microBatchRows: 9, inFlight: 2, prefillChunk }, 150);
          expect(small).toEqual(await run({ prefixSharing: false }, 9000));
          expectCounted();
        },
      ),
      { numRuns: 15 },
    );
  });
});

describe('what a preempted sequence left', () => {
  // Both come to 80 tokens, and there is room for 148.
  const given = Array.from({ length: 2 }, (_, i) => requestOf(`r${i}`, some(20, i), 60));

  it('is what it goes on with, as far as nobody needed the room', async () => {
    const again: number[] = [];
    for (const prefixSharing of [false, true]) {
      const { engine } = await rig([{ blockTokens: 4, shards: [37] }], { inFlight: 1, prefixSharing });
      await expectUndisturbed(engine, given);
      expect(engine.stats().preemptions).toBeGreaterThan(0);
      again.push(recomputed(engine, given));
    }
    const [without = 0, with_ = 0] = again;
    expect(without).toBeGreaterThan(70);
    expect(with_).toBeLessThan(20);
  });
});

describe('whoever waits for what another computes goes on', () => {
  const prompt = some(200, 7);
  const slow: Partial<EngineOptions> = { microBatchRows: 8, prefillChunk: 4, inFlight: 2, graceMs: 200 };

  it('when the other is dropped', async () => {
    const { engine } = await rig([{ latencyMs: 1 }], slow);
    const abort = new AbortController();
    const first = collect(engine.generate([requestOf('first', prompt, 30)], { signal: abort.signal }));
    const dropped = expect(first).rejects.toMatchObject({ code: 'ABORTED' });
    const second = outcomes(engine, [requestOf('second', prompt, 5)]);
    setTimeout(() => abort.abort(), 40);
    await dropped;
    expect((await second).get('second')?.ids).toEqual(fakeGreedy(prompt, 5));
  });

  it('when its node is lost', async () => {
    const { engine } = await rig([{ dieAtAttend: [20], latencyMs: 1 }, { shards: [1000] }], slow);
    await expectUndisturbed(
      engine,
      Array.from({ length: 6 }, (_, i) => requestOf(`r${i}`, [...prompt, i], 5)),
    );
    expect(engine.stats().nodesLost).toBe(1);
  });

  it('when the other’s consumer stops listening', async () => {
    const { engine } = await rig([{}], { microBatchRows: 8, prefillChunk: 4, inFlight: 1 });
    // One row is left for the long prompt, which is half through when nobody takes what the others make.
    const flood = Array.from({ length: 7 }, (_, i) => requestOf(`a${i}`, [1, i], 200));
    const first = engine.generate([...flood, requestOf('long', prompt, 2)]);
    await first.next();
    for (let before = -1; before !== engine.stats().steps; ) {
      before = engine.stats().steps;
      await new Promise((resolve) => setTimeout(resolve, 60));
    }
    await expectUndisturbed(engine, [requestOf('b', prompt, 5)]);
    await first.return(undefined);
  });

  it('when it was given up for lack of logits', async () => {
    const { engine } = await rig([{}], slow, { poisonToken: 95 });
    const got = await outcomes(engine, [
      requestOf('bad', [...prompt.map((id) => id % 95), 95], 4),
      requestOf('good', [...prompt.map((id) => id % 95), 1], 4),
    ]);
    expect(got.get('bad')?.errorCode).toBe('NON_FINITE_LOGITS');
    expect(got.get('good')?.ids).toHaveLength(4);
  });
});

describe('what is kept gives way', () => {
  it('to whoever needs blocks: nobody is preempted, and admission never says full for it', async () => {
    const { engine } = await rig([{ shards: [24] }], { inFlight: 1, microBatchRows: 8 });
    for (let i = 0; i < 10; i++) await expectUndisturbed(engine, [requestOf(`r${i}`, some(150, i), 40)]);
    expect(engine.stats()).toMatchObject({ preemptions: 0, usedBlocks: 0 });
    expect(engine.stats().cachedBlocks).toBeGreaterThan(12);
  });

  it('to whoever needs a slot', async () => {
    const limits = { maxStepRows: 1000, maxSlots: 5, maxSteps: 100 };
    const { engine, sources } = await rig([{ alter: () => ({ limits }) }], { inFlight: 2, microBatchRows: 16 });
    await expectUndisturbed(
      engine,
      Array.from({ length: 40 }, (_, i) => requestOf(`r${i}`, [...some(40, i % 3), i], 5)),
    );
    expect(sources[0]?.live?.stats().openSlots).toBeLessThanOrEqual(5);
    expect(engine.stats().prefixHitTokens).toBeGreaterThan(40 * 20);
  });
});

describe('a fork that a node has no room for, and which fails at the steps that use it', () => {
  for (const refusals of [1, 3, 20]) {
    it(`ends no request: ${refusals} of them`, async () => {
      let forks = 0;
      const alter = (backend: AttentionBackend): Partial<AttentionBackend> => {
        const bad = new Set<number>();
        const badSteps = new Set<number>();
        return {
          fork: ((fork) => (slot, parent, tokens) => {
            if (bad.has(parent.index) || forks++ < refusals) bad.add(slot.index);
            else fork(slot, parent, tokens);
          })(backend.fork.bind(backend)),
          free: ((free) => (slot) => {
            if (!bad.delete(slot.index)) free(slot);
          })(backend.free.bind(backend)),
          announce: ((announce) => (step) => {
            if (step.entries.some(({ slot }) => bad.has(slot.index))) badSteps.add(step.id);
            else announce(step);
          })(backend.announce.bind(backend)),
          attend: (
            (attend) =>
            async (id, ...rest) => {
              if (badSteps.has(id)) throw new CapacityError('WASM_MEMORY', 'memory can’t grow');
              return attend(id, ...rest);
            }
          )(backend.attend.bind(backend)),
          retire: ((retire) => (id) => {
            if (!badSteps.delete(id)) retire(id);
          })(backend.retire.bind(backend)),
        };
      };
      const { engine } = await rig([{ alter, blockTokens: 4, shards: [400] }], { prefillChunk: 8, inFlight: 1 });
      const given = Array.from({ length: 12 }, (_, i) => requestOf(`r${i}`, [...some(40, 1), i, i + 1], 6));
      await expectUndisturbed(engine, given);
      expect(forks).toBeGreaterThanOrEqual(refusals);
    });
  }
});

it('a node that refuses a slot for lack of memory now and then takes it later: no request ends, and none waits for ever', async () => {
  let opens = 0;
  const alter = (backend: AttentionBackend): Partial<AttentionBackend> => {
    const open = backend.open.bind(backend);
    return {
      limits: { maxSlots: 100, maxSteps: 100, maxStepRows: 1000 },
      open: (slot, shard) => {
        if (opens++ % 3 === 1) throw new CapacityError('WASM_MEMORY', 'memory can’t grow');
        open(slot, shard);
      },
    };
  };
  const { engine } = await rig([{ alter, blockTokens: 4, shards: [60, 60] }], { inFlight: 2 });
  const given = Array.from({ length: 20 }, (_, i) => requestOf(`r${i}`, some(20 + i, i), 6));
  await expectUndisturbed(engine, given);
  await expectUndisturbed(engine, [requestOf('again', some(30, 50), 6), requestOf('more', some(30, 51), 6)]);
});

it('what is kept is dropped rather than leave a prompt waiting for room that nobody will give back', async () => {
  // 64 tokens in chunks of 3 need 16 blocks of the whole layer and 7 of each with a window: all that there are.
  const windows = { config: { windows: [0, 20, 20] } };
  const { engine } = await rig([{ blockTokens: 4, shards: [30] }], { prefillChunk: 3 }, windows);
  for (const { id, promptIds } of [requestOf('first', some(36, 1), 4), requestOf('longer', some(60, 1), 4)]) {
    expect((await outcomes(engine, [requestOf(id, promptIds, 4)])).get(id)?.ids).toHaveLength(4);
  }
});
