/** Attention over every transport gives what the backend behind it gives, forks and visits too, and leaves nothing behind. */
import { type MemoryFaults, messagePortTransport, type PortLike } from '@glinthawk/wire';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { AttentionBackend, AttentionStep } from '../backend.ts';
import { NaiveBackend } from './naive-backend.fixture.ts';
import type { RemoteAttention } from './remote-attention.ts';
import {
  compare,
  createNaive,
  geometry,
  hello,
  makeNode,
  memorySource,
  outputFloats,
  qkvFloats,
  random,
  settled,
} from './remote-rig.fixture.ts';
import { remoteSource } from './remote-source.node.ts';
import { messagePortSource } from './remote-source.ts';
import { type AttentionServer, type ServeOptions, serveAttention } from './serve.node.ts';

async function serve(options: Partial<ServeOptions> = {}): Promise<AttentionServer> {
  const server = await serveAttention({ host: '127.0.0.1', port: 0, createBackend: createNaive, ...options });
  onTestFinished(() => server.close());
  return server;
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

  it.each([
    ['f16', 4e-3],
    ['int8', 4e-2],
  ] as const)('in rows of %s, within their precision', async (wireDtype, tolerance) => {
    const { node, backends } = makeNode();
    const remote = await memorySource(node, { wireDtype }).connect(geometry, hello);
    await compare(remote, tolerance);
    expect(backends[0]?.rowDtype).toBe(wireDtype);
    await remote.close();
    expect(remote.allocatedBytes()).toBe(0);
  });

  it('memory that is not shared, and moves', async () => {
    const { node } = makeNode({}, { unshared: true });
    const faults: MemoryFaults = { chunkBytes: () => 100 };
    const remote = await memorySource(node, { faults: [faults, faults] }).connect(geometry, hello);
    await compare(remote);
    await remote.close();
    await settled(() => node.stats().connections === 0);
    expect(node.stats().allocatedBytes).toBe(0);
  });

  it('injected latency delays and does not change results', async () => {
    const server = await serve();
    const remote = await remoteSource(server.listener.url, { latencyMs: 15 }).connect(geometry, hello);
    await compare(remote);
    expect(remote.stats().roundTripMs).toBeGreaterThan(13);
    await remote.close();
  });
});

/** Runs a step with random rows at all, and expects the same answers. @returns those of the last layer */
async function agree(
  backends: readonly AttentionBackend[],
  id: number,
  entries: AttentionStep['entries'],
): Promise<{ readonly output: Float32Array; readonly logSumExp: Float32Array }> {
  const rows = entries.reduce((sum, { count }) => sum + count, 0);
  const output = new Float32Array(rows * outputFloats);
  const logSumExp = new Float32Array(rows * geometry.groupSize * geometry.kvHeads);
  for (const backend of backends) backend.announce({ id, entries });
  for (let layer = 0; layer < geometry.layers; layer++) {
    const qkv = random(rows * qkvFloats);
    for (const [i, backend] of backends.entries()) {
      const found = { output: output.map(() => 7), logSumExp: logSumExp.map(() => 7) };
      await backend.attend(id, layer, qkv, found.output, found.logSumExp);
      if (i > 0) expect(found).toEqual({ output, logSumExp });
      output.set(found.output);
      logSumExp.set(found.logSumExp);
    }
  }
  for (const backend of backends) backend.retire(id);
  return { output, logSumExp };
}

it.each(['f32', 'f16', 'int8'] as const)('a fork begins with what its parent had (rows of %s)', async (wireDtype) => {
  const { node } = makeNode();
  const remote = (await memorySource(node, { wireDtype }).connect(geometry, hello)) as RemoteAttention;
  const both = wireDtype === 'f32' ? [new NaiveBackend(geometry, 'f32'), remote] : [remote];
  const parent = { index: 0, generation: 1 };
  const child = { index: 1, generation: 1 };
  for (const backend of both) backend.open(parent, 0);
  await agree(both, 1, [{ slot: parent, position: 0, count: 40 }]);
  for (const backend of both) backend.fork(child, parent, 37);
  await agree(both, 2, [
    { slot: parent, position: 40, count: 2 },
    { slot: child, position: 37, count: 3 },
  ]);
  const { usedBlocks } = await remote.nodeStats();
  expect(remote.stats()).toMatchObject({ usedBlocks, openSlots: 2, forkedTokens: 37, appendedTokens: 40 + 2 + 3 });
  // Two whole blocks of each of the two groups without a window are shared; the last one is each slot's own, as is what a window sees.
  expect(usedBlocks).toBe(2 * (2 + 1 + 1) + 2);
  for (const backend of both) backend.free(parent);
  await expect.poll(() => remote.stats().usedBlocks).toBe(2 * 3 + 1);
  await agree(both, 3, [{ slot: child, position: 40, count: 1 }]);
  await remote.close();
});

it('a visit sees what is there, stores nothing, and says how much it saw', async () => {
  const { node, backends } = makeNode();
  const remote = await memorySource(node).connect(geometry, hello);
  const both = [new NaiveBackend(geometry, 'f32'), remote] as const;
  const [early, late] = [
    { index: 0, generation: 1 },
    { index: 1, generation: 1 },
  ];
  for (const backend of both) for (const slot of [early, late]) backend.open(slot, 0);
  await agree(both, 1, [{ slot: early, position: 0, count: 20 }]);
  const { output, logSumExp } = await agree(both, 2, [
    { slot: early, position: 20, count: 3, visit: true },
    { slot: late, position: 0, count: 3 },
    { slot: early, position: 300, count: 1, visit: true },
  ]);
  expect(backends[0]?.slots.get(0)?.tokens).toBe(20);
  expect(remote.stats().appendedTokens).toBe(23);
  expect(logSumExp.every(Number.isFinite)).toBe(true); // of the last layer, which has no window
  expect(output.every(Number.isFinite)).toBe(true);
  // Out of the window of a layer: nothing was seen there.
  remote.announce({ id: 3, entries: [{ slot: early, position: 300, count: 1, visit: true }] });
  const sums = new Float32Array(6);
  const nothing = new Float32Array(outputFloats).fill(7);
  await remote.attend(3, 1, random(qkvFloats), nothing, sums);
  expect([...sums]).toEqual(new Array(6).fill(Number.NEGATIVE_INFINITY));
  expect([...nothing]).toEqual(new Array(outputFloats).fill(0));
  await remote.close();
});
