/** A node that answers what can't be true is lost; a request that overflows by itself costs no node. */
import { memoryTransportPair } from '@glinthawk/wire';
import { describe, expect, it } from 'vitest';
import type { AttentionBackend, AttentionStep } from '../backend.ts';
import { geometry, hello, makeNode, memorySource, outputFloats, qkvFloats, random } from './remote-rig.fixture.ts';
import { RemoteSource } from './remote-source.ts';

describe('numbers that are none', () => {
  const slot = { index: 0, generation: 1 };
  const other = { index: 1, generation: 1 };
  const width = qkvFloats;
  /** A node that answers row `bad` of each attend with `value`. */
  const liar = (bad: number, value: number) =>
    makeNode({}, { after: (output) => output.fill(value, bad * outputFloats + 3, bad * outputFloats + 4) });
  async function attended(
    remote: AttentionBackend,
    step: AttentionStep,
    change: (qkv: Float32Array) => void = () => {},
  ): Promise<Float32Array> {
    const rows = step.entries.reduce((sum, { count }) => sum + count, 0);
    const qkv = random(rows * width);
    change(qkv);
    const output = new Float32Array(rows * outputFloats);
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
    ['NaN, in int8', NaN, 'int8'],
    ['infinity, in int8', Infinity, 'int8'],
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
    ['f32', 'int8', Infinity],
    ['f16', 'int8', 70_000],
    ['bf16', 'int8', 2e38],
    ['f32', 'f32', 2e38],
  ] as const)(
    'from a request that overflows itself (KV %s, wire %s): its own, and no others',
    async (kvDtype, wireDtype, sent) => {
      const { node } = liar(2, NaN);
      const remote = opened(await memorySource(node, { wireDtype }).connect(geometry, { ...hello, kvDtype }));
      const output = await attended(remote, both(1), (qkv) => {
        qkv[2 * width + 5] = sent;
      });
      expect(output[2 * outputFloats + 3]).toBe(NaN);
      // It stays in the slot's KV, whatever is sent later: at a node that is right, too.
      await attended(remote, both(2));
      // But a node that answers another slot so is wrong.
      const swapped = { id: 3, entries: [...both(3).entries].reverse() };
      await expect(attended(remote, swapped)).rejects.toThrow(/not finite/);
    },
  );

  it('a log-sum-exp that is none', async () => {
    for (const value of [NaN, Infinity]) {
      const { node } = makeNode({}, { after: (_, sums) => sums?.fill(value, 0, 1) });
      const remote = opened(await memorySource(node).connect(geometry, hello));
      remote.announce(both(1));
      const sums = new Float32Array(3 * geometry.groupSize * geometry.kvHeads);
      const attend = remote.attend(1, 0, random(3 * qkvFloats), new Float32Array(3 * outputFloats), sums);
      await expect(attend).rejects.toThrow(/not finite/);
      await remote.close();
    }
  });

  it('a fork of what overflowed is excused with it; a visit that overflows, that one time only', async () => {
    const { node } = liar(2, NaN);
    const remote = opened(await memorySource(node).connect(geometry, hello));
    const spoil = (qkv: Float32Array) => {
      qkv[2 * qkvFloats] = NaN;
    };
    await attended(remote, both(1), spoil); // row 2 is of `other`
    const child = { index: 2, generation: 1 };
    remote.fork(child, other, 1);
    await attended(remote, {
      id: 2,
      entries: [
        { slot, position: 2, count: 2 },
        { slot: child, position: 1, count: 1 },
      ],
    });
    const visit = (id: number) => ({
      id,
      entries: [
        { slot: child, position: 2, count: 2 },
        { slot, position: 9, count: 1, visit: true },
      ],
    });
    await attended(remote, visit(3), spoil);
    await expect(attended(remote, visit(4))).rejects.toThrow(/not finite/);
    await remote.close();
  });

  it('a slot that was freed meanwhile, and opened again, is judged by what it was sent', async () => {
    const gate = Promise.withResolvers<void>();
    const { node } = makeNode({}, { before: () => gate.promise, after: (output) => output.fill(NaN, 0, 1) });
    const remote = await memorySource(node).connect(geometry, hello);
    remote.open(slot, 0);
    const excused = attended(remote, { id: 1, entries: [{ slot, position: 0, count: 1 }] }, (qkv) =>
      qkv.fill(NaN, 0, 1),
    );
    gate.resolve();
    expect((await excused)[0]).toBe(NaN);
    remote.free(slot);
    remote.retire(1);
    const again = { index: 0, generation: 2 };
    remote.open(again, 0);
    await expect(attended(remote, { id: 2, entries: [{ slot: again, position: 0, count: 1 }] })).rejects.toThrow(
      /finite/,
    );
    await remote.close();
  });
});
