import { describe, expect, it } from 'vitest';
import {
  choosePlacement,
  countPlaceable,
  NodeSpeed,
  relativeSpeeds,
  type ShardFit,
  type ShardState,
} from './placement.ts';

const BLOCK_TOKENS = 16;

const shard = (freeBlocks: number, more: Partial<ShardState> = {}): ShardState => ({
  blocks: 100,
  freeBlocks,
  residents: freeBlocks === 100 ? 0 : 1,
  nodeTokens: ((more.blocks ?? 100) - freeBlocks) * BLOCK_TOKENS,
  speed: 1,
  ...more,
});

const blocksOf = (tokens: number) => Math.ceil(tokens / BLOCK_TOKENS);

/** @param matched tokens by shard */
function fits(shards: readonly ShardState[], tokens: number, mostTokens = tokens, matched: readonly number[] = []) {
  return shards.map(({ blocks }, i): ShardFit => {
    const matchedTokens = matched[i] ?? 0;
    const newBlocks = blocksOf(tokens) - Math.floor(matchedTokens / BLOCK_TOKENS);
    const holdsAll = mostTokens <= blocks * BLOCK_TOKENS;
    return { wholeBlocks: blocksOf(tokens), newBlocks, tokens, matchedTokens, holdsAll };
  });
}

it('countPlaceable: as many as there is room for now, in order; what never fits holds up nobody', () => {
  const shards = [shard(10, { blocks: 10, residents: 0 }), shard(5, { blocks: 10 })];
  const count = (...tokens: number[]) =>
    countPlaceable(
      shards,
      tokens.map((each) => fits(shards, each)),
    );
  // 4 + 4 of 10 blocks and a watermark for the first, then 2 of 5 blocks for the second.
  expect(count(64, 64, 9999, 32)).toBe(3);
  expect(count(64, 64, 64, 16)).toBe(2);
  expect(countPlaceable([], [[]])).toBe(0);
  expect(shards[0]?.freeBlocks).toBe(10);
});

describe('choosePlacement', () => {
  const choose = (shards: readonly ShardState[], tokens = 32, mostTokens = 64, matched?: readonly number[]) =>
    choosePlacement(shards, fits(shards, tokens, mostTokens, matched));

  it('the shard with the fewest KV tokens, the first of equals', () => {
    expect(choose([shard(50), shard(80), shard(80)])).toBe(1);
  });

  it('what is balanced is what is read, whatever is shared', () => {
    expect(choose([shard(90, { nodeTokens: 900 }), shard(50, { nodeTokens: 800 })])).toBe(1);
  });

  it('within a node the shard with most room', () => {
    const sameNode = { nodeTokens: 800 };
    expect(choose([shard(70, sameNode), shard(80, sameNode), shard(60)])).toBe(2);
    expect(choose([shard(70, sameNode), shard(80, sameNode), shard(40)])).toBe(1);
  });

  it('a shard twice as fast takes twice as much', () => {
    expect(choose([shard(50, { speed: 2 }), shard(70)])).toBe(0);
    expect(choose([shard(30, { speed: 2 }), shard(70)])).toBe(1);
  });

  it('shards that can hold it to its end come first', () => {
    const small = shard(10, { blocks: 10, residents: 0 });
    expect(choose([small, shard(50)], 32, 500)).toBe(1);
    expect(choose([small, shard(2)], 32, 500)).toBe(0);
  });

  it('full now, or never', () => {
    expect(choose([shard(3), shard(1)], 64)).toBe('full');
    expect(choose([shard(100)], 1601, 1700)).toBe('never');
    expect(choose([])).toBe('never');
  });

  it('the shard that has its prefix, unless that has as much more to read as is saved', () => {
    expect(choose([shard(80), shard(60)], 400, 400, [0, 0])).toBe(0);
    expect(choose([shard(80), shard(60)], 400, 400, [0, 336])).toBe(1);
    expect(choose([shard(80), shard(60)], 400, 400, [0, 304])).toBe(0);
    expect(choose([shard(80), shard(60)], 400, 400, [32, 336])).toBe(0);
  });

  it('what it shares with residents needs no room', () => {
    expect(choose([shard(3)], 160)).toBe('full');
    expect(choose([shard(3)], 160, 160, [144])).toBe(0);
  });

  it('many equal sequences over nodes of speeds 1, 1.5 and 3 end in that proportion', () => {
    const speeds = [1, 1.5, 3];
    const used = [0, 0, 0];
    for (let i = 0; i < 110; i++) {
      const states = speeds.map((speed, k) => shard(1000 - (used[k] ?? 0), { blocks: 1000, speed }));
      const chosen = choose(states) as number;
      used[chosen] = (used[chosen] ?? 0) + 2;
    }
    expect(used.map((blocks) => Math.round(blocks / 4))).toEqual([10, 15, 30]);
  });

  it('sequences with one prefix go where it stands until others are idle by as much, then it stands there too', () => {
    const tokens = 160;
    const states = Array.from({ length: 4 }, () => shard(1000, { blocks: 1000, residents: 0 }));
    const matched = states.map(() => 0);
    const counts = states.map(() => 0);
    for (let i = 0; i < 64; i++) {
      const at = choose(states, tokens, tokens, matched) as number;
      const { nodeTokens } = states[at] as ShardState;
      states[at] = { ...(states[at] as ShardState), nodeTokens: nodeTokens + tokens };
      matched[at] = 128;
      counts[at] = (counts[at] ?? 0) + 1;
    }
    expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1);
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
