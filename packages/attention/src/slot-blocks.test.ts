/** Where a slot's blocks lie: whole runs in frames of their own while there are any, and later when there are some again. */
import type { AttentionGeometry } from '@glinthawk/core';
import { beforeEach, describe, expect, it } from 'vitest';
import { randomSource } from '../../../test/kernels/attention-cases.ts';
import { heldBlockCount, layerGroups } from './kv-blocks.ts';
import { planShards } from './plan-shards.ts';
import { createLocalAttention } from './pool.ts';
import { NaiveBackend } from './remote/naive-backend.fixture.ts';
import { createShards, type Shard } from './shard.ts';
import { SlotBlocks } from './slot-blocks.ts';

const geometry: AttentionGeometry = {
  layers: 2,
  kvHeads: 1,
  groupSize: 2,
  headDim: 8,
  softmaxScale: 0.4,
  windows: [0, 0],
  maxContextTokens: 2000,
};
const T = 32;
const EACH = 8; // blocks of a frame
const FRAMES = 16;
const blockBytes = T * 8 * 2 * 4 * 2; // tokens, dim, K and V, f32, layers
const options = { kvDtype: 'f32', blockTokens: T, memoryBytes: FRAMES * EACH * blockBytes, workers: 1 } as const;

let shard: Shard;
const newSlot = (windows: readonly number[] = geometry.windows) => {
  const shape = { groups: layerGroups({ ...geometry, windows }), blockTokens: T, tableBlocks: 64 };
  return new SlotBlocks(shard, shape);
};
const grow = (slot: SlotBlocks, tokens: number) => slot.grow(tokens, new Set());
const blocksOf = ({ tables }: SlotBlocks, from: number, to: number) => [
  ...shard.heap.u32.subarray(tables / 4 + from, tables / 4 + to),
];
/** Whether run `run` is a frame. */
const isFrame = (slot: SlotBlocks, run: number) => {
  const blocks = blocksOf(slot, run * EACH, (run + 1) * EACH);
  return (blocks[0] as number) % 64 === 0 && blocks.every((block, i) => block === (blocks[0] as number) + i);
};
/** What blocks hold, for as long as nobody writes: who wrote them and which of their blocks it was. */
let contents: Map<number, string>;
const write = (name: string, slot: SlotBlocks, from: number, to: number) => {
  for (const [i, block] of blocksOf(slot, from, to).entries()) contents.set(block, `${name}${from + i}`);
};
const read = (slot: SlotBlocks, from: number, to: number) =>
  blocksOf(slot, from, to).map((block) => contents.get(block));
const names = (name: string, from: number, to: number) =>
  Array.from({ length: to - from }, (_, i) => `${name}${from + i}`);
const gather = (slot: SlotBlocks, most = 1000, isIdle = (_: SlotBlocks) => true) =>
  slot.gather(most, null, {
    copy(source, target) {
      contents.set(shard.heap.block(target), contents.get(shard.heap.block(source)) ?? '');
    },
    swap(one, other) {
      const [a, b] = [shard.heap.block(one), shard.heap.block(other)];
      const [inA, inB] = [contents.get(a) ?? '', contents.get(b) ?? ''];
      contents.set(a, inB);
      contents.set(b, inA);
    },
    isIdle,
  });
/** Slots of one block each that leave no frame whole. */
const fill = () =>
  Array.from({ length: shard.pool.free }, () => {
    const slot = newSlot();
    grow(slot, 1);
    return slot;
  });

beforeEach(() => {
  contents = new Map();
  const plan = planShards(geometry, options);
  expect(plan.layout.frameBlocks).toBe(EACH);
  expect(plan.heap.blocks).toBe(FRAMES * EACH);
  [shard] = createShards(plan, { geometry, kvDtype: 'f32', rowDtype: 'f32', int8: 'pairs', shared: false }) as [Shard];
});

describe('blocks of a slot', () => {
  it('fill frames, however they grow', () => {
    const [all, bit, byBit] = [newSlot(), newSlot(), newSlot()];
    grow(all, 3 * EACH * T + 5);
    for (let tokens = 1; tokens <= 2 * EACH * T; tokens += 7) {
      grow(bit, tokens);
      grow(byBit, tokens);
    }
    for (const [slot, runs] of [
      [all, 3],
      [bit, 1],
      [byBit, 1],
    ] as const) {
      for (let run = 0; run < runs; run++) expect(isFrame(slot, run)).toBe(true);
    }
    expect(gather(all) + gather(bit)).toBe(0);
  });

  it('leave whole frames to whole runs when few are left, and share others', () => {
    const slots = Array.from({ length: FRAMES * 2 }, () => newSlot());
    for (const slot of slots) grow(slot, 3 * T);
    expect(shard.pool.wholeFrames).toBe(2);
    const whole = newSlot();
    grow(whole, EACH * T + 1);
    expect(isFrame(whole, 0)).toBe(true);
    expect(shard.pool.wholeFrames).toBe(1);
  });

  it('get a frame when one is free again', () => {
    const others = fill();
    for (const other of others.filter((_, i) => i % 3 === 0)) other.release(null);
    const slot = newSlot();
    grow(slot, 2 * EACH * T + 3);
    write('a', slot, 0, 2 * EACH + 1);
    expect([isFrame(slot, 0), isFrame(slot, 1)]).toEqual([false, false]);
    for (const [i, other] of others.entries()) if (i % 3 !== 0 && i < 120) other.release(null);
    const used = shard.pool.used;
    expect(gather(slot, 0)).toBe(0);
    expect(gather(slot, EACH)).toBe(EACH);
    expect(gather(slot)).toBe(EACH);
    expect([isFrame(slot, 0), isFrame(slot, 1)]).toEqual([true, true]);
    expect(read(slot, 0, 2 * EACH + 1)).toEqual(names('a', 0, 2 * EACH + 1));
    expect(shard.pool.used).toBe(used);
    expect(gather(slot)).toBe(0);
  });

  it('change places with others where no frame is free, but not with who is busy', () => {
    const others = fill();
    for (const [i, other] of others.entries()) {
      if (i % 8 === 3 || i > 100) other.release(null);
      else write(`other ${i} `, other, 0, 1);
    }
    const [slot, second] = [newSlot(), newSlot()];
    for (let tokens = T; tokens <= EACH * T; tokens += T) {
      grow(second, tokens); // by turns: neither gets neighbours
      grow(slot, tokens);
    }
    grow(slot, EACH * T + 1);
    write('a', slot, 0, EACH + 1);
    write('b', second, 0, EACH);
    for (const one of fill()) write('full ', one, 0, 1); // not a block is free
    const used = shard.pool.used;
    expect(shard.pool.free).toBe(0);
    expect(gather(slot, 1000, () => false)).toBe(0);
    expect(isFrame(slot, 0)).toBe(false);
    expect(gather(slot)).toBeGreaterThan(0);
    expect(gather(second)).toBeGreaterThan(0);
    expect([isFrame(slot, 0), isFrame(second, 0), shard.pool.used]).toEqual([true, true, used]);
    expect(read(slot, 0, EACH + 1)).toEqual(names('a', 0, EACH + 1));
    expect(read(second, 0, EACH)).toEqual(names('b', 0, EACH));
    for (const [i, other] of others.entries()) {
      if (i % 8 !== 3 && i <= 100) expect(read(other, 0, 1)).toEqual([`other ${i} 0`]);
    }
    expect([gather(slot), gather(second)]).toEqual([0, 0]);
  });

  it('change places among themselves when they were forked of a slot that is gone', () => {
    const others = fill();
    const frameOf = (slot: SlotBlocks) => (blocksOf(slot, 0, 1)[0] as number) >>> 6;
    const frame = frameOf(others[0] as SlotBlocks);
    for (const other of others.filter((other) => frameOf(other) === frame)) other.release(null);
    const parent = newSlot();
    for (let tokens = T; tokens <= EACH * T; tokens += T) grow(parent, tokens); // from the frame's end
    write('a', parent, 0, EACH);
    const { blocks: child } = parent.fork(EACH * T, new Set());
    parent.release(null);
    expect(shard.pool.free).toBe(0);
    expect(isFrame(child, 0)).toBe(false);
    expect(gather(child)).toBeGreaterThan(0);
    expect(isFrame(child, 0)).toBe(true);
    expect(read(child, 0, EACH)).toEqual(names('a', 0, EACH));
    expect(new Set(blocksOf(child, 0, EACH)).size).toBe(EACH);
  });

  it('stay where they are while others share them', () => {
    const others = fill();
    for (const other of others.filter((_, i) => i % 2 === 0)) other.release(null);
    const slot = newSlot();
    grow(slot, EACH * T);
    const { blocks: child } = slot.fork(3 * T, new Set());
    for (const [i, other] of others.entries()) if (i % 2 !== 0) other.release(null);
    expect(gather(slot)).toBe(0);
    child.release(null);
    expect(gather(slot)).toBe(EACH);
    slot.release(null);
    expect(shard.pool).toMatchObject({ used: 0, wholeFrames: FRAMES });
  });

  it('are not gathered when a window left a part of their run', () => {
    const windows = [0, 100];
    const others = fill();
    for (const other of others.filter((_, i) => i % 2 === 0)) other.release(null);
    const slot = newSlot(windows);
    grow(slot, EACH * T);
    slot.slide(EACH * T, null);
    expect(shard.pool.used).toBe(64 + heldBlockCount(layerGroups({ ...geometry, windows }), T, EACH * T, EACH * T));
    for (const [i, other] of others.entries()) if (i % 2 !== 0) other.release(null);
    expect(gather(slot)).toBe(EACH); // of the group without a window
    slot.release(null);
    expect(shard.pool).toMatchObject({ used: 0, wholeFrames: FRAMES });
  });
});

it('a churned memory gives the numbers of a plain one', async () => {
  const random = randomSource(11);
  const below = (n: number) => Math.floor(random() * n);
  const tier = await createLocalAttention(geometry, { ...options, workers: 2 });
  const plain = new NaiveBackend(geometry, 'f32', { blocks: 1e9 });
  const live: { index: number; tokens: number }[] = [];
  let made = 0;
  const blocks = () => live.reduce((sum, { tokens }) => sum + Math.ceil(tokens / T), 0);
  for (let id = 0; id < 40; id++) {
    if (live.length < 12) {
      for (const backend of [tier, plain]) backend.open({ index: made, generation: 0 }, 0);
      live.push({ index: made++, tokens: 0 });
    }
    const own = live.filter(({ tokens }) => tokens < 1700 && below(2) === 0);
    const entries = own.map((slot) => ({
      slot,
      count: [1, 30, 100, 300][below(4)] ?? 1,
    }));
    // Nearly full, and then somebody in the middle goes.
    while (blocks() + entries.reduce((sum, { count }) => sum + Math.ceil(count / T) + 1, 0) > FRAMES * EACH) {
      const [gone] = live.splice(below(live.length), 1);
      if (gone === undefined) break;
      for (const backend of [tier, plain]) backend.free({ index: gone.index, generation: 0 });
      const at = entries.findIndex(({ slot }) => slot === gone);
      if (at >= 0) entries.splice(at, 1);
    }
    const step = entries.map(({ slot, count }) => ({
      slot: { index: slot.index, generation: 0 },
      position: slot.tokens,
      count,
    }));
    const rows = step.reduce((sum, { count }) => sum + count, 0);
    for (const backend of [tier, plain]) backend.announce({ id, entries: step });
    for (let layer = 0; layer < geometry.layers; layer++) {
      const qkv = new Float32Array(rows * 32).map(() => random() - 0.5);
      const [found, expected] = [new Float32Array(rows * 16), new Float32Array(rows * 16)];
      await tier.attend(id, layer, qkv, found);
      await plain.attend(id, layer, qkv, expected);
      const worst = found.reduce((most, x, i) => Math.max(most, Math.abs(x - (expected[i] as number))), 0);
      expect(worst).toBeLessThan(2e-5);
    }
    for (const backend of [tier, plain]) backend.retire(id);
    for (const { slot, count } of entries) slot.tokens += count;
    expect(tier.stats().usedBlocks).toBe(blocks());
  }
  await tier.close();
});
