/**
 * Who holds which prefix: chains of hashes over blocks of tokens, where each hash stands for its block and all before it, so that
 * equal chains are equal prefixes but for collisions. What is found is a hint: whoever uses it compares the tokens.
 */

/** Appends the hashes of the blocks that `tokens` has whole and `chain` not yet. 53 bits of two 32-bit sums. */
export function extendChain(chain: number[], tokens: Uint32Array, blockTokens: number): void {
  while ((chain.length + 1) * blockTokens <= tokens.length) {
    const parent = chain.at(-1) ?? 0;
    let a = Math.imul((parent >>> 0) ^ 0x9e3779b9, 0x85ebca6b);
    let b = Math.imul(Math.floor(parent / 2 ** 32) ^ 0x7f4a7c15, 0xc2b2ae35);
    const start = chain.length * blockTokens;
    for (let i = start; i < start + blockTokens; i++) {
      const token = tokens[i] as number;
      a = Math.imul(a ^ token ^ (a >>> 15), 0x2c1b3c6d);
      b = Math.imul((b + token) ^ (b >>> 13), 0x297a2d39);
    }
    a ^= b >>> 16;
    b ^= a >>> 14;
    chain.push((b >>> 11) * 2 ** 32 + (a >>> 0));
  }
}

/** How many first tokens are the same, at most `most`; those before `from` are taken to be. */
export function commonTokens(a: Uint32Array, b: Uint32Array, from: number, most: number): number {
  const end = Math.min(most, a.length, b.length);
  let at = from;
  while (at < end && a[at] === b[at]) at++;
  return Math.min(at, end);
}

export class PrefixIndex<H> {
  /** The chain of each holder, as far as it is indexed. */
  readonly #chains = new Map<H, number[]>();
  readonly #holders = new Map<number, Set<H>>();

  /** A holder of the first `blocks` blocks of a chain; it may be added again with more. */
  add(holder: H, chain: readonly number[], blocks: number): void {
    let indexed = this.#chains.get(holder);
    if (indexed === undefined) {
      indexed = [];
      this.#chains.set(holder, indexed);
    }
    for (let i = indexed.length; i < blocks; i++) {
      const hash = chain[i] as number;
      indexed.push(hash);
      const holders = this.#holders.get(hash);
      if (holders === undefined) this.#holders.set(hash, new Set([holder]));
      else holders.add(holder);
    }
  }

  remove(holder: H): void {
    for (const hash of this.#chains.get(holder) ?? []) {
      const holders = this.#holders.get(hash);
      holders?.delete(holder);
      if (holders?.size === 0) this.#holders.delete(hash);
    }
    this.#chains.delete(holder);
  }

  /** Every holder with the blocks that it shares with a chain's first `most`, those that share most first; then those that share none. */
  *deepest(chain: readonly number[], most: number): Generator<{ readonly holder: H; readonly blocks: number }> {
    let depth = 0;
    while (depth < Math.min(most, chain.length) && this.#holders.has(chain[depth] as number)) depth++;
    let deeper: ReadonlySet<H> | undefined;
    for (; depth > 0; depth--) {
      const holders = this.#holders.get(chain[depth - 1] as number);
      for (const holder of holders ?? []) if (!deeper?.has(holder)) yield { holder, blocks: depth };
      deeper = holders;
    }
    for (const holder of this.#chains.keys()) if (!deeper?.has(holder)) yield { holder, blocks: 0 };
  }
}
