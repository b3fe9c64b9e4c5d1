/** What goes wrong around the engine (nodes, sources, consumers) and what it may cost: time, a request, never the engine. */
import type { AttentionBackend, AttentionLimits, AttentionStep, Slot } from '@glinthawk/attention';
import { CapacityError, InputError, NodeLostError, outputRowFloats, ProtocolError } from '@glinthawk/core';
import { describe, expect, it } from 'vitest';
import { outcomes, requestOf } from '../../../test/golden/engine.ts';
import { ReferenceAttentionSource } from '../../../test/reference/attention.ts';
import { fakeGreedy } from '../../../test/reference/fake-dense.ts';
import type { EngineApi } from './engine-api.ts';
import { collect, rig } from './engine-rig.fixture.ts';
import type { GenerationRequest } from './request.ts';

async function expectAll(engine: EngineApi, given: readonly GenerationRequest[]): Promise<void> {
  const got = await outcomes(engine, given);
  for (const { id, promptIds, maxTokens } of given) {
    expect(got.get(id)?.ids, id).toEqual(fakeGreedy(promptIds, maxTokens));
  }
}

/** Refuses whatever goes beyond its limits, as remote nodes do. */
const limited = (limits: AttentionLimits) => (backend: AttentionBackend) => {
  const announce = backend.announce.bind(backend);
  const retire = backend.retire.bind(backend);
  const open = backend.open.bind(backend);
  const steps = new Set<number>();
  return {
    limits,
    open: (slot: Slot, shard: number) => {
      if (slot.index >= limits.maxSlots) throw new CapacityError('TOO_MANY_SLOTS', 'no slot left');
      open(slot, shard);
    },
    announce: (step: AttentionStep) => {
      const rows = step.entries.reduce((sum, { count }) => sum + count, 0);
      if (rows > limits.maxStepRows) throw new InputError('TOO_MANY_ROWS', `${rows} rows`);
      if (steps.size >= limits.maxSteps) throw new InputError('TOO_MANY_STEPS', `${steps.size} steps`);
      steps.add(step.id);
      announce(step);
    },
    retire: (stepId: number) => {
      steps.delete(stepId);
      retire(stepId);
    },
  };
};
const plenty = { maxStepRows: 1000, maxSlots: 1000, maxSteps: 1000 };

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe('the largest node is away', () => {
  const large = (awayMs: number) => {
    let connects = 0;
    let since = 0;
    return {
      blockTokens: 16,
      shards: [14],
      dieAtAttend: [20],
      onConnect: () => {
        if (connects++ === 0) return;
        since ||= performance.now();
        if (performance.now() - since < awayMs) throw new NodeLostError('node 0', 'away');
      },
    };
  };
  const small = { blockTokens: 16, shards: [4] };

  it('and waited for: what only it can hold waits, other requests go on, nothing is cut short', async () => {
    const { engine } = await rig([large(400), small], { waitForNodes: true });
    async function* source() {
      yield requestOf('first', [1, 2], 30);
      while (engine.stats().nodesLost === 0) await pause(5);
      yield requestOf('long', new Array(80).fill(3), 5);
      yield requestOf('grows', [1, 2, 3], 150);
      yield requestOf('short', [4], 3);
    }
    const events = await collect(engine.generate(source()));
    const ends = events.filter(({ type }) => type !== 'token');
    expect(ends.find(({ id }) => id === 'long')).toMatchObject({ tokenIds: fakeGreedy(new Array(80).fill(3), 5) });
    expect(ends.find(({ id }) => id === 'grows')).toMatchObject({ tokenIds: fakeGreedy([1, 2, 3], 150) });
    const order = ends.map(({ id }) => id);
    expect(order.indexOf('short')).toBeLessThan(order.indexOf('long'));
  });

  it('and not waited for: KV_CAPACITY for what needs it, and others go on', async () => {
    const { engine } = await rig([large(1e9), small]);
    async function* source() {
      yield requestOf('first', [1, 2], 30);
      while (engine.stats().nodesLost === 0) await pause(5);
      yield requestOf('grows', [1, 2, 3], 150);
      yield requestOf('short', [4], 3);
    }
    const got = await outcomes(engine, source());
    expect(got.get('grows')?.errorCode).toBe('KV_CAPACITY');
    expect(got.get('short')?.ids).toEqual(fakeGreedy([4], 3));
  });
});

describe('connecting', () => {
  it('a node that was unreachable and then refuses is no harm while another is there', async () => {
    let connects = 0;
    const onConnect = () => {
      if (connects++ === 0) throw new NodeLostError('node 1', 'not there yet');
      throw new ProtocolError('BUSY', 'another engine’s');
    };
    const warnings: string[] = [];
    const logger = { debug: () => {}, info: () => {}, warn: (message: string) => warnings.push(message) };
    const { engine } = await rig([{}, { onConnect }], { logger });
    while (connects < 3) await pause(10);
    const got = await outcomes(engine, [requestOf('a', [1, 2], 5)]);
    expect(got.get('a')?.ids).toEqual(fakeGreedy([1, 2], 5));
    expect(warnings.filter((message) => message.includes('refuses'))).toHaveLength(1);
  });

  it('a node that sends what are no numbers comes back ever later', async () => {
    const connectedAtMs: number[] = [];
    const alter = (backend: AttentionBackend) => {
      const attend = backend.attend.bind(backend);
      let attends = 0;
      return {
        attend: (...args: Parameters<typeof attend>) => {
          if (++attends < 4) return attend(...args);
          const cause = new ProtocolError('NOT_FINITE', 'no numbers');
          return Promise.reject(new NodeLostError('node 0', 'lost', { cause }));
        },
      };
    };
    const onConnect = () => void connectedAtMs.push(performance.now());
    const { engine } = await rig([{ alter, onConnect }, {}]);
    const given = Array.from({ length: 8 }, (_, i) => requestOf(`r${i}`, [i, 2], 6));
    while (connectedAtMs.length < 3) await expectAll(engine, given);
    const [first = 0, second = 0, third = 0] = connectedAtMs;
    expect(second - first).toBeGreaterThan(1_000);
    expect(third - second).toBeGreaterThan(2_000);
    expect(engine.stats().failed).toBe(0);
  });

  it('a node that is lost while a sequence is placed there', async () => {
    let opens = 0;
    const alter = (backend: AttentionBackend) => {
      const open = backend.open.bind(backend);
      return {
        open: (slot: Slot, shard: number) => {
          if (++opens === 4) throw new NodeLostError('node 0', 'gone');
          open(slot, shard);
        },
      };
    };
    // Three sequences are to make up the step when the fourth finds the node gone; none may stand in a step twice.
    const { engine } = await rig([{ alter }, { shards: [2000] }], { inFlight: 1 });
    const given = Array.from({ length: 12 }, (_, i) => requestOf(`r${i}`, [i, 2], 6));
    const got = await outcomes(engine, given);
    for (const { id, promptIds } of given) expect(got.get(id)?.ids, id).toEqual(fakeGreedy(promptIds, 6));
    expect(engine.stats().nodesLost).toBeGreaterThan(0);
  });
});

describe('sources of requests', () => {
  it('one whose clean-up throws', async () => {
    const { engine } = await rig([{ latencyMs: 1 }]);
    function* source() {
      try {
        for (let i = 0; ; i++) yield requestOf(`r${i}`, [1], 4);
      } finally {
        // biome-ignore lint/correctness/noUnsafeFinally: what is tested
        throw new Error('clean-up failed');
      }
    }
    expect(await collect(engine.generate(source()), 1)).toHaveLength(1);
  });

  it('one is closed when what it gave can’t be taken', async () => {
    const { engine } = await rig();
    let closed = false;
    function* source() {
      try {
        for (;;) yield { ...requestOf('a', [1], 4), sampling: null as never };
      } finally {
        closed = true;
      }
    }
    await expect(collect(engine.generate(source()))).rejects.toThrow();
    expect(closed).toBe(true);
  });
});

describe('a node takes less than the engine has', () => {
  const given = Array.from({ length: 24 }, (_, i) => requestOf(`r${i}`, [i, 1, 2, 3, 4, 5], 8));

  for (const less of [
    { maxStepRows: 3 },
    { maxSlots: 4 },
    { maxSteps: 1 },
    { maxStepRows: 2, maxSlots: 2, maxSteps: 2 },
  ]) {
    it(`by what it says: ${JSON.stringify(less)}`, async () => {
      const alter = limited({ ...plenty, ...less });
      const { engine } = await rig([{ alter, latencyMs: 1 }], { microBatchRows: 16, inFlight: 3 });
      await expectAll(engine, given);
      expect(engine.stats()).toMatchObject({ nodesLost: 0, failed: 0 });
    });
  }

  it('slots, without saying so', async () => {
    const alter = (backend: AttentionBackend) => ({ ...limited({ ...plenty, maxSlots: 4 })(backend), limits: plenty });
    const { engine } = await rig([{ alter }], { microBatchRows: 16, inFlight: 3 });
    await expectAll(engine, given);
    expect(engine.stats().failed).toBe(0);
  });

  /** Has room for so many rows under way. */
  const staging = (most: number) => (backend: AttentionBackend) => {
    const attend = backend.attend.bind(backend);
    let underWay = 0;
    return {
      attend: async (stepId: number, layer: number, qkv: Float32Array, output: Float32Array) => {
        underWay += output.length;
        try {
          if (underWay > most * outputRowFloats(backend.geometry)) throw new CapacityError('STAGING', 'no room');
          await attend(stepId, layer, qkv, output);
        } finally {
          underWay -= output.length;
        }
      },
    };
  };

  for (const most of [1, 5, 40]) {
    it(`room for ${most} rows under way`, async () => {
      const { engine } = await rig([{ alter: staging(most), latencyMs: 1 }, {}], { microBatchRows: 16, inFlight: 3 });
      await expectAll(engine, given);
      expect(engine.stats()).toMatchObject({ nodesLost: 0, failed: 0 });
    });
  }

  describe('room for nothing, ever', () => {
    let refusals = 0;
    const fullUp = () => ({
      attend: () => {
        refusals++;
        return Promise.reject(new CapacityError('STAGING', 'no room'));
      },
    });

    it('beside a node that has: nothing fails, and it is soon asked no more', async () => {
      for (const nodes of [
        [{ alter: fullUp }, {}],
        [{ shards: [1000] }, { alter: fullUp, shards: [10_000] }],
      ]) {
        refusals = 0;
        const { engine } = await rig(nodes, { microBatchRows: 16, inFlight: 3 });
        await expectAll(engine, given);
        expect(engine.stats()).toMatchObject({ nodesLost: 0, failed: 0 });
        const before = refusals;
        await expectAll(engine, given);
        expect(refusals).toBe(before);
      }
    });

    it('alone: what is asked fails with what it says, and nothing hangs', async () => {
      const { engine } = await rig([{ alter: fullUp }, { alter: fullUp }], { microBatchRows: 16, inFlight: 3 });
      const got = await outcomes(engine, given);
      for (const { id } of given) expect(got.get(id)?.errorCode, id).toBe('STAGING');
    });

    it('where nodes may join: it waits for one, and says that it does', async () => {
      const { engine } = await rig([{ alter: fullUp }], { microBatchRows: 16, inFlight: 3, nodesMayJoin: true });
      const running = expectAll(engine, given);
      await expect.poll(() => engine.stats().stranded.sequences).toBe(given.length);
      const late = new ReferenceAttentionSource({ name: 'late' });
      await engine.attach({ name: 'late', once: true, connect: (shape, how) => late.connect(shape, how) });
      await running;
    });
  });

  it('no room even for one sequence alone: that one fails, others go on', async () => {
    const alter = (backend: AttentionBackend) => {
      const attend = backend.attend.bind(backend);
      const announce = backend.announce.bind(backend);
      const tooLong = new Set<number>();
      return {
        announce: (step: AttentionStep) => {
          if (step.entries.some(({ position }) => position >= 20)) tooLong.add(step.id);
          announce(step);
        },
        attend: (...args: Parameters<typeof attend>) =>
          tooLong.has(args[0]) ? Promise.reject(new CapacityError('WASM_MEMORY', 'no more')) : attend(...args),
      };
    };
    const { engine } = await rig([{ alter }], { microBatchRows: 16, inFlight: 3 });
    const got = await outcomes(engine, [...given, requestOf('long', [9], 60)]);
    for (const { id, promptIds, maxTokens } of given)
      expect(got.get(id)?.ids).toEqual(fakeGreedy(promptIds, maxTokens));
    expect(got.get('long')?.errorCode).toBe('WASM_MEMORY');
    await expectAll(engine, given);
  });

  it('what it should not throw loses the node, not the engine', async () => {
    for (const thrown of [new InputError('NO_STEP', 'what step?'), new TypeError('undefined is not a function')]) {
      let calls = 0;
      const alter = (backend: AttentionBackend) => {
        const attend = backend.attend.bind(backend);
        const announce = backend.announce.bind(backend);
        return {
          announce: (step: AttentionStep) => {
            if (++calls === 3) throw thrown;
            announce(step);
          },
          attend: (...args: Parameters<typeof attend>) => {
            if (++calls === 30) throw thrown;
            return attend(...args);
          },
        };
      };
      const { engine } = await rig([{}, { alter }], { microBatchRows: 8 });
      await expectAll(engine, [...given, ...given.map((request) => ({ ...request, id: `${request.id} again` }))]);
      expect(engine.stats().nodesLost).toBeGreaterThan(0);
      expect(engine.stats().failed).toBe(0);
    }
  });
});

describe('a node says that it will leave', () => {
  const given = Array.from({ length: 16 }, (_, i) => requestOf(`r${i}`, [1, 2, i], 30));

  it('nothing new goes there, what is there ends there, and then it is let go', async () => {
    let draining: string | undefined;
    let opened = 0;
    const source = new ReferenceAttentionSource({ name: 'leaves', latencyMs: 1 });
    const connect: typeof source.connect = async (...how) => {
      const backend = await source.connect(...how);
      const open = (...slotAndShard: Parameters<typeof backend.open>) => {
        if (draining !== undefined) opened++;
        Object.getPrototypeOf(backend).open.apply(backend, slotAndShard);
      };
      const limits = { ...plenty, maxSlots: 6 };
      return Object.defineProperties(backend, {
        draining: { get: () => draining },
        limits: { value: limits },
        open: { value: open },
      });
    };
    const { engine } = await rig([{ alter: limited({ ...plenty, maxSlots: 2 }), latencyMs: 1 }]);
    await engine.attach({ name: 'leaves', once: true, connect });
    const running = outcomes(engine, given);
    await expect.poll(() => engine.stats().nodes[1]?.usedBlocks, { interval: 1 }).toBeGreaterThan(0);
    draining = 'the node is shutting down';
    const got = await running;
    for (const { id, promptIds, maxTokens } of given)
      expect(got.get(id)?.ids).toEqual(fakeGreedy(promptIds, maxTokens));
    expect(opened).toBe(0);
    expect(engine.stats()).toMatchObject({ preemptions: 0, failed: 0, nodesLost: 1 });
    expect(source.live).toBe(null);
  });
});

describe('a consumer stops', () => {
  it('with all KV held: another call goes on, and so does it when it listens again', async () => {
    for (const node of [{ shards: [40] }, { shards: [400], alter: limited({ ...plenty, maxSlots: 16 }) }]) {
      const { engine } = await rig([node]);
      const prompts = Array.from({ length: 40 }, (_, i) => [1, 2, i]);
      const first = engine.generate(prompts.map((promptIds, i) => requestOf(`a${i}`, promptIds, 200)));
      const events = [(await first.next()).value];
      for (let before = -1; before !== engine.stats().steps; await pause(60)) before = engine.stats().steps;
      await expectAll(engine, [requestOf('b', [5, 6, 7], 50), requestOf('c', new Array(100).fill(8), 100)]);
      events.push(...(await collect(first)));
      const ids = new Map(events.flatMap((event) => (event?.type === 'finish' ? [[event.id, event.tokenIds]] : [])));
      for (const [i, promptIds] of prompts.entries()) expect(ids.get(`a${i}`)).toEqual(fakeGreedy(promptIds, 200));
    }
  });
});

describe('a node that never answers an attend', () => {
  /** Answers everything else. */
  const stuckAt = (stuck: number) => {
    let attends = 0;
    return (backend: AttentionBackend) => {
      const attend = backend.attend.bind(backend);
      return {
        attend: (...args: Parameters<typeof attend>) =>
          ++attends === stuck ? new Promise<void>(() => {}) : attend(...args),
      };
    };
  };
  const given = Array.from({ length: 8 }, (_, i) => requestOf(`r${i}`, [1, 2, i], 40));

  it('counts as lost, and the work is done elsewhere', async () => {
    const { engine } = await rig([{ alter: stuckAt(20) }, {}], { attendTimeoutMs: 60 });
    await expectAll(engine, given);
    expect(engine.stats().nodesLost).toBe(1);
  });

  it('does not hold up an abort', async () => {
    const { engine } = await rig([{ alter: stuckAt(20) }], { graceMs: 50 });
    const running = collect(engine.generate(given, { signal: AbortSignal.timeout(60) }));
    await expect(running).rejects.toMatchObject({ code: 'ABORTED' });
    expect(engine.stats()).toMatchObject({ usedBlocks: 0, running: 0, nodesLost: 1 });
  });

  it('is not taken from another call by an abort', async () => {
    const { engine } = await rig([{ alter: stuckAt(20) }], { graceMs: 50, attendTimeoutMs: 400, waitForNodes: true });
    const running = collect(engine.generate(given, { signal: AbortSignal.timeout(60) }));
    const other = expectAll(engine, [requestOf('other', [7], 20)]);
    await expect(running).rejects.toMatchObject({ code: 'ABORTED' });
    await other;
  });

  it('does not hold up close()', async () => {
    const { engine } = await rig([{ alter: stuckAt(20) }], { graceMs: 50 });
    const running = collect(engine.generate(given));
    const ended = expect(running).rejects.toMatchObject({ code: 'ABORTED' });
    await pause(60);
    const began = performance.now();
    await engine.close();
    await ended;
    expect(performance.now() - began).toBeLessThan(2000);
  });
});
