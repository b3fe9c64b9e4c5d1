/** Nodes that come to a running engine and go again, what the engine tells of its tiers, and who holds KV. */
import type { AttentionSource } from '@glinthawk/attention';
import { NodeLostError, ProtocolError } from '@glinthawk/core';
import { describe, expect, it } from 'vitest';
import { outcomes, requestOf } from '../../../test/golden/engine.ts';
import { type ReferenceAttentionOptions, ReferenceAttentionSource } from '../../../test/reference/attention.ts';
import { FakeDense, fakeGreedy } from '../../../test/reference/fake-dense.ts';
import { createEngine } from './engine.ts';
import type { AttentionSpan, DenseSpan, EngineApi } from './engine-api.ts';
import { collect, rig } from './engine-rig.fixture.ts';
import type { GenerationRequest } from './request.ts';

/** A node that gives one backend, with what ends it. */
function guest(options: ReferenceAttentionOptions = {}) {
  const source = new ReferenceAttentionSource({ name: 'guest', ...options });
  let leave: () => void = () => {};
  let isAsked = false;
  const once: AttentionSource = {
    name: source.name,
    once: true,
    async connect(geometry, how) {
      if (isAsked) throw new Error('a guest was asked twice');
      isAsked = true;
      const backend = await source.connect(geometry, how);
      const left = new Promise<NodeLostError>((resolve) => {
        leave = () => resolve(new NodeLostError(source.name, 'the tab was closed'));
      });
      return Object.assign(backend, { lost: Promise.race([backend.lost, left]) });
    },
  };
  return { once, source, leave: () => leave() };
}

const given = Array.from({ length: 30 }, (_, i) => requestOf(`r${i}`, [i, 1, 2], 20));
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

async function expectAll(engine: EngineApi, requests: readonly GenerationRequest[], during?: () => Promise<void>) {
  const running = outcomes(engine, requests);
  await during?.();
  const got = await running;
  for (const { id, promptIds, maxTokens } of requests) {
    expect(got.get(id)?.ids, id).toEqual(fakeGreedy(promptIds, maxTokens));
  }
}

describe('attach', () => {
  const few = { microBatchRows: 4, inFlight: 2 } as const;

  it('gives work to a node that comes while others work', async () => {
    const { engine } = await rig([{ latencyMs: 1 }], few);
    const { once, source } = guest();
    await expectAll(engine, given, async () => {
      while (engine.stats().steps < 5) await pause(1);
      expect(await engine.attach(once)).toBe(1);
    });
    expect(source.live?.stats().busyMs).toBeGreaterThan(0);
    expect(engine.stats().nodes.map(({ name, connected }) => [name, connected])).toEqual([
      ['node 0', true],
      ['guest', true],
    ]);
    await engine.close();
    expect(source.live).toBe(null);
  });

  it('loses nothing when one leaves, or all, and another comes', async () => {
    const { engine } = await rig([], { ...few, nodesMayJoin: true });
    const guests = [guest({ latencyMs: 1 }), guest({ latencyMs: 1 }), guest({ name: 'late', latencyMs: 1 })] as const;
    await expectAll(engine, given, async () => {
      expect(engine.stats()).toMatchObject({ nodes: [], totalBlocks: 0, waiting: expect.any(Number) });
      expect(await Promise.all([engine.attach(guests[0].once), engine.attach(guests[1].once)])).toEqual([0, 1]);
      while (engine.stats().steps < 10) await pause(1);
      guests[0].leave();
      while (engine.stats().steps < 30) await pause(1);
      guests[1].leave();
      await pause(20);
      expect(engine.stats()).toMatchObject({ nodesLost: 2, usedBlocks: 0, running: 0 });
      expect(engine.stats().nodes.map(({ connected }) => connected)).toEqual([false, false]);
      expect(await engine.attach(guests[2].once)).toBe(0);
    });
    expect(engine.stats().nodes[0]).toMatchObject({ name: 'late', connected: true });
  });

  it('keeps the indices of those that stay, and of sources that are tried again', async () => {
    const { engine } = await rig([{ dieAtAttend: [10] }, {}], few);
    const [first, second, third] = [guest({ name: 'a' }), guest({ name: 'b' }), guest({ name: 'c' })];
    expect(await engine.attach(first.once)).toBe(2);
    expect(await engine.attach(second.once)).toBe(3);
    first.leave();
    await pause(0);
    await expectAll(engine, given);
    expect(await engine.attach(third.once)).toBe(2);
    expect(engine.stats().nodes.map(({ name }) => name)).toEqual(['node 0', 'node 1', 'c', 'b']);
    await expectAll(engine, given);
  });

  it('forgets a thousand that come and go', async () => {
    const { engine } = await rig([{}], few);
    let sent = 0;
    for (let i = 0; i < 1000; i++) {
      const { once, source, leave } = guest({ name: `tab ${i}` });
      expect(await engine.attach(once)).toBe(1);
      const backend = source.live;
      if (backend === null) throw new Error('it is not there');
      Object.assign(backend, { stats: () => ({ ...zero, bytesSent: 10 }) });
      sent += 10;
      leave();
      await pause(0);
    }
    const { nodes, nodesLost, bytesSent } = engine.stats();
    expect(nodes.map(({ name, connected }) => [name, connected])).toEqual([
      ['node 0', true],
      ['tab 999', false],
    ]);
    expect({ nodesLost, bytesSent }).toEqual({ nodesLost: 1000, bytesSent: sent });
    await expectAll(engine, given);
  });

  it('refuses what refuses, and keeps nothing of it', async () => {
    const { engine } = await rig();
    const { once } = guest({ refusal: 'another engine’s' });
    await expect(engine.attach(once)).rejects.toBeInstanceOf(ProtocolError);
    expect(engine.stats().nodes).toHaveLength(1);
  });

  it('is over with the engine, also while it connects', async () => {
    const { engine } = await rig();
    let closed = 0;
    const slow: AttentionSource = {
      name: 'slow',
      once: true,
      async connect(...how) {
        await pause(20);
        const backend = await guest().once.connect(...how);
        const close = backend.close.bind(backend);
        return Object.assign(backend, {
          close() {
            closed++;
            return close();
          },
        });
      },
    };
    const coming = engine.attach(slow);
    const refused = expect(coming).rejects.toMatchObject({ code: 'ABORTED' });
    await pause(0);
    await engine.close();
    await refused;
    expect(closed).toBe(1);
    await expect(engine.attach(guest().once)).rejects.toMatchObject({ code: 'ABORTED' });
  });

  it('what no node can hold waits for one that can, and is counted', async () => {
    const { engine } = await rig([], { ...few, nodesMayJoin: true });
    const long = requestOf('long', new Array(100).fill(3), 30);
    const got = outcomes(engine, [long, requestOf('short', [1, 2], 5), requestOf('grows', [4], 90)]);
    await engine.attach(guest({ blockTokens: 16, shards: [4] }).once);
    while (engine.stats().stranded.sequences < 2) await pause(1);
    expect(engine.stats()).toMatchObject({ finished: 1, stranded: { sequences: 2, tokens: 100 } });
    await engine.attach(guest({ blockTokens: 16, shards: [40] }).once);
    const ends = await got;
    expect(ends.get('long')?.ids).toEqual(fakeGreedy(long.promptIds, 30));
    expect(ends.get('grows')?.ids).toEqual(fakeGreedy([4], 90));
    expect(engine.stats().stranded).toEqual({ sequences: 0, tokens: 0 });
  });

  const zero = { usedBlocks: 0, openSlots: 0, busyMs: 0, bytesSent: 0, bytesReceived: 0, roundTripMs: 0 };
});

describe('a source that is good for once and fails at start', () => {
  const options = { dense: new FakeDense(), kvDtype: 'f32', fingerprint: 'x' } as const;

  it('is not asked again, and its index is that of the next one that comes', async () => {
    const failing = guest({ failedConnects: 1 });
    const warnings: string[] = [];
    const logger = { debug: () => {}, info: () => {}, warn: (text: string) => void warnings.push(text) };
    const attention = [failing.once, new ReferenceAttentionSource({})];
    const engine = await createEngine({ ...options, attention, logger });
    await pause(250); // a second attempt would come after 100
    expect(failing.source.connects).toBe(0);
    expect(await engine.attach(guest().once)).toBe(0);
    await engine.close();
    expect(warnings).toEqual(["attention node guest can't be reached"]);
  });

  it('is not waited for where there is no other', async () => {
    const attention = [guest({ failedConnects: 1 }).once];
    await expect(createEngine({ ...options, attention, waitForNodes: true })).rejects.toThrow(NodeLostError);
  });
});

describe('the observer', () => {
  it('is told every call of both tiers', async () => {
    const dense: DenseSpan[] = [];
    const attention: AttentionSpan[] = [];
    const observer = {
      onDense: (span: DenseSpan) => void dense.push(span),
      onAttention: (span: AttentionSpan) => void attention.push(span),
    };
    const { engine } = await rig([{}, {}], { observer, microBatchRows: 8, inFlight: 2 });
    await expectAll(engine, given);
    const { steps, rows } = engine.stats();
    const { layers } = engine.config;
    const last = attention.filter(({ layer }) => layer === layers - 1);
    expect(last.reduce((sum, span) => sum + span.rows, 0)).toBe(rows);
    expect(new Set(last.map(({ stepId }) => stepId)).size).toBe(steps);
    expect(new Set(attention.map(({ node }) => node))).toEqual(new Set([0, 1]));
    expect(dense.filter(({ layer }) => layer === 0)).toHaveLength(steps);
    expect(dense.some(({ layer }) => layer === layers)).toBe(true);
    for (const span of attention) expect(span.endedAtMs).toBeGreaterThanOrEqual(span.beganAtMs);
    for (const { queuedAtMs, beganAtMs, endedAtMs, microBatch } of dense) {
      expect(queuedAtMs <= beganAtMs && beganAtMs <= endedAtMs && microBatch < 2).toBe(true);
    }
    expect(attention.every(({ kvTokens, rows }) => kvTokens >= rows)).toBe(true);
  });

  it('is told later of nothing that began before what the statistics say is under way', async () => {
    const told: number[] = [];
    const observer = {
      onDense: ({ beganAtMs }: DenseSpan) => void told.push(beganAtMs),
      onAttention: ({ beganAtMs }: AttentionSpan) => void told.push(beganAtMs),
    };
    const fast = { latencyMs: 1 };
    const slow = { latencyMs: 30 };
    const { engine } = await rig([fast, slow], { observer, microBatchRows: 4, inFlight: 3 }, { latencyMs: 5 });
    const looks: { readonly told: number; readonly atMs: number; readonly sinceMs: number | null }[] = [];
    const look = setInterval(() => {
      looks.push({ told: told.length, atMs: performance.now(), sinceMs: engine.stats().underWaySinceMs });
    }, 3);
    await expectAll(engine, given.slice(0, 4));
    clearInterval(look);
    for (const { told: before, atMs, sinceMs } of looks) {
      expect(Math.min(...told.slice(before))).toBeGreaterThanOrEqual(sinceMs ?? atMs);
    }
    const longestMs = Math.max(...looks.map(({ atMs, sinceMs }) => atMs - (sinceMs ?? atMs)));
    expect(longestMs).toBeGreaterThan(15); // of the 30 that the slow node takes
    expect(engine.stats().underWaySinceMs).toBe(null);
  });
});

it('residents are those that hold KV, where they hold it', async () => {
  const { engine } = await rig([{ shards: [50, 50], blockTokens: 16, latencyMs: 1 }]);
  const events = engine.generate(given);
  await collect(events, 40);
  const running = engine.generate(given);
  await running.next();
  while (engine.stats().steps < 10) await pause(1);
  const residents = engine.residents();
  expect(residents.reduce((sum, { blocks }) => sum + blocks, 0)).toBe(engine.stats().usedBlocks);
  expect(new Set(residents.map(({ shard }) => shard))).toEqual(new Set([0, 1]));
  for (const { requestId, node, blocks, tokens } of residents) {
    expect(given.some(({ id }) => id === requestId)).toBe(true);
    expect(node).toBe(0);
    expect(blocks).toBeGreaterThanOrEqual(Math.ceil(tokens / 16));
  }
  await running.return();
  expect(engine.residents()).toEqual([]);
});
