import fc from 'fast-check';
import { expect, it } from 'vitest';
import { commonTokens, extendChain, PrefixIndex } from './prefix-index.ts';

const chainOf = (tokens: readonly number[], blockTokens: number): number[] => {
  const chain: number[] = [];
  extendChain(chain, Uint32Array.from(tokens), blockTokens);
  return chain;
};

it('a chain has a hash for its first few tokens, and one for each whole block made of all tokens up to there', () => {
  expect(chainOf([1, 2, 3], 2)).toEqual([]);
  expect(chainOf([1, 2, 3, 4], 8)).toHaveLength(1);
  const chain = chainOf([1, 2, 3, 4, 5, 6, 7, 8, 9], 4);
  expect(chain).toHaveLength(3);
  expect(chain.every(Number.isSafeInteger)).toBe(true);
  expect(chainOf([1, 2, 3, 4, 5, 6, 7, 0], 4).slice(0, 2)).toEqual(chain.slice(0, 2));
  expect(chainOf([1, 2, 3, 4, 5, 6, 7, 0], 4)[2]).not.toBe(chain[2]);
  expect(chainOf([0, 2, 3, 4, 5, 6, 7, 8], 4)[2]).not.toBe(chain[2]);
  const grown = chainOf([1, 2, 3, 4], 4);
  extendChain(grown, Uint32Array.from([1, 2, 3, 4, 5, 6, 7, 8]), 4);
  expect(grown).toEqual(chain);
});

it('a hundred thousand blocks that differ in little have a hundred thousand hashes', () => {
  const hashes = new Set<number>();
  for (let i = 0; i < 50_000; i++) {
    hashes.add(chainOf([i, 7, 0, 0], 4)[1] as number);
    hashes.add(chainOf([7, 7, 7, 7, i, 0], 6)[1] as number);
  }
  expect(hashes.size).toBe(100_000);
});

it('commonTokens ends at the first that differs, at an end, or at `most`', () => {
  const tokens = (...ids: number[]) => Uint32Array.from(ids);
  expect(commonTokens(tokens(1, 2, 3), tokens(1, 2, 4), 0, 9)).toBe(2);
  expect(commonTokens(tokens(1, 2, 3), tokens(1, 2), 0, 9)).toBe(2);
  expect(commonTokens(tokens(1, 2, 3), tokens(1, 2, 3), 2, 2)).toBe(2);
  expect(commonTokens(tokens(1, 2, 3), tokens(9, 2, 3), 1, 9)).toBe(3);
});

it('gives every holder that begins alike once, those that share most first; as the plain search over all of them', () => {
  const prompts = fc.array(fc.array(fc.integer({ min: 0, max: 1 }), { maxLength: 12 }), { maxLength: 12 });
  fc.assert(
    fc.property(prompts, fc.array(fc.integer({ min: 0, max: 1 }), { maxLength: 12 }), (held, wanted) => {
      const index = new PrefixIndex<number>();
      const chains = held.map((tokens) => chainOf(tokens, 2));
      for (const [holder, chain] of chains.entries()) {
        index.add(holder, chain, Math.floor(chain.length / 2));
        index.add(holder, chain, chain.length);
      }
      for (let gone = 0; gone < held.length; gone += 3) index.remove(gone);
      const chain = chainOf(wanted, 2);
      const most = chain.length - 1;
      const sharedBy = (other: readonly number[]) => {
        let at = 0;
        while (at < Math.min(most, other.length) && other[at] === chain[at]) at++;
        return at;
      };
      const expected = chains
        .map((other, holder) => ({ holder, shared: sharedBy(other) }))
        .filter(({ holder, shared }) => holder % 3 !== 0 && shared > 0);
      const found: { readonly holder: number; readonly shared: number }[] = [];
      index.eachDeepest(chain, most, (holder, shared) => found.push({ holder, shared }) > 0);
      expect(found.map(({ shared }) => shared)).toEqual(expected.map(({ shared }) => shared).sort((a, b) => b - a));
      const names = (list: typeof found) => new Set(list.map(({ holder, shared }) => `${holder}:${shared}`));
      expect(names(found)).toEqual(names(expected));
      for (const [i, { holder, shared }] of found.entries()) {
        if (found[i + 1]?.shared === shared) expect(found[i + 1]?.holder).toBeLessThan(holder);
      }
      index.eachDeepest(chain, most, (holder) => {
        expect(holder).toBe(found[0]?.holder);
        return false;
      });
      for (let holder = 0; holder < held.length; holder++) index.remove(holder);
      index.eachDeepest(chain, most, () => expect.unreachable());
    }),
  );
});

it('looks at no more than a few of thousands that begin alike', () => {
  const index = new PrefixIndex<number>();
  const common = Array.from({ length: 64 }, (_, i) => i);
  for (let i = 0; i < 3000; i++) {
    const chain = chainOf([...common, i, i], 2);
    index.add(i, chain, chain.length);
  }
  const visited: number[] = [];
  index.eachDeepest(chainOf([...common, 5000, 5000], 2), 33, (holder) => visited.push(holder) > 0);
  expect(visited.length).toBeLessThan(100);
  expect(visited[0]).toBe(2999);
});
