/** What an engine's end of a session does: order, mistakes, room, statistics. */
import { CapacityError, InputError, NodeLostError } from '@glinthawk/core';
import { memoryTransportPair, type Transport } from '@glinthawk/wire';
import { describe, expect, it } from 'vitest';
import { NaiveBackend } from './naive-backend.fixture.ts';
import {
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
import { RemoteSource } from './remote-source.ts';

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
    const row = qkv.subarray(0, qkvFloats);
    const outputs = [2, 3].map(() => new Float32Array(outputFloats));
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
    await remote.attend(1, 0, random(qkvFloats), new Float32Array(outputFloats));
    expect(writes).toEqual([8]); // header, payload (and padding) of OPEN, STEP and ATTEND; STATS
    await remote.close();
  });

  it('rejects only the attend for which there is no room', async () => {
    const { remote, slot, qkv, output } = await session({}, { blocks: 3 }); // one of each layer group
    await remote.attend(1, 0, qkv, output);
    remote.announce({ id: 2, entries: [{ slot, position: 2, count: 30 }] });
    const big = random(30 * qkvFloats);
    const bigOutput = new Float32Array(30 * outputFloats);
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
    const attend = () => remote.attend(1, 0, random(qkvFloats), new Float32Array(outputFloats));
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
    expect(await remote.nodeStats()).toMatchObject({ usedBlocks: 3, openSlots: 1, busyMs: 1 });
    expect(remote.stats()).toMatchObject({ usedBlocks: 3, openSlots: 1, busyMs: 1 });
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
      attends.push(remote.attend(id, 0, qkv.subarray(0, qkvFloats), new Float32Array(outputFloats)));
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(backends[0]?.steps.size).toBeLessThan(70);
    gate.resolve();
    await Promise.all(attends);
    expect(backends[0]?.attends).toBe(200);
  });
});
