/** Attention over every transport gives what the backend behind it gives, and leaves nothing behind. */
import {
  type AttentionGeometry,
  CapacityError,
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
import { NaiveBackend, type NaiveBackendOptions } from './naive-backend.ts';
import { RemoteAttention } from './remote-attention.ts';
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
    createBackend: async (shape, { kvDtype }) => {
      const backend = new NaiveBackend(shape, kvDtype, backendOptions);
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
    createBackend: async (shape, { kvDtype }) => new NaiveBackend(shape, kvDtype),
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

/** Runs prefill chunks and decode steps of several slots on both, and expects the same bits from both. */
async function compare(remote: AttentionBackend, tolerance = 0): Promise<void> {
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
      else found.forEach((value, i) => expect(Math.abs(value - (expected[i] as number))).toBeLessThan(tolerance));
    }
    for (const backend of [local, remote]) backend.retire(id);
  }
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
