import { type GlinthawkError, NodeLostError, type Tokenizer } from '@glinthawk/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { outcomes, type RequestOverrides, requestOf } from '../../../test/golden/engine.ts';
import { type ReferenceAttentionOptions, ReferenceAttentionSource } from '../../../test/reference/attention.ts';
import { headRowOf } from '../../../test/reference/dense.ts';
import { FakeDense, FakeSequence, fakeConfig, fakeGreedy } from '../../../test/reference/fake-dense.ts';
import { createEngine, type Engine } from './engine.ts';
import type { EngineOptions } from './engine-api.ts';
import { collect, rig } from './engine-rig.fixture.ts';
import type { GenerationRequest, SamplingParams } from './request.ts';
import { uniform } from './rng.ts';
import { changesLogits, inverseTemperature, sampleFull, samplePenalised } from './sampler.ts';

/** Deterministic requests of many shapes. */
function requests(count: number, overrides: RequestOverrides = {}): GenerationRequest[] {
  return Array.from({ length: count }, (_, i) => {
    const promptIds = Array.from({ length: 1 + ((i * 7) % 29) }, (_, j) => (i * 31 + j * 17) % 96);
    return requestOf(`r${i}`, promptIds, 1 + ((i * 5) % 23), overrides);
  });
}

async function expectUndisturbed(engine: Engine, given: readonly GenerationRequest[]): Promise<void> {
  const got = await outcomes(engine, given);
  expect(got.size).toBe(given.length);
  for (const { id, promptIds, maxTokens, stop } of given) {
    const stopIds = stop.ignoreEos ? [] : fakeConfig.eosTokenIds;
    expect(got.get(id)?.ids, id).toEqual(fakeGreedy(promptIds, maxTokens, stopIds));
  }
}

describe('generate', () => {
  it('gives what one sequence alone gives, whatever the batching', async () => {
    const { engine } = await rig([{}, { shards: [100, 100] }], { microBatchRows: 16, inFlight: 3, prefillChunk: 5 });
    await expectUndisturbed(engine, requests(60));
    expect(engine.stats()).toMatchObject({ finished: 60, failed: 0 });
  });

  it('ends at once without requests', async () => {
    const { engine } = await rig();
    expect(await collect(engine.generate([]))).toEqual([]);
  });

  it('500 random requests over random configurations give what one alone gives', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          rows: fc.constantFrom(1, 2, 7, 33),
          inFlight: fc.constantFrom<(number | 'auto')[]>(1, 2, 5, 'auto'),
          prefillChunk: fc.constantFrom(1, 3, 512),
          blockTokens: fc.constantFrom(1, 4, 16),
          shards: fc.array(fc.integer({ min: 90, max: 400 }), { minLength: 1, maxLength: 3 }),
          nodes: fc.integer({ min: 1, max: 3 }),
          policy: fc.constantFrom('fcfs', 'deepest-first', 'starvation-first'),
          concurrency: fc.constantFrom(1, 2),
          given: fc.array(
            fc.record({
              prompt: fc.array(fc.integer({ min: 0, max: 95 }), { minLength: 1, maxLength: 40 }),
              maxTokens: fc.integer({ min: 1, max: 40 }),
              ignoreEos: fc.boolean(),
            }),
            { minLength: 20, maxLength: 20 },
          ),
        }),
        async ({ rows, inFlight, prefillChunk, blockTokens, shards, nodes, policy, concurrency, given }) => {
          const { engine } = await rig(
            Array.from({ length: nodes }, () => ({ blockTokens, shards })),
            { microBatchRows: rows, inFlight, prefillChunk, policy },
            { concurrency },
          );
          await expectUndisturbed(
            engine,
            given.map(({ prompt, maxTokens, ignoreEos }, i) =>
              requestOf(`r${i}`, prompt, maxTokens, { stop: { ignoreEos } }),
            ),
          );
        },
      ),
      { numRuns: 25 },
    );
  });

  it('several calls at once on one engine', async () => {
    const { engine } = await rig([{}], { microBatchRows: 8, inFlight: 2 });
    await Promise.all([0, 1, 2].map((i) => expectUndisturbed(engine, requests(20 + i))));
  });

  it('pulls no more than it needs from an endless source, and lets go of it', async () => {
    const { engine } = await rig([{ latencyMs: 1 }], { microBatchRows: 4, inFlight: 2 });
    let pulled = 0;
    let returned = false;
    function* endless() {
      try {
        for (;;) yield requestOf(`r${pulled++}`, [1, 2, 3], 4);
      } finally {
        returned = true;
      }
    }
    expect(await collect(engine.generate(endless()), 10)).toHaveLength(10);
    expect(pulled).toBeLessThan(100);
    expect(returned).toBe(true);
    expect(engine.stats().usedBlocks).toBe(0);
  });

  it('a slow consumer stops the work instead of filling memory', async () => {
    const { engine } = await rig([{}], { microBatchRows: 8, inFlight: 2 });
    const iterator = engine.generate(requests(4000, { stop: { ignoreEos: true } }))[Symbol.asyncIterator]();
    await iterator.next();
    let before = -1;
    while (before !== engine.stats().steps) {
      before = engine.stats().steps;
      await new Promise((resolve) => setTimeout(resolve, 150));
    }
    const { generatedTokens, finished } = engine.stats();
    expect(generatedTokens + finished).toBeGreaterThanOrEqual(1024);
    expect(generatedTokens + finished).toBeLessThan(1024 + 4 * 8);
    let events = 0;
    for (; !(await iterator.next()).done; events++) if (events > 3000) break;
    expect(events).toBeGreaterThan(3000);
    await iterator.return(undefined);
  });

  it('an asynchronous source that throws fails the call with its error', async () => {
    const { engine } = await rig();
    async function* broken() {
      yield requestOf('a', [1], 100);
      throw new Error('disk on fire');
    }
    await expect(collect(engine.generate(broken()))).rejects.toThrow('disk on fire');
  });

  it('an abort throws AbortedError and leaves nothing', async () => {
    const { engine } = await rig([{ latencyMs: 2 }], { microBatchRows: 8, inFlight: 3 });
    const abort = new AbortController();
    setTimeout(() => abort.abort(), 20);
    const running = collect(engine.generate(requests(500), { signal: abort.signal }));
    await expect(running).rejects.toMatchObject({ code: 'ABORTED' });
    expect(engine.stats()).toMatchObject({ usedBlocks: 0, running: 0, waiting: 0 });
    await expectUndisturbed(engine, requests(5));
  });

  it('close() while running ends the call', async () => {
    const { engine } = await rig([{ latencyMs: 2 }], { microBatchRows: 8, inFlight: 3 });
    const running = collect(engine.generate(requests(500)));
    const ended = expect(running).rejects.toMatchObject({ code: 'ABORTED' });
    setTimeout(() => void engine.close(), 20);
    await ended;
    await expect(collect(engine.generate([]))).rejects.toMatchObject({ code: 'ABORTED' });
  });
});

describe('sampling', () => {
  const mixes: readonly Partial<SamplingParams>[] = [
    { temperature: 1 },
    { temperature: 0.7, topP: 0.9 },
    { temperature: 2, topK: 70, minP: 0.01 },
    { temperature: 1, frequencyPenalty: 0.5, presencePenalty: 0.5 },
    { temperature: 0, repetitionPenalty: 1.3, logitBias: new Map([[5, 3]]) },
  ];

  /** One at a time, always from the full row. */
  function sampleAlone({ promptIds, maxTokens, sampling }: GenerationRequest): number[] {
    const sequence = new FakeSequence();
    let logits: Float32Array = new Float32Array();
    for (const id of promptIds) logits = sequence.next(id);
    const ids: number[] = [];
    while (ids.length < maxTokens) {
      const generated = new Map<number, number>();
      for (const id of ids) generated.set(id, (generated.get(id) ?? 0) + 1);
      const draw = uniform(sampling.seed, ids.length);
      const id = changesLogits(sampling)
        ? (samplePenalised(logits, { prompt: new Set(promptIds), generated }, sampling, draw) ?? -1)
        : sampleFull(headRowOf(logits, inverseTemperature(sampling)), logits, sampling, draw);
      ids.push(id);
      logits = sequence.next(id);
    }
    return ids;
  }

  it('depends on seed and prompt only: whatever the batching, preemption and lost nodes', async () => {
    const given = Array.from({ length: 40 }, (_, i) =>
      requestOf(`r${i}`, [i, 2 * i + 1], 30, {
        sampling: { ...mixes[i % mixes.length], seed: BigInt(i) },
        topLogprobs: i % 3 === 0 ? 2 : null,
      }),
    );
    const configurations: readonly (readonly [readonly ReferenceAttentionOptions[], Partial<EngineOptions>])[] = [
      [[{}], { microBatchRows: 64, inFlight: 1 }],
      [
        [
          { blockTokens: 4, shards: [24] },
          { blockTokens: 2, shards: [30, 30], dieAtAttend: [77] },
        ],
        { inFlight: 4 },
      ],
    ];
    for (const [nodes, options] of configurations) {
      const { engine } = await rig(nodes, options);
      const got = await outcomes(engine, given);
      for (const request of given) expect(got.get(request.id)?.ids).toEqual(sampleAlone(request));
    }
  });

  it('log-probabilities are there for tokens that no candidate list holds', async () => {
    const { engine, dense } = await rig();
    const sampling = { temperature: 30, seed: 3n };
    const got = await outcomes(engine, [requestOf('a', [1], 40, { sampling, topLogprobs: 3 })]);
    expect(dense.logitCalls).toBeGreaterThan(0);
    const logprobs = got.get('a')?.logprobs ?? [];
    expect(logprobs.map(({ tokenId }) => tokenId)).toEqual(got.get('a')?.ids);
    for (const { logprob, top } of logprobs) {
      expect(logprob).toBeLessThanOrEqual(0);
      expect(logprob).toBeGreaterThan(-20);
      expect(top).toHaveLength(3);
    }
  });
});

describe('text', () => {
  /** Ids are letters and letter pairs. */
  const tokenizer: Tokenizer = {
    vocabSize: fakeConfig.vocabSize,
    encode: () => [],
    tokenBytes: (id) => new TextEncoder().encode(id === 96 ? '' : `${'abcdefghijkl'[id % 12]}${'xyz'[id % 5] ?? ''}`),
    isSpecial: (id) => id === 96,
  };
  const textOf = (ids: readonly number[]) =>
    ids.map((id) => new TextDecoder().decode(tokenizer.tokenBytes(id))).join('');

  it('stop strings end requests across tokens; text events make up the text', async () => {
    const { engine } = await rig([{}], { tokenizer });
    const whole = textOf(fakeGreedy([7], 40));
    const stop = whole.slice(21, 26);
    const got = await outcomes(engine, [
      requestOf('whole', [7], 40),
      requestOf('stopped', [7], 40, { stop: { strings: ['#', stop] } }),
    ]);
    expect(got.get('whole')).toMatchObject({ reason: 'length', text: whole });
    const stopped = got.get('stopped');
    expect(stopped).toMatchObject({ reason: 'stop', text: whole.slice(0, whole.indexOf(stop)) });
    expect(stopped?.ids).toEqual(fakeGreedy([7], 40).slice(0, stopped?.ids.length));
    expect(textOf(stopped?.ids ?? [])).toContain(stop);
  });
});

describe('one request fails, others go on', () => {
  const cases: readonly (readonly [string, GenerationRequest, string])[] = [
    ['an empty prompt', requestOf('bad', [], 5), 'EMPTY_PROMPT'],
    ['a token that isn’t one', requestOf('bad', [1, 97], 5), 'TOKEN_OUT_OF_RANGE'],
    ['a prompt that fills the context', requestOf('bad', new Array(256).fill(1), 5), 'CONTEXT_EXCEEDED'],
    ['a prompt that KV has no room for', requestOf('bad', new Array(130).fill(1), 5), 'KV_CAPACITY'],
    [
      'stop strings without a tokenizer',
      requestOf('bad', [1], 5, { stop: { strings: ['x'] } }),
      'STOP_NEEDS_TOKENIZER',
    ],
    ['a negative temperature', requestOf('bad', [1], 5, { sampling: { temperature: -1 } }), 'INVALID_SAMPLING'],
    ['no tokens wanted', requestOf('bad', [1], 0), 'INVALID_MAX_TOKENS'],
  ];
  for (const [name, bad, code] of cases) {
    it(name, async () => {
      const { engine } = await rig([{ shards: [8] }]);
      const got = await outcomes(engine, [requestOf('a', [1, 2], 4), bad, requestOf('b', [3], 4)]);
      expect(got.get('bad')).toMatchObject({ reason: 'error', errorCode: code });
      expect(got.get('a')?.ids).toEqual(fakeGreedy([1, 2], 4));
      expect(got.get('b')?.ids).toEqual(fakeGreedy([3], 4));
    });
  }

  it('logits that are not numbers', async () => {
    const { engine } = await rig([{}], {}, { poisonToken: 95 });
    const got = await outcomes(engine, [requestOf('bad', [95], 4), requestOf('good', [1], 1)]);
    expect(got.get('bad')?.errorCode).toBe('NON_FINITE_LOGITS');
    expect(got.get('good')?.reason).toBe('length');
  });
});

describe('ends', () => {
  it('the context fills up: length', async () => {
    const { engine } = await rig([{}], { contextTokens: 20 });
    const got = await outcomes(engine, [requestOf('a', [1, 2, 3], 100)]);
    expect(got.get('a')).toMatchObject({ reason: 'length', ids: fakeGreedy([1, 2, 3], 17) });
  });

  it('KV is smaller than the context: contextTokens says so, and length', async () => {
    const { engine } = await rig([{ shards: [2, 3] }]);
    expect(engine.contextTokens).toBe(80);
    const got = await outcomes(engine, [requestOf('a', [1, 2, 3], 100)]);
    expect(got.get('a')).toMatchObject({ reason: 'length', ids: fakeGreedy([1, 2, 3], 77) });
  });

  it('end-of-text and stop tokens stop, and are among the ids', async () => {
    const { engine } = await rig();
    const [, , third = 0] = fakeGreedy([5, 6], 3);
    const got = await outcomes(engine, [requestOf('a', [5, 6], 50, { stop: { tokenIds: [third] } })]);
    expect(got.get('a')).toMatchObject({ reason: 'stop', ids: fakeGreedy([5, 6], 50, [third]) });
  });
});

describe('preemption', () => {
  it('under tiny KV the output is unchanged', async () => {
    const { engine } = await rig([{ blockTokens: 4, shards: [20] }], { microBatchRows: 16, inFlight: 3 });
    const given = Array.from({ length: 30 }, (_, i) => requestOf(`r${i}`, [i, i + 1, i + 2], 60));
    await expectUndisturbed(engine, given);
    expect(engine.stats().preemptions).toBeGreaterThan(0);
  });

  it('a shard too small for one that grew: it moves to a larger one', async () => {
    const { engine } = await rig([{ blockTokens: 4, shards: [4, 16, 4] }], { microBatchRows: 8, inFlight: 2 });
    await expectUndisturbed(
      engine,
      Array.from({ length: 12 }, (_, i) => requestOf(`r${i}`, [i, i + 1], 50)),
    );
  });
});

describe('attention nodes', () => {
  it('one dies at any attend: output unchanged', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 2 }),
        fc.boolean(),
        fc.constantFrom(0, 1),
        async (deaths, silentDeath, latencyMs) => {
          const { engine } = await rig(
            [{ latencyMs }, ...deaths.map((at) => ({ dieAtAttend: [at, at], silentDeath, latencyMs }))],
            { microBatchRows: 8, inFlight: 3, prefillChunk: 4 },
          );
          await expectUndisturbed(engine, requests(24));
          expect(engine.stats().nodesLost).toBeGreaterThan(0);
        },
      ),
      { numRuns: 20 },
    );
  });

  it('all die: the call throws NodeLostError', async () => {
    const { engine } = await rig([{ dieAtAttend: [9] }, { dieAtAttend: [29] }]);
    await expect(collect(engine.generate(requests(40)))).rejects.toThrow(NodeLostError);
  });

  it('all die and come back, and are waited for: output unchanged', async () => {
    const { engine, sources } = await rig([{ dieAtAttend: [9, 11] }], { waitForNodes: true });
    await expectUndisturbed(engine, requests(20));
    expect(engine.stats().nodesLost).toBe(2);
    expect(sources[0]?.connects).toBe(3);
  });

  it('one that is late joins, one that never comes is no harm', async () => {
    const { engine } = await rig([{ failedConnects: 1 }, { latencyMs: 1 }, { failedConnects: 1e9 }]);
    expect(engine.stats().nodes.map(({ connected }) => connected)).toEqual([false, true, false]);
    const soon = Date.now() + 5000;
    while (engine.stats().nodes[0]?.connected !== true && Date.now() < soon) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await expectUndisturbed(engine, requests(30));
    expect(engine.stats().nodes.map(({ connected }) => connected)).toEqual([true, true, false]);
  });

  it('one that refuses is fatal at start, with its reason', async () => {
    const source = new ReferenceAttentionSource({ refusal: 'another model' });
    const other = new ReferenceAttentionSource({});
    const dense = new FakeDense();
    const made = createEngine({ dense, attention: [source, other], kvDtype: 'f32', fingerprint: 'x' });
    await expect(made).rejects.toMatchObject({ name: 'ProtocolError', message: 'another model' });
    expect(other.live).toBe(null);
  });

  it('none can be reached: NodeLostError, or waiting until one is there or an abort', async () => {
    const options = { dense: new FakeDense(), kvDtype: 'f32', fingerprint: 'x' } as const;
    const never = () => [new ReferenceAttentionSource({ failedConnects: 1e9 })];
    await expect(createEngine({ ...options, attention: never() })).rejects.toThrow(NodeLostError);
    await expect(createEngine({ ...options, attention: [] })).rejects.toThrow(NodeLostError);
    const signal = AbortSignal.timeout(50);
    const waiting = createEngine({ ...options, attention: never(), waitForNodes: true, signal });
    await expect(waiting).rejects.toMatchObject({ code: 'ABORTED' });
    const late = [new ReferenceAttentionSource({ failedConnects: 2 })];
    const engine = await createEngine({ ...options, attention: late, waitForNodes: true });
    await engine.close();
  });
});

describe('dense device', () => {
  for (const silentDeath of [false, true]) {
    it(`lost ${silentDeath ? 'in silence' : 'with an error'}: the call throws DeviceError`, async () => {
      const dense = new FakeDense({ dieAtCall: 25, silentDeath });
      const source = new ReferenceAttentionSource({});
      const engine = await createEngine({ dense, attention: [source], kvDtype: 'f32', fingerprint: 'x', inFlight: 2 });
      await expect(collect(engine.generate(requests(40)))).rejects.toMatchObject({ code: 'DEVICE_LOST' });
      await expect(collect(engine.generate(requests(1)))).rejects.toMatchObject({ code: 'DEVICE_LOST' });
      await engine.close();
      expect(dense.batches.size).toBe(0);
      expect(source.live).toBe(null);
    });
  }

  it('has room for fewer micro-batches than wanted: goes on with those', async () => {
    const { engine } = await rig([{}], { inFlight: 6, microBatchRows: 4 }, { mostBatches: 2 });
    await expectUndisturbed(engine, requests(40));
    expect(engine.stats().inFlight).toBe(2);
  });
});

describe('micro-batches in flight', () => {
  it('auto grows while attention is far away, and stays at one where it is near', async () => {
    const far = await rig([{ latencyMs: 12 }], { microBatchRows: 16 }, { latencyMs: 2 });
    const some = (n: number) => Array.from({ length: n }, (_, i) => requestOf(`r${i}`, [i % 90, 3], 16));
    const growing = outcomes(far.engine, some(96));
    let most = 0;
    const watch = setInterval(() => {
      most = Math.max(most, far.engine.stats().inFlight);
    }, 5);
    await growing;
    clearInterval(watch);
    expect(most).toBeGreaterThan(3);
    expect(far.dense.mostCalls).toBe(1);

    const near = await rig([{}], { microBatchRows: 16 }, { latencyMs: 2 });
    await outcomes(near.engine, some(24));
    expect(near.engine.stats().inFlight).toBe(1);
  });

  /** Sequences that wait, for want of rows or of KV, at a node that is far away. */
  async function mostInFlight(blocks: number, microBatchRows: number) {
    const { engine } = await rig([{ shards: [blocks], latencyMs: 6 }], { microBatchRows }, { latencyMs: 1 });
    let most = 0;
    const watch = setInterval(() => {
      most = Math.max(most, engine.stats().inFlight);
    }, 2);
    await outcomes(
      engine,
      Array.from({ length: 80 }, (_, i) => requestOf(`r${i}`, new Array(16).fill(i % 90), 24)),
    );
    clearInterval(watch);
    const { rows, steps } = engine.stats();
    return { most, rowsPerStep: rows / steps };
  }

  it('auto grows where sequences wait for rows', async () => {
    const { most } = await mostInFlight(1000, 4);
    expect(most).toBeGreaterThanOrEqual(5);
  });

  it('auto does not break what KV has room for into small micro-batches because others wait for KV', async () => {
    const { most, rowsPerStep } = await mostInFlight(48, 64); // for some 24
    expect(most).toBeLessThanOrEqual(3);
    expect(rowsPerStep).toBeGreaterThan(8);
  });

  it('concurrency and rows are never exceeded', async () => {
    const { engine, dense } = await rig([{}], { inFlight: 8, microBatchRows: 3 }, { concurrency: 3, latencyMs: 1 });
    await expectUndisturbed(engine, requests(30));
    expect(dense.mostCalls).toBeLessThanOrEqual(3);
    expect(dense.mostRows).toBeLessThanOrEqual(3);
  });
});

it('options out of range are refused', async () => {
  const options = { dense: new FakeDense(), attention: [], kvDtype: 'f32', fingerprint: 'x' } as const;
  for (const bad of [{ inFlight: 0 }, { microBatchRows: 1.5 }, { prefillChunk: -1 }]) {
    const error = await createEngine({ ...options, ...bad }).catch((thrown: GlinthawkError) => thrown);
    expect(error).toMatchObject({ code: 'INVALID_OPTION' });
  }
});
