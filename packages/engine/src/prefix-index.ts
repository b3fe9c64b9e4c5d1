/**
 * Who holds which prefix: chains of hashes over blocks of tokens, where each hash stands for its block and all before it, so that
 * equal chains are equal prefixes but for collisions. A chain begins with the hash of its first few tokens, fewer than are worth
 * sharing. What is found is a hint: whoever uses it compares the tokens.
 */

/** A fork for fewer tokens than that costs more (a slot, a message, a block to copy) than to compute them with the others. */
export const LEAST_SHARED_TOKENS = 4;

/** Appends the hashes of what `tokens` has whole and `chain` not yet: of the first few, then of each block. */
export function extendChain(chain: number[], tokens: Uint32Array, blockTokens: number): void {
  if (tokens.length < LEAST_SHARED_TOKENS) return;
  if (chain.length === 0) chain.push(hashOf(0, tokens, 0, LEAST_SHARED_TOKENS));
  while (chain.length * blockTokens <= tokens.length) {
    const start = (chain.length - 1) * blockTokens;
    chain.push(hashOf(chain.at(-1) as number, tokens, start, start + blockTokens));
  }
}

/** 53 bits of two 32-bit sums. */
function hashOf(parent: number, tokens: Uint32Array, start: number, end: number): number {
  let a = Math.imul((parent >>> 0) ^ 0x9e3779b9, 0x85ebca6b);
  let b = Math.imul(Math.floor(parent / 2 ** 32) ^ 0x7f4a7c15, 0xc2b2ae35);
  for (let i = start; i < end; i++) {
    const token = tokens[i] as number;
    a = Math.imul(a ^ token ^ (a >>> 15), 0x2c1b3c6d);
    b = Math.imul((b + token) ^ (b >>> 13), 0x297a2d39);
  }
  a ^= b >>> 16;
  b ^= a >>> 14;
  return (b >>> 11) * 2 ** 32 + (a >>> 0);
}

/** How many first tokens are the same, at most `most`; those before `from` are taken to be. */
export function commonTokens(a: Uint32Array, b: Uint32Array, from: number, most: number): number {
  const end = Math.min(most, a.length, b.length);
  let at = from;
  while (at < end && a[at] === b[at]) at++;
  return Math.min(at, end);
}

/** Of the holders of one block, how many are looked at: among thousands that begin alike the newest do. */
const MOST_LOOKED_AT = 16;

export class PrefixIndex<H> {
  /** The chain of each holder, as far as it is indexed. */
  readonly #chains = new Map<H, number[]>();
  /** By hash; newest last. */
  readonly #holders = new Map<number, H[]>();

  /** A holder of what the first `count` hashes of a chain stand for; it may be added again with more. */
  add(holder: H, chain: readonly number[], count: number): void {
    let indexed = this.#chains.get(holder);
    if (indexed === undefined) {
      indexed = [];
      this.#chains.set(holder, indexed);
    }
    for (let i = indexed.length; i < count; i++) {
      const hash = chain[i] as number;
      indexed.push(hash);
      const holders = this.#holders.get(hash);
      if (holders === undefined) this.#holders.set(hash, [holder]);
      else holders.push(holder);
    }
  }

  remove(holder: H): void {
    for (const hash of this.#chains.get(holder) ?? []) {
      const holders = this.#holders.get(hash) ?? [];
      if (holders.length === 1) this.#holders.delete(hash);
      else holders.splice(holders.lastIndexOf(holder), 1);
    }
    this.#chains.delete(holder);
  }

  /**
   * Visits holders that begin as a chain does, each once, with how many of its first `most` hashes it shares: those that share most
   * first, and of these the newest. Of each length no more than a few are looked at, so it takes as long as the chain, however many hold it.
   * @param visit gives false when it has seen enough
   */
  eachDeepest(chain: readonly number[], most: number, visit: (holder: H, shared: number) => boolean): void {
    // Who holds a block holds those before it: where somebody has one hash, somebody has all before it.
    let deepest = 0;
    let beyond = Math.min(most, chain.length) + 1;
    while (beyond - deepest > 1) {
      const middle = Math.floor((deepest + beyond) / 2);
      if (this.#holders.has(chain[middle - 1] as number)) deepest = middle;
      else beyond = middle;
    }
    for (let shared = deepest; shared > 0; shared--) {
      const holders = this.#holders.get(chain[shared - 1] as number) ?? [];
      for (let i = holders.length - 1; i >= Math.max(0, holders.length - MOST_LOOKED_AT); i--) {
        const holder = holders[i] as H;
        const sharesMore = shared < deepest && this.#chains.get(holder)?.[shared] === chain[shared];
        if (!sharesMore && !visit(holder, shared)) return;
      }
    }
  }
}
