/** Blocks: frames are kept whole, lone blocks come from the fullest; shared ones go with their last holder; what to wait for. */
import { describe, expect, it } from 'vitest';
import { BlockPool } from './block-pool.ts';

const take = (pool: BlockPool) => pool.takeLone(new Set());

describe('a pool of blocks', () => {
  it('gives what was never used from the lowest on, and before that what was given back', () => {
    const pool = new BlockPool(70);
    expect(Array.from({ length: 60 }, () => take(pool))).toEqual(Array.from({ length: 60 }, (_, i) => i));
    for (const block of [5, 31, 32]) pool.giveBack(block);
    expect([take(pool), take(pool), take(pool), take(pool)]).toEqual([32, 31, 5, 60]);
    expect(pool).toMatchObject({ used: 61, free: 9 });
  });

  it('gives whole frames, and neighbours in them', () => {
    const pool = new BlockPool(16, 4);
    expect([pool.takeFrame(), pool.beginFrame(0), pool.takeNext(4)]).toEqual([0, 4, 5]);
    expect(pool).toMatchObject({ used: 6, free: 10, wholeFrames: 2 });
    expect(take(pool)).toBe(7); // of the frame that is begun, from its other end
    expect(pool.takeNext(5)).toBe(6);
    expect(pool.takeNext(6)).toBeUndefined(); // taken
    expect(pool.takeNext(7)).toBeUndefined(); // its frame's last
    expect(pool.beginFrame(2)).toBe(10);
    expect(pool.takeFrame()).toBe(12);
    expect(pool.takeFrame()).toBeUndefined();
    expect(pool.beginFrame(0)).toBeUndefined();
    for (let block = 0; block < 4; block++) pool.giveBack(block);
    expect(pool.takeFrame()).toBe(0);
  });

  it('takes lone blocks from the fullest frame, and leaves whole ones to whole runs', () => {
    const pool = new BlockPool(64, 4);
    const [a, b] = [pool.takeFrame() as number, pool.takeFrame() as number];
    for (const block of [a, a + 2, b + 1]) pool.giveBack(block);
    expect([take(pool), take(pool), take(pool)]).toEqual([b + 1, a + 2, a]);
    expect(pool.wholeFrames).toBe(14);
    for (let left = 14; left > 2; left--) expect(pool.beginFrame(0)).toBeDefined();
    expect(pool.beginFrame(0)).toBeUndefined(); // the last eighth
    expect([pool.takeFrame(), pool.takeFrame(), pool.takeFrame()]).toEqual([
      expect.any(Number),
      expect.any(Number),
      undefined,
    ]);
    expect(pool.free).toBe(3 * 12);
  });

  it('has frames of up to 32 blocks', () => {
    const pool = new BlockPool(64, 32);
    expect([pool.takeFrame(), take(pool), take(pool)]).toEqual([0, 63, 62]);
    for (let block = 0; block < 32; block++) pool.giveBack(block);
    pool.giveBack(63);
    pool.giveBack(62);
    expect([pool.wholeFrames, pool.takeFrame(), pool.takeFrame(), pool.free]).toEqual([2, 32, 0, 0]);
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
    expect(pool.takeLone(waits)).toBe(2);
    expect(waits.size).toBe(0);
    expect(pool.takeLone(waits)).toBe(a);
    expect(waits).toEqual(new Set([promise]));
    pool.giveBack(a);
    resolve();
    await promise;
    await Promise.resolve();
    waits.clear();
    expect([pool.takeLone(waits), pool.takeLone(waits)].sort()).toEqual([a, b]);
    expect(waits.size).toBe(0);
  });

  it.each([1, 8])('is whole after any order of taking, sharing and giving back: frames of %i', (frameBlocks) => {
    const pool = new BlockPool(12 * 8, frameBlocks);
    const held: number[] = [];
    let seed = 3;
    const random = (below: number) => {
      seed = (seed * 1103515245 + 12345) % 2147483648;
      return Math.floor((seed / 2147483648) * below);
    };
    for (let i = 0; i < 20_000; i++) {
      const [first] = held.slice(random(held.length));
      const kind = random(8);
      if (kind < 4 && pool.free > 0) {
        const near = kind === 0 || first === undefined ? pool.beginFrame(random(frameBlocks)) : pool.takeNext(first);
        const block = near ?? take(pool);
        expect(held).not.toContain(block);
        held.push(block);
      } else if (kind === 4) {
        const frame = pool.takeFrame();
        for (let i = 0; frame !== undefined && i < frameBlocks; i++) {
          expect(held).not.toContain(frame + i);
          held.push(frame + i);
        }
      } else if (first !== undefined && random(3) === 0) {
        pool.share(first);
        held.push(first);
      } else if (held.length > 0) {
        for (const block of held.splice(random(held.length), 1)) pool.giveBack(block);
      }
      const blocks = new Set(held);
      const frames = new Set(held.map((block) => Math.floor(block / frameBlocks)));
      expect([pool.used, pool.wholeFrames]).toEqual([blocks.size, 96 / frameBlocks - frames.size]);
    }
    for (const block of held.splice(0)) pool.giveBack(block);
    expect(pool.wholeFrames).toBe(96 / frameBlocks);
    expect(new Set(Array.from({ length: 96 }, () => take(pool))).size).toBe(96);
    expect(() => take(pool)).toThrow(RangeError);
  });
});
