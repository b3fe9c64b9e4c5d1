import { describe, expect, it } from 'vitest';
import { MOST_PARTS, mostContextTokens, type PartRoom, planLargeParts, planParts, roomiest } from './part-plan.ts';

const rooms = (...tokens: readonly number[]): PartRoom<string>[] =>
  tokens.map((each, i) => ({ shard: `s${i}`, tokens: each, speed: 1 }));
const part = (shard: string, tokens: number) => ({ shard, tokens });

describe('planParts', () => {
  it('as few parts as there can be, the roomiest shards first; each but the last is full', () => {
    expect(planParts(rooms(32, 96, 64), 100)).toEqual([part('s1', 96), part('s2', 4)]);
    expect(planParts(rooms(32, 96, 64), 192)).toEqual([part('s1', 96), part('s2', 64), part('s0', 32)]);
    expect(planParts(rooms(32, 32), 33)).toEqual([part('s0', 32), part('s1', 1)]);
  });

  it('null where there is no room for all of it, or only in too many parts', () => {
    expect(planParts(rooms(32, 96, 64), 193)).toBe(null);
    expect(planParts([], 1)).toBe(null);
    const many = rooms(...new Array(MOST_PARTS + 1).fill(16));
    expect(planParts(many, 16 * MOST_PARTS)).toHaveLength(MOST_PARTS);
    expect(planParts(many, 16 * MOST_PARTS + 1)).toBe(null);
    expect(mostContextTokens(many.map(({ tokens }) => tokens))).toBe(16 * MOST_PARTS);
  });

  it('room of a faster node counts for more; full shards don’t count', () => {
    const two = [...rooms(0, 64), { shard: 'fast', tokens: 48, speed: 2 }];
    expect(planParts(two, 60)).toEqual([part('fast', 48), part('s1', 12)]);
    expect(roomiest(two)?.shard).toBe('fast');
    expect(roomiest(rooms(0, 0))).toBe(null);
    expect(roomiest(rooms(5, 7, 7))?.shard).toBe('s1');
  });
});

it('planLargeParts: what one shard could hold is spread only in few large parts', () => {
  expect(planLargeParts(rooms(300, 300), 500)).toBe(null);
  expect(planLargeParts(rooms(600, 300, 1000), 1500)).toEqual([part('s2', 1000), part('s0', 500)]);
  expect(planLargeParts(rooms(...new Array(8).fill(1000)), 5000)).toBe(null);
});
