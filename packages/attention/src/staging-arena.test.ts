/** The arena never gives the same byte twice, and is whole again when all has come back. */
import { CapacityError } from '@glinthawk/core';
import { expect, it } from 'vitest';
import { StagingArena } from './staging-arena.ts';

it('gives any sizes in any order, and is whole again afterwards', () => {
  const size = 4096;
  const arena = new StagingArena(1000, size);
  const owner = new Int32Array(size); // 0 is nobody
  const held: { readonly address: number; readonly bytes: number }[] = [];
  let seed = 7;
  const random = (below: number) => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return Math.floor((seed / 2147483648) * below);
  };
  const giveBack = (which: number) => {
    for (const { address, bytes } of held.splice(which, 1)) {
      owner.fill(0, address - 1000, address - 1000 + bytes);
      arena.giveBack(address, bytes);
    }
  };
  for (let i = 1; i <= 5_000; i++) {
    const bytes = 1 + random(600);
    try {
      const address = arena.take(bytes);
      const range = owner.subarray(address - 1000, address - 1000 + bytes);
      expect(range.length).toBe(bytes);
      expect(range.every((by) => by === 0)).toBe(true);
      range.fill(i);
      held.push({ address, bytes });
    } catch (error) {
      expect(error).toBeInstanceOf(CapacityError);
    }
    if (held.length > 0 && random(2) === 0) giveBack(random(held.length));
  }
  while (held.length > 0) giveBack(random(held.length));
  expect(arena.take(size)).toBe(1000);
  expect(() => arena.take(1)).toThrow(/steps in flight hold 4096 of 4096/);
});
