import { describe, expect, it } from 'vitest';
import { choosePlacement, countPlaceable, NodeSpeed, relativeSpeeds, type ShardState } from './placement.ts';

const shard = (freeBlocks: number, more: Partial<ShardState> = {}): ShardState => ({
  blockTokens: 16,
  groups: 1,
  blocks: 100,
  freeBlocks,
  residents: freeBlocks === 100 ? 0 : 1,
  nodeTokens: 16 * ((more.blocks ?? 100) - freeBlocks),
  speed: 1,
  ...more,
});

it('countPlaceable: as many as there is room for now, in order; what never fits holds up nobody', () => {
  const need = (tokens: number) => ({ tokens, mostTokens: tokens });
  const shards = [shard(10, { blocks: 10, residents: 0 }), shard(5, { blocks: 10 })];
  // 4 + 4 of 10 blocks and a watermark for the first, then 2 of 5 blocks for the second.
  expect(countPlaceable(shards, [64, 64, 9999, 32].map(need))).toBe(3);
  expect(countPlaceable(shards, [64, 64, 64, 16].map(need))).toBe(2);
  expect(countPlaceable([], [need(16)])).toBe(0);
  expect(shards[0]?.freeBlocks).toBe(10);
});

describe('choosePlacement', () => {
  const need = { tokens: 32, mostTokens: 64 };

  it('the shard with the fewest KV tokens, the first of equals', () => {
    expect(choosePlacement([shard(50), shard(80), shard(80)], need)).toBe(1);
  });

  it('a shard twice as fast takes twice as much', () => {
    expect(choosePlacement([shard(50, { speed: 2 }), shard(70)], need)).toBe(0);
    expect(choosePlacement([shard(30, { speed: 2 }), shard(70)], need)).toBe(1);
  });

  it('shards that can hold it to its end come first', () => {
    const small = shard(10, { blocks: 10, residents: 0 });
    expect(choosePlacement([small, shard(50)], { tokens: 32, mostTokens: 500 })).toBe(1);
    expect(choosePlacement([small, shard(2)], { tokens: 32, mostTokens: 500 })).toBe(0);
  });

  it('full now, or never', () => {
    expect(choosePlacement([shard(3), shard(1)], { tokens: 64, mostTokens: 64 })).toBe('full');
    expect(choosePlacement([shard(100)], { tokens: 1601, mostTokens: 1700 })).toBe('never');
    expect(choosePlacement([], need)).toBe('never');
  });

  it('what counts is all that the node holds; within a node the shard with most room', () => {
    const sameNode = { nodeTokens: 800 };
    expect(choosePlacement([shard(70, sameNode), shard(80, sameNode), shard(60)], need)).toBe(2);
    expect(choosePlacement([shard(70, sameNode), shard(80, sameNode), shard(40)], need)).toBe(1);
  });

  it('a block holds tokens of one layer group', () => {
    expect(choosePlacement([shard(50, { groups: 3 }), shard(20)], { tokens: 64, mostTokens: 64 })).toBe(0);
    expect(choosePlacement([shard(11, { groups: 3 })], { tokens: 64, mostTokens: 64 })).toBe('full');
    expect(choosePlacement([shard(100, { groups: 3 })], { tokens: 544, mostTokens: 544 })).toBe('never');
  });

  it('many equal sequences over nodes of speeds 1, 1.5 and 3 end in that proportion', () => {
    const speeds = [1, 1.5, 3];
    const used = [0, 0, 0];
    for (let i = 0; i < 110; i++) {
      const states = speeds.map((speed, k) => shard(1000 - (used[k] ?? 0), { blocks: 1000, speed }));
      const chosen = choosePlacement(states, need) as number;
      used[chosen] = (used[chosen] ?? 0) + 2;
    }
    expect(used.map((blocks) => Math.round(blocks / 4))).toEqual([10, 15, 30]);
  });
});

describe('speeds', () => {
  it('are relative to the middle, alike until all are known, and bounded', () => {
    expect(relativeSpeeds([5, null])).toEqual([1, 1]);
    expect(relativeSpeeds([10, 20, 15])).toEqual([10 / 15, 20 / 15, 1]);
    expect(relativeSpeeds([1, 10, 1000])).toEqual([0.25, 1, 4]);
    expect(relativeSpeeds([])).toEqual([]);
  });

  it('are known after a while, and follow changes', () => {
    const speed = new NodeSpeed();
    speed.add(1000, 10);
    expect(speed.get()).toBe(null);
    speed.add(1500, 15);
    expect(speed.get()).toBeCloseTo(100, 0);
    for (let i = 0; i < 100; i++) speed.add(40_000, 200);
    expect(speed.get()).toBeCloseTo(200, 0);
  });
});
