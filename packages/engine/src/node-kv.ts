/**
 * One node's KV while it is connected: its shards, its slots and what is kept there for others. Slots are opened, forked and
 * freed here, each in the account and at the node in one go. What a sequence leaves behind stays as long as nobody needs the room: a prefix
 * for others like it, and for one that was preempted what it goes on with. It gives way from the oldest on, before anybody is
 * refused a block or a slot.
 */
import { type AttentionBackend, layerGroups, type Slot } from '@glinthawk/attention';
import { CapacityError } from '@glinthawk/core';
import { type KvPart, KvShard, type PartRows, SlotTable } from './kv-shard.ts';
import type { Sequence } from './sequence.ts';
import { type PrefixHolder, type PrefixMatch, ShardPrefixes } from './shard-prefixes.ts';

export type KvBackend = Pick<AttentionBackend, 'geometry' | 'capacity' | 'open' | 'fork' | 'free'> & {
  readonly limits: AttentionBackend['limits'] | undefined;
};

export interface NodeKvOptions {
  /** Index of the node among the engine's sources. */
  readonly node: number;
  /** Tokens of one sequence in a step, at most. */
  readonly stepTokens: number;
  /** Whether prefixes are shared and kept. */
  readonly prefixSharing: boolean;
}

/** Forks of one sequence that came to nothing until it is opened with nothing shared; a step that goes through begins anew. */
const MOST_REFUSED_FORKS = 2;

/** Of its tokens, how many something kept may keep when blocks are needed: the first share that gives enough of them. */
const KEPT_SHARES = [7 / 8, 1 / 2];
/** Refusals that are of memory, not of slots. */
const MEMORY_CODES: ReadonlySet<string> = new Set(['WASM_MEMORY', 'KV_FULL', 'KV_CAPACITY']);

export class NodeKv {
  readonly shards: readonly KvShard<Sequence>[];
  readonly #backend: KvBackend;
  readonly #slots = new SlotTable();
  /** By shard. */
  readonly #prefixes: readonly ShardPrefixes[];
  readonly #sharing: boolean;
  /** What no sequence runs on, least recently used first. */
  #cached: PrefixHolder[] = [];
  /**
   * Forks that no step went through on yet, with what they were forked from. A node may refuse a fork only at the steps that use it, so
   * till then nobody else is to have it.
   */
  readonly #unproven = new Map<KvPart<Sequence>, PrefixHolder | null>();
  readonly #refusedForks = new WeakMap<Sequence, number>();
  #mostSlots: number;

  constructor(backend: KvBackend, { node, stepTokens, prefixSharing }: NodeKvOptions) {
    this.#backend = backend;
    this.#sharing = prefixSharing;
    this.#mostSlots = this.#toldSlots;
    const { blockTokens, shards } = backend.capacity;
    const windows = layerGroups(backend.geometry).map(({ window }) => window);
    const shape = { blockTokens, stepTokens, windows };
    this.shards = shards.map(({ blocks }, index) => new KvShard({ node, index }, shape, blocks));
    this.#prefixes = shards.map(() => new ShardPrefixes(blockTokens));
  }

  /** Slots that are kept, and no sequence's. */
  get cachedSlots(): number {
    return this.#cached.length;
  }

  /** For further sequences: what is kept gives way. */
  get slotsLeft(): number {
    return Math.max(0, this.#mostSlots - this.#slots.taken + this.#cached.length);
  }

  get #toldSlots(): number {
    return Math.max(1, this.#backend.limits?.maxSlots ?? Number.POSITIVE_INFINITY);
  }

  /** Steps went through: one that turned out to take fewer slots is asked for one more. */
  trustMore(): void {
    this.#mostSlots = Math.min(this.#toldSlots, this.#mostSlots + 1);
  }

  /** What a sequence could begin with on a shard, and how many tokens it could begin with when those that run are further on. */
  match(sequence: Sequence, shard: KvShard<Sequence>): { readonly match: PrefixMatch | null; readonly coming: number } {
    const opensAfresh = (this.#refusedForks.get(sequence) ?? 0) >= MOST_REFUSED_FORKS;
    if (!this.#sharing || opensAfresh) return { match: null, coming: 0 };
    const prefixes = this.#of(shard);
    return { match: prefixes.longest(sequence), coming: prefixes.coming(sequence) };
  }

  /**
   * Gives a sequence a slot on a shard that has room for it, with as much of its KV as stands there; its kvTokens says how much.
   * @throws what the backend throws
   */
  place(sequence: Sequence, shard: KvShard<Sequence>): KvPart<Sequence> {
    const { match } = this.match(sequence, shard);
    const needed = shard.blocksFor(sequence.length, match === null ? undefined : { ...match, part: match.holder.part });
    const before = shard.usedBlocks;
    let part: KvPart<Sequence>;
    if (match === null) {
      part = this.open(sequence, shard);
    } else if (match.holder.parkedBy === sequence && match.tokens === match.holder.standing) {
      part = match.holder.part;
      this.#cached = this.#cached.filter((each) => each !== match.holder);
      shard.adopt(part, sequence);
      sequence.kvTokens = match.tokens;
    } else {
      part = this.#fork(sequence, shard, match);
    }
    part.expected = sequence.length;
    shard.promise(part, Math.max(0, needed - (shard.usedBlocks - before)));
    if (this.#sharing) this.#of(shard).begin(part, sequence);
    return part;
  }

  /** @throws what the backend throws */
  open(sequence: Sequence, shard: KvShard<Sequence>, firstToken = 0): KvPart<Sequence> {
    this.#makeSlot();
    const slot = this.#slots.take();
    this.#asked(() => this.#backend.open(slot, shard.index), slot);
    return shard.open(sequence, slot, firstToken);
  }

  /** More of a sequence's KV stands. */
  advance(part: KvPart<Sequence>, sequence: Sequence): void {
    if (!this.#sharing) return;
    const parent = this.#unproven.get(part);
    // A fork that is there shows that its parent was.
    if (parent) this.#unproven.delete(parent.part);
    this.#unproven.delete(part);
    this.#refusedForks.delete(sequence);
    this.#of(part.shard).advance(part, sequence);
  }

  /** A step with rows in the part was refused for lack of room. @returns whether that may be as the part's fork was: it isn't to be used again */
  doubt(part: KvPart<Sequence>, sequence: Sequence): boolean {
    const parent = this.#unproven.get(part);
    if (parent === undefined) return false;
    this.#refusedForks.set(sequence, (this.#refusedForks.get(sequence) ?? 0) + 1);
    if (parent !== null && this.#unproven.has(parent.part) && this.#cached.includes(parent)) this.#drop(parent);
    return true;
  }

  /** A sequence leaves its part. What stands of it is kept where it may be of use. */
  leave(part: KvPart<Sequence>, sequence: Sequence): void {
    const isOfUse = this.#sharing && !sequence.failed && !this.#unproven.has(part);
    const holder = isOfUse ? this.#of(part.shard).keep(part, sequence) : null;
    if (holder === null) {
      this.free(part);
      return;
    }
    part.shard.retire(part);
    this.#cached.push(holder);
  }

  free(part: KvPart<Sequence>): void {
    this.#of(part.shard).forget(part);
    this.#unproven.delete(part);
    part.shard.free(part);
    this.#slots.giveBack(part.slot);
    this.#backend.free(part.slot);
  }

  /** Drops everything that is kept. @returns whether there was anything */
  dropCached(): boolean {
    const dropped = this.#cached.length > 0;
    for (const holder of [...this.#cached]) this.#drop(holder);
    return dropped;
  }

  /**
   * Counts the blocks that a step's rows take and give back, when the node is told of it.
   * @throws CapacityError when there are not enough; nothing has changed then
   */
  announce(rows: readonly PartRows<Sequence>[]): void {
    const wanted = new Map<KvShard<Sequence>, number>();
    for (const { part, position, count, visit } of rows) {
      if (visit) continue;
      const { takes, vacates } = part.shard.change(part, position, position + count);
      wanted.set(part.shard, (wanted.get(part.shard) ?? 0) + Math.max(0, takes - vacates));
    }
    for (const [shard, blocks] of wanted) {
      if (this.#makeRoom(shard, blocks)) continue;
      const message = `a step needs ${blocks} KV blocks of shard ${shard.index}, and ${shard.vacantBlocks} are vacant`;
      throw new CapacityError('KV_CAPACITY', message);
    }
    for (const { part, position, count, visit } of rows) {
      if (visit) part.shard.visit(part, position);
      else part.shard.announce(part, position, count);
    }
  }

  #of(shard: KvShard<Sequence>): ShardPrefixes {
    return this.#prefixes[shard.index] as ShardPrefixes;
  }

  #fork(sequence: Sequence, shard: KvShard<Sequence>, { holder, tokens }: PrefixMatch): KvPart<Sequence> {
    this.#touch(holder);
    const { blockTokens } = shard.shape;
    // Without room for a copy of the block that is not full, its tokens are computed again.
    const isRoom = this.#makeRoom(shard, shard.blocksOfFork(tokens), holder);
    const shared = isRoom ? tokens : tokens - (tokens % blockTokens);
    if (shared === 0 || !shard.canFork(holder.part, shared) || !this.#makeSlot(holder)) {
      return this.open(sequence, shard);
    }
    const slot = this.#forked(holder.part, shared);
    if (slot === null) return this.open(sequence, shard);
    sequence.kvTokens = shared;
    const part = shard.fork(sequence, slot, holder.part, shared);
    this.#unproven.set(part, holder);
    return part;
  }

  /** Null when there is no room for the fork. @throws what else the backend throws */
  #forked(parent: KvPart<Sequence>, tokens: number): Slot | null {
    const slot = this.#slots.take();
    try {
      this.#asked(() => this.#backend.fork(slot, parent.slot, tokens), slot);
      return slot;
    } catch (error) {
      if (error instanceof CapacityError) return null;
      throw error;
    }
  }

  /** Gives the slot back when the backend refuses it; one that says that these are too many, or never said how many it takes, has said so now. */
  #asked(ask: () => void, slot: Slot): void {
    try {
      ask();
    } catch (error) {
      this.#slots.giveBack(slot);
      const isOfSlots = error instanceof CapacityError && (error.code === 'TOO_MANY_SLOTS' || this.#isUntold(error));
      if (isOfSlots && this.#slots.taken > 0) this.#mostSlots = this.#slots.taken;
      throw error;
    }
  }

  #isUntold({ code }: CapacityError): boolean {
    return this.#toldSlots === Number.POSITIVE_INFINITY && !MEMORY_CODES.has(code);
  }

  #touch(holder: PrefixHolder): void {
    const at = this.#cached.indexOf(holder);
    if (at < 0) return;
    this.#cached.splice(at, 1);
    this.#cached.push(holder);
  }

  /** Whether there is a slot now; what is kept gives one up, except `except`. */
  #makeSlot(except?: PrefixHolder): boolean {
    if (this.#slots.taken < this.#mostSlots) return true;
    const oldest = this.#cached.find((holder) => holder !== except);
    if (oldest === undefined) return false;
    this.#drop(oldest);
    return true;
  }

  /** Whether so many blocks are vacant now; what is kept there gives way, except `except`. */
  #makeRoom(shard: KvShard<Sequence>, blocks: number, except?: PrefixHolder): boolean {
    if (shard.vacantBlocks >= blocks) return true;
    for (const holder of [...this.#cached]) {
      if (shard.vacantBlocks >= blocks) return true;
      if (holder.part.shard === shard && holder !== except) this.#shrink(holder, blocks - shard.vacantBlocks);
    }
    return shard.vacantBlocks >= blocks;
  }

  /** Its end goes where that is enough, else all: so what a preempted sequence left is not lost for one block. */
  #shrink(holder: PrefixHolder, blocks: number): void {
    const { part, standing } = holder;
    const { shard } = part;
    const kept = KEPT_SHARES.map((share) => shard.wholeBlocks(share * standing)).find(
      (tokens) => tokens > 0 && shard.canFork(part, tokens) && shard.vacatedBlocks(part, tokens) >= blocks,
    );
    if (kept === undefined || this.#slots.taken >= this.#mostSlots) {
      this.#drop(holder);
      return;
    }
    const slot = this.#forked(part, kept);
    if (slot === null) {
      this.#drop(holder);
      return;
    }
    const fork = shard.fork(null, slot, part, kept);
    this.#unproven.set(fork, null);
    const shorter = this.#of(shard).replace(holder, fork);
    this.#cached[this.#cached.indexOf(holder)] = shorter;
    this.free(part);
  }

  #drop(holder: PrefixHolder): void {
    this.#cached.splice(this.#cached.indexOf(holder), 1);
    this.free(holder.part);
  }
}
