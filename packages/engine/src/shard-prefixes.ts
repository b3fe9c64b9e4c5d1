/**
 * The prefixes that stand in one shard, and those that are being computed there. A holder is a part whose first token is its
 * sequence's first: of a sequence that runs, or kept after it. Only tokens of settled steps can be taken over.
 */
import type { KvPart } from './kv-shard.ts';
import { commonTokens, extendChain, LEAST_SHARED_TOKENS, PrefixIndex } from './prefix-index.ts';
import type { Sequence } from './sequence.ts';

/** Holders that are compared with one sequence, at most: the newest, as those that share as many whole blocks differ by less than a block. */
const MOST_COMPARED = 16;

export class PrefixHolder {
  readonly part: KvPart<Sequence>;
  /** Tokens whose KV stands. */
  standing = 0;
  /** The preempted sequence whose KV this is, and which will want it again. */
  parkedBy: Sequence | null = null;
  #kept: Uint32Array = new Uint32Array();

  constructor(part: KvPart<Sequence>) {
    this.part = part;
  }

  get tokens(): Uint32Array {
    return this.part.owner?.tokens ?? this.#kept;
  }

  /** Its part is to be cached: the sequence may go. */
  keep(tokens: Uint32Array): void {
    this.#kept = tokens.slice(0, this.standing);
  }
}

export interface PrefixMatch {
  readonly holder: PrefixHolder;
  readonly tokens: number;
}

export class ShardPrefixes {
  readonly #blockTokens: number;
  readonly #holders = new Map<KvPart<Sequence>, PrefixHolder>();
  readonly #standing = new PrefixIndex<PrefixHolder>();
  readonly #coming = new PrefixIndex<PrefixHolder>();

  constructor(blockTokens: number) {
    this.#blockTokens = blockTokens;
  }

  holder(part: KvPart<Sequence>): PrefixHolder | undefined {
    return this.#holders.get(part);
  }

  /** The longest prefix of a sequence's tokens that can be forked; not its last token, which has to be run. */
  longest(sequence: Sequence): PrefixMatch | null {
    return this.#longest(this.#standing, sequence, ({ part, standing }, common) => {
      const tokens = Math.min(common, standing);
      return part.shard.canFork(part, tokens) ? tokens : 0;
    });
  }

  /** Tokens that stand when those that compute now are done; of one whose consumer doesn't keep up nothing is expected. */
  coming(sequence: Sequence): number {
    const match = this.#longest(this.#coming, sequence, ({ part }, tokens) =>
      part.owner === null || part.owner.paused || part.owner.leaving ? 0 : tokens,
    );
    return match?.tokens ?? 0;
  }

  /** A sequence begins to run on a part: what it has is to be found, and what it is about to compute can be waited for. */
  begin(part: KvPart<Sequence>, sequence: Sequence): void {
    if (part.firstToken !== 0) return;
    const holder = this.#holders.get(part) ?? new PrefixHolder(part);
    holder.parkedBy = null;
    this.#holders.set(part, holder);
    // A fork's tokens stand for others when a step went through on it; till then they are coming.
    if (sequence.pendingTokens <= 1 && holder.standing > 0) return;
    const chain = sequence.chain(this.#blockTokens);
    this.#coming.add(holder, chain, chain.length);
  }

  /** A sequence's step was settled. */
  advance(part: KvPart<Sequence>, sequence: Sequence): void {
    const holder = this.#holders.get(part);
    if (holder === undefined) return;
    holder.standing = Math.min(sequence.kvTokens, part.tokens);
    this.#standing.add(holder, sequence.chain(this.#blockTokens), this.#hashesOf(holder.standing));
    if (sequence.pendingTokens <= 1) this.#coming.remove(holder);
  }

  /** The sequence leaves its part, which stays. Null where nothing of it is of use to others. */
  keep(part: KvPart<Sequence>, sequence: Sequence): PrefixHolder | null {
    const holder = this.#holders.get(part);
    if (holder === undefined || holder.standing < LEAST_SHARED_TOKENS) return null;
    this.#coming.remove(holder);
    holder.keep(sequence.tokens);
    if (!sequence.ended) holder.parkedBy = sequence;
    return holder;
  }

  /** A fork of a kept part takes its place with fewer tokens. */
  replace(old: PrefixHolder, part: KvPart<Sequence>): PrefixHolder {
    const holder = new PrefixHolder(part);
    holder.standing = part.tokens;
    holder.parkedBy = old.parkedBy;
    holder.keep(old.tokens);
    this.#holders.set(part, holder);
    const chain: number[] = [];
    extendChain(chain, holder.tokens, this.#blockTokens);
    this.#standing.add(holder, chain, chain.length);
    return holder;
  }

  forget(part: KvPart<Sequence>): void {
    const holder = this.#holders.get(part);
    if (holder === undefined) return;
    this.#holders.delete(part);
    this.#standing.remove(holder);
    this.#coming.remove(holder);
  }

  /** How many hashes of a chain so many tokens make up. */
  #hashesOf(tokens: number): number {
    return tokens < LEAST_SHARED_TOKENS ? 0 : 1 + Math.floor(tokens / this.#blockTokens);
  }

  /** @param usable of the tokens that a holder has in common, as many as are of use */
  #longest(
    index: PrefixIndex<PrefixHolder>,
    sequence: Sequence,
    usable: (holder: PrefixHolder, tokens: number) => number,
  ): PrefixMatch | null {
    const { tokens } = sequence;
    const most = sequence.length - 1;
    let best: PrefixMatch | null = null;
    let longest = LEAST_SHARED_TOKENS - 1;
    let compared = 0;
    index.eachDeepest(sequence.chain(this.#blockTokens), this.#hashesOf(most), (holder, shared) => {
      // The first hash is of no block: what shares n of them has less than n blocks in common.
      if (shared * this.#blockTokens <= longest || longest === most || compared++ === MOST_COMPARED) return false;
      const held = holder.tokens;
      const found = usable(holder, commonTokens(tokens, held, (shared - 1) * this.#blockTokens, most));
      // Hashes may collide; tokens don't.
      if (found <= longest || commonTokens(tokens, held, 0, found) < found) return true;
      best = { holder, tokens: found };
      longest = found;
      return true;
    });
    return best;
  }
}
