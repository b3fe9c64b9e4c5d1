/** Attention over every transport gives what the backend behind it gives, and leaves nothing behind. */
import {
  type AttentionGeometry,
  CapacityError,
  GlinthawkError,
  InputError,
  NodeLostError,
  outputRowFloats,
  qkvRowFloats,
} from '@glinthawk/core';
import {
  type MemoryFaults,
  memoryTransportPair,
  messagePortTransport,
  type PortLike,
  type Transport,
} from '@glinthawk/wire';
import { afterEach, describe, expect, it } from 'vitest';
import type { AttentionBackend, AttentionStep } from '../backend.ts';
import { AttentionNode, type AttentionNodeOptions } from './attention-node.ts';
import { NaiveBackend, type NaiveBackendOptions } from './naive-backend.fixture.ts';
import type { RemoteAttention } from './remote-attention.ts';
import { remoteSource } from './remote-source.node.ts';
import { messagePortSource, RemoteSource, type RemoteSourceOptions } from './remote-source.ts';
import { type AttentionServer, serveAttention } from './serve.node.ts';

const geometry: AttentionGeometry = {
  layers: 3,
  kvHeads: 2,
  groupSize: 3,
  headDim: 8,
  softmaxScale: 1 / Math.sqrt(8),
  windows: [0, 4, 0],
  maxContextTokens: 512,
};
const hello = { kvDtype: 'f32', fingerprint: 'model-a' } as const;

const cleanups: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

function makeNode(options: Partial<AttentionNodeOptions> = {}, backendOptions: NaiveBackendOptions = {}) {
  const backends: NaiveBackend[] = [];
  const node = new AttentionNode({
    createBackend: async (shape, { kvDtype, rowDtype }) => {
      const backend = new NaiveBackend(shape, kvDtype, { ...backendOptions, rowDtype });
      backends.push(backend);
      return backend;
    },
    ...options,
  });
  cleanups.push(() => node.close());
  return { node, backends };
}

async function serve(options: Partial<AttentionNodeOptions> = {}): Promise<AttentionServer> {
  const server = await serveAttention({
    host: '127.0.0.1',
    port: 0,
    createBackend: async (shape, { kvDtype, rowDtype }) => new NaiveBackend(shape, kvDtype, { rowDtype }),
    ...options,
  });
  cleanups.push(() => server.close());
  return server;
}

function memorySource(
  node: AttentionNode,
  options: RemoteSourceOptions & { faults?: [MemoryFaults, MemoryFaults] } = {},
): RemoteSource {
  const { faults, ...rest } = options;
  const dial = async (): Promise<Transport> => {
    const [ours, theirs] = memoryTransportPair(faults ? { faults } : {});
    node.accept(theirs);
    return ours;
  };
  return new RemoteSource('memory', dial, rest);
}

let seed = 1;
function random(length: number): Float32Array {
  const values = new Float32Array(length);
  for (let i = 0; i < length; i++) {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    values[i] = seed / 1073741824 - 1;
  }
  return values;
}

function maxDifference(a: Float32Array, b: Float32Array): number {
  return a.reduce((most, value, i) => Math.max(most, Math.abs(value - (b[i] as number))), 0);
}

/** Runs prefill chunks and decode steps of several slots on both, and expects the same bits from both. */
async function compare(remote: AttentionBackend, tolerance: number | 'unchecked' = 0): Promise<void> {
  const local = new NaiveBackend(geometry, 'f32');
  const slots = [0, 1, 2].map((index) => ({ index, generation: 7 }));
  const positions = [0, 0, 0];
  for (const slot of slots) for (const backend of [local, remote]) backend.open(slot, 0);
  for (let id = 1; id <= 6; id++) {
    const entries = slots.map((slot, i) => {
      const count = id === 1 ? 5 + i * 11 : 1;
      const position = positions[i] as number;
      positions[i] = position + count;
      return { slot, position, count };
    });
    const step: AttentionStep = { id, entries };
    const rows = entries.reduce((sum, entry) => sum + entry.count, 0);
    for (const backend of [local, remote]) backend.announce(step);
    for (let layer = 0; layer < geometry.layers; layer++) {
      const qkv = random(rows * qkvRowFloats(geometry));
      const expected = new Float32Array(rows * outputRowFloats(geometry));
      const found = new Float32Array(rows * outputRowFloats(geometry)).fill(NaN);
      await Promise.all([local.attend(id, layer, qkv, expected), remote.attend(id, layer, qkv, found)]);
      if (tolerance === 0) expect(found).toEqual(expected);
      else if (tolerance !== 'unchecked') expect(maxDifference(found, expected)).toBeLessThan(tolerance);
    }
    for (const backend of [local, remote]) backend.retire(id);
  }
  if (tolerance === 'unchecked') return;
  expect(remote.stats().usedBlocks).toBe(local.stats().usedBlocks);
  expect(remote.stats().openSlots).toBe(3);
  for (const slot of slots) remote.free(slot);
  expect(remote.stats().usedBlocks).toBe(0);
  expect(remote.stats().busyMs).toBeCloseTo(18, 3); // the naive backend counts 1 ms an attend
}

describe('attention over a transport equals the backend behind it', () => {
  it('memory', async () => {
    const { node, backends } = makeNode();
    const remote = await memorySource(node).connect(geometry, hello);
    await compare(remote);
    expect(remote.capacity).toEqual(backends[0]?.capacity);
    await remote.close();
    expect(remote.allocatedBytes()).toBe(0);
  });

  it.each([
    ['single bytes', () => 1],
    ['seventeen bytes', () => 17],
    ['random sizes', () => 1 + Math.floor(Math.random() * 3000)],
  ])('memory, cut into %s', async (_name, chunkBytes) => {
    const { node } = makeNode();
    const remote = await memorySource(node, { faults: [{ chunkBytes }, { chunkBytes }] }).connect(geometry, hello);
    await compare(remote);
    await remote.close();
  });

  it('memory, with latency and little room in flight', async () => {
    const { node } = makeNode();
    const faults: MemoryFaults = { latencyMs: 1, windowBytes: 1024 };
    const remote = await memorySource(node, { faults: [faults, faults] }).connect(geometry, hello);
    await compare(remote);
    await remote.close();
  });

  it.each(['url', 'webSocketUrl'] as const)('a port on this machine: %s', async (which) => {
    const server = await serve({ token: 'a token' });
    const source = remoteSource(server.listener[which], { token: 'a token' });
    const remote = await source.connect(geometry, hello);
    expect(remote.name).toBe(server.listener[which]);
    await compare(remote);
    await remote.close();
    expect(remote.allocatedBytes()).toBe(0);
    await server.close();
    expect(server.listener.openSockets).toBe(0);
    expect(server.node.stats()).toMatchObject({ connections: 0, session: null, allocatedBytes: 0, sessionsServed: 1 });
  });

  it('MessagePort', async () => {
    const { node } = makeNode();
    const source = messagePortSource(() => {
      const { port1, port2 } = new MessageChannel();
      node.accept(messagePortTransport(port1 as unknown as PortLike));
      return port2 as unknown as PortLike;
    });
    const remote = await source.connect(geometry, hello);
    await compare(remote);
    await remote.close();
  });

  it('f16 on the wire stays within half precision', async () => {
    const { node } = makeNode();
    const remote = await memorySource(node, { wireDtype: 'f16' }).connect(geometry, hello);
    await compare(remote, 4e-3);
    await remote.close();
  });

  it('injected latency delays and does not change results', async () => {
    const server = await serve();
    const remote = await remoteSource(server.listener.url, { latencyMs: 15 }).connect(geometry, hello);
    await compare(remote);
    expect(remote.stats().roundTripMs).toBeGreaterThan(13);
    await remote.close();
  });
});

/** A session with one open slot and an announced step of two rows. */
async function session(
  options: Partial<AttentionNodeOptions> = {},
  backendOptions: NaiveBackendOptions = {},
  source: RemoteSourceOptions & { faults?: [MemoryFaults, MemoryFaults] } = {},
) {
  const { node, backends } = makeNode(options, backendOptions);
  const remote = (await memorySource(node, source).connect(geometry, hello)) as RemoteAttention;
  cleanups.push(() => remote.close());
  const slot = { index: 0, generation: 1 };
  remote.open(slot, 0);
  remote.announce({ id: 1, entries: [{ slot, position: 0, count: 2 }] });
  const qkv = random(2 * qkvRowFloats(geometry));
  const output = new Float32Array(2 * outputRowFloats(geometry));
  return { node, backends, remote, slot, qkv, output };
}

const quickKeepalive = { intervalMs: 20, timeoutMs: 120 };

describe('a session', () => {
  it('gives the log-sum-exp on request', async () => {
    const { remote, qkv, output } = await session();
    const logSumExp = new Float32Array(2 * 6);
    await remote.attend(1, 0, qkv, output, logSumExp);
    const local = new NaiveBackend(geometry, 'f32');
    local.open({ index: 0, generation: 1 }, 0);
    local.announce({ id: 1, entries: [{ slot: { index: 0, generation: 1 }, position: 0, count: 2 }] });
    const expected = { output: new Float32Array(output.length), logSumExp: new Float32Array(12) };
    await local.attend(1, 0, qkv, expected.output, expected.logSumExp);
    expect({ output, logSumExp }).toEqual(expected);
  });

  it('runs different steps at once and answers them in any order', async () => {
    const gates = new Map([1, 2, 3].map((id) => [id, Promise.withResolvers<void>()]));
    const { remote, slot, qkv, output } = await session({}, { before: (id) => gates.get(id)?.promise });
    const row = qkv.subarray(0, qkvRowFloats(geometry));
    const outputs = [2, 3].map(() => new Float32Array(outputRowFloats(geometry)));
    const done: number[] = [];
    const first = remote.attend(1, 0, qkv, output).then(() => done.push(1));
    remote.announce({ id: 2, entries: [{ slot, position: 2, count: 1 }] });
    remote.announce({ id: 3, entries: [{ slot, position: 0, count: 1 }] });
    const third = remote.attend(3, 0, row, outputs[1] as Float32Array).then(() => done.push(3));
    gates.get(3)?.resolve();
    await third;
    gates.get(1)?.resolve();
    await first;
    expect(done).toEqual([3, 1]);
  });

  it('sends all frames of one turn in one write', async () => {
    const writes: number[] = [];
    const { node } = makeNode();
    const dial = async (): Promise<Transport> => {
      const [ours, theirs] = memoryTransportPair();
      node.accept(theirs);
      const send = ours.send.bind(ours);
      ours.send = (parts) => {
        writes.push(parts.length);
        return send(parts);
      };
      return ours;
    };
    const remote = await new RemoteSource('memory', dial).connect(geometry, hello);
    await new Promise((resolve) => setTimeout(resolve, 5));
    writes.length = 0;
    const slot = { index: 0, generation: 1 };
    remote.open(slot, 0);
    remote.announce({ id: 1, entries: [{ slot, position: 0, count: 1 }] });
    await remote.attend(1, 0, random(qkvRowFloats(geometry)), new Float32Array(outputRowFloats(geometry)));
    expect(writes).toEqual([6]); // header and payload of OPEN, STEP and ATTEND
    await remote.close();
  });

  it('rejects only the attend for which there is no room', async () => {
    const { remote, slot, qkv, output } = await session({}, { blocks: 1 });
    await remote.attend(1, 0, qkv, output);
    remote.announce({ id: 2, entries: [{ slot, position: 2, count: 30 }] });
    const big = random(30 * qkvRowFloats(geometry));
    const bigOutput = new Float32Array(30 * outputRowFloats(geometry));
    await expect(remote.attend(2, 0, big, bigOutput)).rejects.toThrow(CapacityError);
    await expect(remote.attend(2, 0, big, bigOutput)).rejects.toMatchObject({ code: 'KV_FULL' });
    await remote.attend(1, 1, qkv, output);
  });

  it('tells every attend of a slot that could not be opened why', async () => {
    const { node } = makeNode({
      createBackend: async (shape, { kvDtype, rowDtype }) => {
        const backend = new NaiveBackend(shape, kvDtype, { rowDtype });
        backend.open = () => {
          throw new CapacityError('NO_SLOT', 'no room for a slot');
        };
        return backend;
      },
    });
    const remote = await memorySource(node).connect(geometry, hello);
    const slot = { index: 3, generation: 1 };
    remote.open(slot, 0);
    remote.announce({ id: 1, entries: [{ slot, position: 0, count: 1 }] });
    const attend = () =>
      remote.attend(1, 0, random(qkvRowFloats(geometry)), new Float32Array(outputRowFloats(geometry)));
    await expect(attend()).rejects.toMatchObject({ code: 'NO_SLOT' });
    await expect(attend()).rejects.toThrow(CapacityError);
    await remote.close();
  });

  it('throws mistakes where they are made, and goes on', async () => {
    const { remote, slot, qkv, output } = await session();
    expect(() => remote.open(slot, 0)).toThrow(InputError);
    expect(() => remote.open({ index: 1, generation: 0 }, 5)).toThrow(/shard/);
    expect(() =>
      remote.announce({ id: 2, entries: [{ slot: { index: 9, generation: 0 }, position: 0, count: 1 }] }),
    ).toThrow(/slot 9/);
    expect(() =>
      remote.announce({ id: 2, entries: [{ slot: { ...slot, generation: 2 }, position: 0, count: 1 }] }),
    ).toThrow(/not open/);
    expect(() => remote.announce({ id: 2, entries: [{ slot, position: 512, count: 1 }] })).toThrow(/beyond 512/);
    expect(() => remote.announce({ id: 1, entries: [{ slot, position: 0, count: 1 }] })).toThrow(/already/);
    await expect(remote.attend(9, 0, qkv, output)).rejects.toThrow(InputError);
    await expect(remote.attend(1, 3, qkv, output)).rejects.toThrow(/layer/);
    await expect(remote.attend(1, 0, qkv.subarray(1), output)).rejects.toThrow(/qkv/);
    await expect(remote.attend(1, 0, qkv, output.subarray(1))).rejects.toThrow(/output/);
    await remote.attend(1, 0, qkv, output);
  });

  it('reuses a slot under a new generation', async () => {
    const { remote, backends, slot, qkv, output } = await session();
    await remote.attend(1, 0, qkv, output);
    remote.retire(1);
    remote.free(slot);
    remote.free({ index: 77, generation: 0 });
    const again = { index: 0, generation: 2 };
    remote.open(again, 0);
    remote.free(slot); // late, for the old generation
    remote.announce({ id: 1, entries: [{ slot: again, position: 0, count: 2 }] });
    await remote.attend(1, 0, qkv, output);
    expect(backends[0]?.slots.get(0)?.generation).toBe(2);
    expect(remote.stats().openSlots).toBe(1);
  });

  it('reports what the node counts', async () => {
    const { remote, qkv, output } = await session();
    await remote.attend(1, 0, qkv, output);
    expect(await remote.nodeStats()).toMatchObject({ usedBlocks: 1, openSlots: 1, busyMs: 1 });
    expect(remote.stats()).toMatchObject({ usedBlocks: 1, openSlots: 1, busyMs: 1 });
  });

  it('frees everything at both ends when the engine closes', async () => {
    const { remote, node, backends, qkv, output } = await session();
    await remote.attend(1, 0, qkv, output);
    await remote.close();
    await settled(() => node.stats().connections === 0);
    expect(backends[0]).toMatchObject({ closed: true });
    expect(node.stats()).toMatchObject({ session: null, allocatedBytes: 0, openSlots: 0, refused: 0 });
    expect(node.stats().bytesReceived).toBe(remote.stats().bytesSent);
    expect(node.stats().bytesSent).toBe(remote.stats().bytesReceived);
    await expect(remote.attend(1, 0, qkv, output)).rejects.toThrow(NodeLostError);
    expect(remote.allocatedBytes()).toBe(0);
  });

  it('stops reading while too much is under way, and loses nothing', async () => {
    const gate = Promise.withResolvers<void>();
    const { remote, slot, qkv, backends } = await session({}, { before: () => gate.promise });
    const attends: Promise<void>[] = [];
    for (let id = 2; id < 202; id++) {
      remote.announce({ id, entries: [{ slot, position: 0, count: 1 }] });
      attends.push(
        remote.attend(id, 0, qkv.subarray(0, qkvRowFloats(geometry)), new Float32Array(outputRowFloats(geometry))),
      );
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(backends[0]?.steps.size).toBeLessThan(70);
    gate.resolve();
    await Promise.all(attends);
    expect(backends[0]?.attends).toBe(200);
  });
});

async function settled(condition: () => boolean, timeoutMs = 5_000): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error('it did not settle');
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

describe('a handshake is refused with the reason', () => {
  const connect = (node: AttentionNode, options: RemoteSourceOptions = {}) =>
    memorySource(node, options).connect(geometry, hello);

  it('wrong token', async () => {
    const { node, backends } = makeNode({ token: 'right' });
    await expect(connect(node, { token: 'wrong' })).rejects.toMatchObject({ code: 'WRONG_TOKEN' });
    await expect(connect(node)).rejects.toMatchObject({ code: 'TOKEN_REQUIRED' });
    expect(backends).toHaveLength(0);
    await (await connect(node, { token: 'right' })).close();
  });

  it('a node that does not know the token', async () => {
    const { node } = makeNode();
    await expect(connect(node, { token: 'mine' })).rejects.toMatchObject({ code: 'NODE_UNPROVEN' });
  });

  it('wrong model', async () => {
    const { node } = makeNode({ fingerprint: 'model-b' });
    await expect(connect(node)).rejects.toMatchObject({ code: 'WRONG_MODEL', message: /model-b.*model-a/ });
    expect(node.stats().refused).toBe(1);
  });

  it('a backend that cannot be made', async () => {
    const { node } = makeNode({
      createBackend: async () => {
        throw new CapacityError('NO_MEMORY', 'needed 8 GiB, there is 1 GiB');
      },
    });
    await expect(connect(node)).rejects.toMatchObject({ code: 'NO_MEMORY', name: 'ProtocolError', message: /8 GiB/ });
    expect(node.stats().session).toBe(null);
  });

  it.each([
    ['a block of 2^53 bytes', { blockBytes: 2 ** 53 - 1 }],
    ['2^32 blocks', { shards: new Array(4).fill({ blocks: 2 ** 32 - 1 }) }],
  ])('promises what no node has: %s', async (_name, change) => {
    const { node } = makeNode({
      createBackend: async (shape, { kvDtype, rowDtype }) => {
        const backend = new NaiveBackend(shape, kvDtype, { rowDtype });
        return Object.assign(backend, { capacity: { ...backend.capacity, ...change } });
      },
    });
    await expect(memorySource(node).connect(geometry, hello)).rejects.toMatchObject({ code: 'BAD_PROMISE' });
    await expect.poll(() => node.stats().connections).toBe(0);
  });

  it('busy with another engine, until that one leaves', async () => {
    const { node } = makeNode();
    const first = await connect(node);
    await expect(connect(node)).rejects.toMatchObject({ code: 'BUSY' });
    await first.close();
    await (await connect(node)).close();
  });

  it('is not busy with an engine whose good-bye is on its way', async () => {
    const { node } = makeNode();
    for (let i = 0; i < 20; i++) {
      const first = await connect(node);
      const second = connect(node); // its HELLO is there before the BYE
      const leaving = first.close();
      await (await second).close();
      await leaving;
    }
  });

  it('draining', async () => {
    const { node } = makeNode();
    await node.drain({ reason: 'maintenance' });
    await expect(connect(node)).rejects.toThrow(NodeLostError);
    await expect(connect(node)).rejects.toThrow(/maintenance/);
  });

  it('a node that accepts and says nothing', async () => {
    const source = new RemoteSource('mute', async () => memoryTransportPair()[0], { handshakeTimeoutMs: 30 });
    await expect(source.connect(geometry, hello)).rejects.toMatchObject({ code: 'NODE_LOST', message: /handshake/ });
  });

  it('aborted by the caller', async () => {
    const source = new RemoteSource('mute', async () => memoryTransportPair()[0]);
    const aborter = new AbortController();
    setTimeout(() => aborter.abort(), 10);
    await expect(source.connect(geometry, { ...hello, signal: aborter.signal })).rejects.toMatchObject({
      code: 'ABORTED',
    });
  });

  it('nobody listens', async () => {
    const server = await serve();
    const { url, webSocketUrl } = server.listener;
    await server.close();
    for (const address of [url, webSocketUrl]) {
      await expect(remoteSource(address).connect(geometry, hello)).rejects.toThrow(NodeLostError);
    }
  });
});

describe('numbers that are none', () => {
  const slot = { index: 0, generation: 1 };
  const other = { index: 1, generation: 1 };
  const width = qkvRowFloats(geometry);
  /** A node that answers row `bad` of each attend with `value`. */
  const liar = (bad: number, value: number) =>
    makeNode({
      createBackend: async (shape, { kvDtype, rowDtype }) => {
        const backend = new NaiveBackend(shape, kvDtype, { rowDtype });
        const attend = backend.attend.bind(backend);
        return Object.assign(backend, {
          async attend(step: number, layer: number, qkv: Float32Array, output: Float32Array) {
            await attend(step, layer, qkv, output);
            output[bad * outputRowFloats(geometry) + 3] = value;
          },
        });
      },
    });
  async function attended(
    remote: AttentionBackend,
    step: AttentionStep,
    change: (qkv: Float32Array) => void = () => {},
  ): Promise<Float32Array> {
    const rows = step.entries.reduce((sum, { count }) => sum + count, 0);
    const qkv = random(rows * width);
    change(qkv);
    const output = new Float32Array(rows * outputRowFloats(geometry));
    remote.announce(step);
    await remote.attend(step.id, 0, qkv, output);
    return output;
  }
  const both = (id: number) => ({
    id,
    entries: [
      { slot, position: 2 * (id - 1), count: 2 },
      { slot: other, position: id - 1, count: 1 },
    ],
  });
  const opened = (remote: AttentionBackend) => {
    remote.open(slot, 0);
    remote.open(other, 0);
    return remote;
  };

  it.each([
    ['NaN', NaN, 'f32'],
    ['infinity', -Infinity, 'f32'],
    ['NaN, in f16', NaN, 'f16'],
    ['what overflows in the next layer', 3e38, 'f32'],
  ] as const)('%s from the node: it is lost, and told why', async (_name, value, wireDtype) => {
    const { node } = liar(2, value);
    let ended: Promise<Error | null> | undefined;
    const dial = async () => {
      const [ours, theirs] = memoryTransportPair();
      ended = node.accept(theirs);
      return ours;
    };
    const remote = opened(await new RemoteSource('memory', dial, { wireDtype }).connect(geometry, hello));
    void remote.lost.then(() => remote.close()); // as an engine does
    await expect(attended(remote, both(1))).rejects.toThrow(/memory is lost: .*not finite numbers/);
    expect(await remote.lost).toMatchObject({ cause: { code: 'NOT_FINITE' } });
    expect((await ended)?.message).toMatch(/not finite numbers/);
    await remote.close();
    expect(remote.allocatedBytes()).toBe(0);
  });

  it.each([
    ['f32', 'f32', NaN],
    ['f16', 'f32', 70_000],
    ['f32', 'f16', 70_000],
    ['f32', 'f32', 2e38],
  ] as const)(
    'from a request that overflows itself (KV %s, wire %s): its own, and no others',
    async (kvDtype, wireDtype, sent) => {
      const { node } = liar(2, NaN);
      const remote = opened(await memorySource(node, { wireDtype }).connect(geometry, { ...hello, kvDtype }));
      const output = await attended(remote, both(1), (qkv) => {
        qkv[2 * width + 5] = sent;
      });
      expect(output[2 * outputRowFloats(geometry) + 3]).toBe(NaN);
      // It stays in the slot's KV, whatever is sent later: at a node that is right, too.
      await attended(remote, both(2));
      // But a node that answers another slot so is wrong.
      const swapped = { id: 3, entries: [...both(3).entries].reverse() };
      await expect(attended(remote, swapped)).rejects.toThrow(/not finite/);
    },
  );
});

describe('when a connection fails', () => {
  it('every pending attend rejects and lost resolves: the node breaks off', async () => {
    const { remote, qkv, output } = await session({}, {}, { faults: [{}, { dropAfterBytes: 900 }] });
    const attends = [0, 1, 2].map((layer) => remote.attend(1, layer, qkv, output.slice()));
    const results = await Promise.allSettled(attends);
    expect(results.map((result) => result.status)).toContain('rejected');
    for (const result of results) if (result.status === 'rejected') expect(result.reason).toBeInstanceOf(NodeLostError);
    expect((await remote.lost).node).toBe('memory');
    await expect(remote.attend(1, 0, qkv, output)).rejects.toThrow(NodeLostError);
    expect(remote.allocatedBytes()).toBe(0);
  });

  it('at any byte: nothing hangs, nothing stays', async () => {
    for (let bytes = 1; bytes < 4000; bytes += 97) {
      for (const faults of [
        [{ dropAfterBytes: bytes }, {}],
        [{}, { dropAfterBytes: bytes }],
      ] as [MemoryFaults, MemoryFaults][]) {
        const { node } = makeNode();
        try {
          const remote = await memorySource(node, { faults }).connect(geometry, hello);
          await compare(remote);
          await remote.close();
        } catch (error) {
          expect(error).toBeInstanceOf(NodeLostError);
        }
        await node.close();
        expect(node.stats()).toMatchObject({ connections: 0, allocatedBytes: 0, session: null });
      }
    }
  });

  it('a corrupt byte is refused, or was part of a number', async () => {
    for (let at = 0; at < 3000; at += 61) {
      const { node } = makeNode();
      const faults: [MemoryFaults, MemoryFaults] = [{ corruptAt: [at] }, { corruptAt: [at] }];
      let outcome: unknown;
      try {
        const remote = await memorySource(node, { faults, handshakeTimeoutMs: 200 }).connect(geometry, hello);
        await compare(remote, 'unchecked');
        await remote.close();
      } catch (error) {
        outcome = error;
      }
      await node.close();
      if (outcome !== undefined) expect(outcome).toBeInstanceOf(GlinthawkError);
      expect(node.stats()).toMatchObject({ connections: 0, allocatedBytes: 0 });
    }
  });

  it('a half-open connection is noticed by the engine', async () => {
    const { remote, qkv, output } = await session(
      {},
      {},
      { faults: [{}, { stallAfterBytes: 700 }], keepalive: quickKeepalive },
    );
    await expect(
      (async () => {
        for (let layer = 0; ; layer = (layer + 1) % 3) await remote.attend(1, layer, qkv, output);
      })(),
    ).rejects.toMatchObject({ code: 'NODE_LOST', message: /nothing was heard/ });
  });

  it('a half-open connection is noticed by the node, which frees everything', async () => {
    const { node, backends } = await session(
      { keepalive: quickKeepalive },
      {},
      { faults: [{ stallAfterBytes: 900 }, {}] },
    );
    await settled(() => node.stats().connections === 0);
    expect(backends[0]?.closed).toBe(true);
    expect(node.stats()).toMatchObject({ session: null, allocatedBytes: 0 });
  });

  it('a dead engine makes room for the next one', async () => {
    const { node } = makeNode({ probeTimeoutMs: 50 });
    const dead = await memorySource(node, { faults: [{ stallAfterBytes: 700 }, {}] }).connect(geometry, hello);
    for (let index = 0; index < 20; index++) dead.open({ index, generation: 1 }, 0);
    await new Promise((resolve) => setTimeout(resolve, 10)); // what it still could send has arrived
    const next = await memorySource(node).connect(geometry, hello);
    await compare(next);
    await next.close();
    await dead.close();
  });

  it('an engine that lost its connection takes its place again at once', async () => {
    const { node, backends } = makeNode();
    const source = memorySource(node);
    const first = await source.connect(geometry, hello);
    const second = await source.connect(geometry, hello);
    expect(backends.map((backend) => backend.closed)).toEqual([true, false]);
    await first.lost;
    await second.close();
  });

  it('a backend that is lost ends the session with the reason, and the next session has a new one', async () => {
    const { node, backends, remote } = await session();
    backends[0]?.fail(new NodeLostError('worker 3', 'worker 3 died'));
    expect((await remote.lost).message).toMatch(/worker 3 died/);
    const next = await memorySource(node).connect(geometry, hello);
    await compare(next);
    await next.close();
    expect(backends).toHaveLength(2);
  });

  it('draining finishes what is under way, then says good-bye', async () => {
    const gate = Promise.withResolvers<void>();
    const { node, remote, qkv, output } = await session({}, { before: () => gate.promise });
    const attend = remote.attend(1, 0, qkv, output);
    await settled(() => node.stats().pendingAttends === 1);
    const drained = node.drain({ reason: 'maintenance' });
    await settled(() => remote.draining === 'maintenance');
    gate.resolve();
    await attend;
    await drained;
    expect((await remote.lost).message).toMatch(/maintenance/);
  });

  it('a real socket that is destroyed mid-attend', async () => {
    const never = new Promise<void>(() => {});
    const server = await serveAttention({
      host: '127.0.0.1',
      port: 0,
      createBackend: async (shape, { kvDtype, rowDtype }) => {
        const backend = new NaiveBackend(shape, kvDtype, { rowDtype });
        backend.attend = () => Promise.race([never, backend.lost.then(() => {})]);
        const close = backend.close.bind(backend);
        backend.close = () => {
          backend.fail(new NodeLostError('naive', 'closed'));
          return close();
        };
        return backend;
      },
    });
    const remote = await remoteSource(server.listener.url).connect(geometry, hello);
    const slot = { index: 0, generation: 1 };
    remote.open(slot, 0);
    remote.announce({ id: 1, entries: [{ slot, position: 0, count: 1 }] });
    const attend = remote.attend(1, 0, random(qkvRowFloats(geometry)), new Float32Array(outputRowFloats(geometry)));
    const rejected = expect(attend).rejects.toThrow(NodeLostError);
    await settled(() => server.node.stats().pendingAttends === 1);
    await server.listener.close();
    await rejected;
    await remote.lost;
    await server.close();
    expect(server.listener.openSockets).toBe(0);
    expect(server.node.stats().connections).toBe(0);
  });
});

it('close() in the middle of a RESULT leaves the output alone from then on', async () => {
  const { node } = makeNode();
  const [ours, theirs] = memoryTransportPair({ faults: [{}, { chunkBytes: () => 64 }] });
  node.accept(theirs);
  const output = new Float32Array(8 * outputRowFloats(geometry)).fill(7);
  const gate = Promise.withResolvers<void>();
  const reached = Promise.withResolvers<void>();
  const chunks = ours[Symbol.asyncIterator].bind(ours);
  ours[Symbol.asyncIterator] = async function* () {
    for (let chunk = chunks(), result = await chunk.next(); !result.done; result = await chunk.next()) {
      yield result.value;
      if (output[0] === 7) continue;
      reached.resolve(); // the first piece has been written
      await gate.promise;
    }
  } as typeof chunks;
  const send = ours.send.bind(ours);
  const leave = Promise.withResolvers<void>(); // BYE takes a while to go out
  const remote = await new RemoteSource('memory', async () => ours).connect(geometry, hello);
  const slot = { index: 0, generation: 0 };
  remote.open(slot, 0);
  remote.announce({ id: 1, entries: [{ slot, position: 0, count: 8 }] });
  const attend = remote.attend(1, 0, random(8 * qkvRowFloats(geometry)), output);
  await reached.promise;
  expect(output.at(-1)).toBe(7);
  ours.send = (parts) => leave.promise.then(() => send(parts));
  const closing = remote.close();
  await expect(attend).rejects.toThrow(NodeLostError);
  output.fill(9); // the next step's
  gate.resolve();
  await new Promise((resolve) => setTimeout(resolve, 20));
  leave.resolve();
  await closing;
  expect(output.every((value) => value === 9)).toBe(true);
});
