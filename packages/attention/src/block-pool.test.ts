/** Blocks: the lowest first, shared ones given back by their last holder, and those still touched with what to wait for. */
import { describe, expect, it } from 'vitest';
import { BlockPool } from './block-pool.ts';

const take = (pool: BlockPool) => pool.take(new Set());

describe('a pool of blocks', () => {
  it('gives the lowest free one', () => {
    const pool = new BlockPool(70);
    expect(Array.from({ length: 70 }, () => take(pool))).toEqual(Array.from({ length: 70 }, (_, i) => i));
    expect(pool).toMatchObject({ used: 70, free: 0 });
    expect(() => take(pool)).toThrow(RangeError);
    for (const block of [69, 31, 32, 5]) pool.giveBack(block);
    expect([take(pool), take(pool), take(pool), take(pool)]).toEqual([5, 31, 32, 69]);
  });

  it('gives neighbours in a slot neighbours in a frame while there are any', () => {
    const pool = new BlockPool(16, 4);
    const next = (index: number, after?: number) => pool.take(new Set(), { index, after });
    const a = [next(0)];
    const b = [next(0)];
    for (let i = 1; i < 6; i++) a.push(next(i, a.at(-1)));
    expect(a).toEqual([0, 1, 2, 3, 8, 9]);
    expect(b).toEqual([4]);
    const fork = next(2, 1); // 2 is taken: the same place of another frame
    expect(fork).toBe(14);
    for (let i = 1; i < 6; i++) b.push(next(i, b.at(-1)));
    expect(b).toEqual([4, 5, 6, 7, 10, 11]); // no frame is free: whatever is
    expect([next(3, fork), next(0), next(0)]).toEqual([15, 12, 13]);
    expect(pool.free).toBe(0);
  });

  it('has no block beyond its last', () => {
    for (const blocks of [1, 31, 32, 33, 64]) {
      const pool = new BlockPool(blocks);
      for (let i = 0; i < blocks; i++) expect(take(pool)).toBe(i);
      expect(() => take(pool)).toThrow(RangeError);
    }
  });

  it('counts a shared block once, until its last holder gave it back', () => {
    const pool = new BlockPool(4);
    const block = take(pool);
    pool.share(block);
    pool.share(block);
    expect(pool.holders(block)).toBe(3);
    expect(pool.used).toBe(1);
    pool.giveBack(block);
    pool.giveBack(block);
    expect(pool).toMatchObject({ used: 1, free: 3 });
    pool.giveBack(block);
    expect(pool).toMatchObject({ used: 0, free: 4 });
    expect(take(pool)).toBe(block);
  });

  it('gives what is still touched last, and says what to wait for', async () => {
    const pool = new BlockPool(3);
    const [a, b] = [take(pool), take(pool)];
    const { promise, resolve } = Promise.withResolvers<void>();
    pool.giveBack(a, promise);
    pool.giveBack(b, promise);
    expect(pool.free).toBe(3);
    const waits = new Set<Promise<void>>();
    expect(pool.take(waits)).toBe(2);
    expect(waits.size).toBe(0);
    expect(pool.take(waits)).toBe(a);
    expect(waits).toEqual(new Set([promise]));
    pool.giveBack(a);
    resolve();
    await promise;
    await Promise.resolve();
    waits.clear();
    expect([pool.take(waits), pool.take(waits)]).toEqual([a, b]);
    expect(waits.size).toBe(0);
  });

  it('is whole after any order of taking, sharing and giving back', () => {
    const pool = new BlockPool(97);
    const held: number[] = [];
    let seed = 3;
    const random = (below: number) => {
      seed = (seed * 1103515245 + 12345) % 2147483648;
      return Math.floor((seed / 2147483648) * below);
    };
    for (let i = 0; i < 20_000; i++) {
      const [first] = held.slice(random(held.length));
      if (random(2) === 0 && pool.free > 0) {
        const block = take(pool);
        expect(held).not.toContain(block);
        held.push(block);
      } else if (first !== undefined && random(3) === 0) {
        pool.share(first);
        held.push(first);
      } else if (held.length > 0) {
        for (const block of held.splice(random(held.length), 1)) pool.giveBack(block);
      }
      expect(pool.used).toBe(new Set(held).size);
    }
    for (const block of held.splice(0)) pool.giveBack(block);
    expect(Array.from({ length: 97 }, () => take(pool))).toEqual(Array.from({ length: 97 }, (_, i) => i));
  });
});
