import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { KvShard, Placement } from './kv-shard.ts';

describe('blocksFor', () => {
  it('what begins with something kept needs no more than what begins with nothing: else it might wait for ever', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(1, 4, 16),
        fc.constantFrom(1, 6, 512),
        fc.constantFrom([0], [5], [0, 5, 5], [0, 24]),
        fc.integer({ min: 1, max: 200 }),
        fc.integer({ min: 1, max: 200 }),
        (blockTokens, stepTokens, windows, kept, more) => {
          const shard = new KvShard<string>({ node: 0, index: 0 }, { blockTokens, stepTokens, windows }, 10_000);
          const part = shard.open('a', { index: 0, generation: 1 });
          for (let at = 0; at < kept; at += stepTokens) shard.announce(part, at, Math.min(stepTokens, kept - at));
          const whole = shard.blocksFor(kept + more);
          expect(shard.blocksFor(kept + more, { part, tokens: kept })).toBeLessThanOrEqual(whole);
          shard.retire(part);
          expect(shard.blocksFor(kept + more, { part, tokens: kept })).toBeLessThanOrEqual(whole);
        },
      ),
    );
  });
});

describe('a placement in parts', () => {
  const shard = new KvShard<string>({ node: 0, index: 0 }, { blockTokens: 4, stepTokens: 8, windows: [0] }, 100);
  let slots = 0;
  const part = (firstToken: number) => shard.open('a', { index: slots++, generation: 1 }, firstToken);
  const placement = new Placement(part(0));
  placement.parts.push(part(8), part(20));

  it('the part that begins last before a position holds it; those before are visited; it ends where the next begins', () => {
    const [first, second, third] = placement.parts;
    for (const [position, parts, end] of [
      [0, [first], 8],
      [7, [first], 8],
      [8, [first, second], 20],
      [19, [first, second], 20],
      [20, [first, second, third], Number.POSITIVE_INFINITY],
      [999, [first, second, third], Number.POSITIVE_INFINITY],
    ] as const) {
      expect(placement.partsTo(position)).toEqual(parts);
      expect(placement.partAt(position)).toBe(parts.at(-1));
      expect(placement.endOfPartAt(position)).toBe(end);
    }
  });

  it('when the first was given back, the rest is as it was', () => {
    const rest = new Placement(placement.parts[1] as (typeof placement.parts)[number]);
    rest.parts.push(placement.last);
    expect(rest.partsTo(9)).toEqual([placement.parts[1]]);
    expect(rest.partsTo(30)).toEqual(placement.parts.slice(1));
  });
});

it('a visit lets go of what is out of its windows, and takes nothing', () => {
  const shard = new KvShard<string>({ node: 0, index: 0 }, { blockTokens: 4, stepTokens: 8, windows: [0, 6] }, 100);
  const part = shard.open('a', { index: 0, generation: 1 });
  shard.announce(part, 0, 8);
  shard.announce(part, 8, 8);
  expect([part.blocks, shard.usedBlocks]).toEqual([4 + 4, 8]);
  shard.visit(part, 16);
  expect([part.blocks, shard.usedBlocks]).toEqual([4 + 2, 6]);
  shard.visit(part, 21);
  expect([part.blocks, shard.usedBlocks]).toEqual([4, 4]);
  expect(shard.isSeen(part, 1000)).toBe(true);
  const windowed = new KvShard<string>({ node: 0, index: 1 }, { blockTokens: 4, stepTokens: 8, windows: [6] }, 100);
  const seen = windowed.open('a', { index: 1, generation: 1 });
  windowed.announce(seen, 0, 8);
  expect([12, 13].map((position) => windowed.isSeen(seen, position))).toEqual([true, false]);
});
