/** What goes wrong around the engine (nodes, sources, consumers) and what it may cost: time, a request, never the engine. */
import type { AttentionBackend, Slot } from '@glinthawk/attention';
import { NodeLostError, ProtocolError } from '@glinthawk/core';
import { describe, expect, it } from 'vitest';
import { outcomes, requestOf } from '../../../test/golden/engine.ts';
import { fakeGreedy } from '../../../test/reference/fake-dense.ts';
import { collect, rig } from './engine-rig.fixture.ts';

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
