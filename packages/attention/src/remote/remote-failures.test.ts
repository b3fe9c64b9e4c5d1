/** Connections that break, stall or lie, at any byte: nothing hangs, nothing stays, and the engine is told. */
import { GlinthawkError, NodeLostError } from '@glinthawk/core';
import { type MemoryFaults, memoryTransportPair } from '@glinthawk/wire';
import { describe, expect, it } from 'vitest';
import { NaiveBackend } from './naive-backend.fixture.ts';
import {
  compare,
  geometry,
  hello,
  makeNode,
  memorySource,
  outputFloats,
  qkvFloats,
  random,
  session,
  settled,
} from './remote-rig.fixture.ts';
import { remoteSource } from './remote-source.node.ts';
import { RemoteSource } from './remote-source.ts';
import { serveAttention } from './serve.node.ts';

const quickKeepalive = { intervalMs: 20, timeoutMs: 120 };

describe('when a connection fails', () => {
  it('every pending attend rejects and lost resolves: the node breaks off', async () => {
    const { remote, slot, qkv, output } = await session({}, {}, { faults: [{}, { dropAfterBytes: 1300 }] });
    for (const id of [2, 3]) remote.announce({ id, entries: [{ slot, position: 0, count: 2 }] });
    const results = await Promise.allSettled([1, 2, 3].map((id) => remote.attend(id, 0, qkv, output.slice())));
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

  it('draining does not wait for what a busy engine asks for meanwhile', async () => {
    const gates = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    let begun = 0;
    const { node, remote, qkv, output } = await session({}, { before: () => gates[begun++]?.promise });
    const other = { index: 1, generation: 1 };
    remote.open(other, 0);
    remote.announce({ id: 2, entries: [{ slot: other, position: 0, count: 2 }] });
    const first = remote.attend(1, 0, qkv, output);
    await settled(() => begun === 1);
    const drained = node.drain({ graceMs: 20, reason: 'maintenance' });
    await new Promise((resolve) => setTimeout(resolve, 40));
    const second = remote.attend(2, 0, qkv, output.slice());
    const lost = expect(second).rejects.toThrow(NodeLostError);
    await settled(() => begun === 2);
    gates[0]?.resolve();
    await first;
    expect((await remote.lost).message).toMatch(/maintenance/);
    await lost;
    gates[1]?.resolve();
    await drained;
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
    const attend = remote.attend(1, 0, random(qkvFloats), new Float32Array(outputFloats));
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
  const output = new Float32Array(8 * outputFloats).fill(7);
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
  const attend = remote.attend(1, 0, random(8 * qkvFloats), output);
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
