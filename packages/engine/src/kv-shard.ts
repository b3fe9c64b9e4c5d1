/**
 * The engine's account of KV blocks, which is the authoritative one: a shard is one memory of an attention node, a part is what one
 * slot holds of it, a placement is where one sequence's KV stands. A block counts once, however many slots hold it: as used
 * where a sequence is among them, else as cached. It changes exactly as the node's own does, call by call (kv-blocks.ts has
 * the rule), so the two are equal between any two calls. Nothing here talks to a node.
 */
import { heldBlocks, type Slot } from '@glinthawk/attention';

/** What a block is, at one node. */
export interface BlockShape {
  readonly blockTokens: number;
  /** Tokens of one slot in a step, at most: what leaves a window is given back only when a step is over. */
  readonly stepTokens: number;
  /** By layer group: how many latest tokens its layers see; 0 is all. */
  readonly windows: readonly number[];
}

/** By how many slots it is held: those of sequences, and those that are only kept in case that they are of use again. */
interface KvBlock {
  used: number;
  cached: number;
}

/** What a slot holds in one layer group: its blocks `from`, `from + 1`, … */
interface BlockTable {
  from: number;
  readonly blocks: KvBlock[];
}

/** One slot, and what it holds. Positions and tokens of a part count from the sequence's token `firstToken`. */
export class KvPart<R> {
  /** Null for what is cached. */
  owner: R | null;
  readonly shard: KvShard<R>;
  readonly slot: Slot;
  /** The sequence's token that is the slot's first. */
  readonly firstToken: number;
  /** Stored, or about to be by a step that was announced. */
  tokens = 0;
  /** Blocks that it does not have yet and nobody else may take. */
  promised = 0;
  /** Tokens that it is to have soon, stored or not: what its rows will read. */
  expected = 0;
  /** By layer group. */
  readonly tables: readonly BlockTable[];

  constructor(owner: R | null, shard: KvShard<R>, slot: Slot, firstToken: number) {
    this.owner = owner;
    this.shard = shard;
    this.slot = slot;
    this.firstToken = firstToken;
    this.tables = shard.shape.windows.map(() => ({ from: 0, blocks: [] }));
  }

  /** Blocks that it holds, shared ones too. */
  get blocks(): number {
    return this.tables.reduce((sum, { blocks }) => sum + blocks.length, 0);
  }

  /** Tokens that its sequence's rows read there, now or soon. */
  get readTokens(): number {
    return Math.max(this.tokens, this.expected);
  }

  /** Blocks that are free for others when it is gone, or only cached: those that no other sequence holds, and promised ones. */
  get ownBlocks(): number {
    let own = this.promised;
    for (const { blocks } of this.tables) for (const block of blocks) if (block.used === 1) own++;
    return own;
  }
}

/**
 * Where a sequence's KV stands: parts in the order of their tokens. A part ends where the next begins, at a block boundary of its
 * own; the one that holds a position takes its keys and values, and its rows visit those before. What is out of every window is
 * taken off the front.
 */
export class Placement<R> {
  readonly parts: KvPart<R>[];

  constructor(first: KvPart<R>) {
    this.parts = [first];
  }

  get last(): KvPart<R> {
    return this.parts.at(-1) as KvPart<R>;
  }

  get blocks(): number {
    return this.parts.reduce((sum, { blocks }) => sum + blocks, 0);
  }

  /** Parts that a row at a position of the sequence has to do with: the last of them takes its keys and values. */
  partsTo(position: number): readonly KvPart<R>[] {
    const next = this.parts.findIndex(({ firstToken }, i) => i > 0 && firstToken > position);
    return next < 0 ? this.parts : this.parts.slice(0, next);
  }

  partAt(position: number): KvPart<R> {
    return this.partsTo(position).at(-1) as KvPart<R>;
  }

  /** The position that ends the part which holds another; Infinity for the last part. */
  endOfPartAt(position: number): number {
    return this.parts[this.partsTo(position).length]?.firstToken ?? Number.POSITIVE_INFINITY;
  }
}

/** A run of rows in one part, as a step's entry. */
export interface PartRows<R> {
  readonly part: KvPart<R>;
  /** Of the part. */
  readonly position: number;
  readonly count: number;
  /** As StepEntry.visit. */
  readonly visit?: boolean;
}

export class KvShard<R> {
  /** Index of the node among the engine's sources, and of the shard at that node. */
  readonly node: number;
  readonly index: number;
  readonly shape: BlockShape;
  readonly blocks: number;
  /** Parts of sequences. */
  readonly residents = new Set<KvPart<R>>();
  #used = 0;
  #cached = 0;
  #promised = 0;

  constructor(at: { readonly node: number; readonly index: number }, shape: BlockShape, blocks: number) {
    this.node = at.node;
    this.index = at.index;
    this.shape = shape;
    this.blocks = blocks;
  }

  /** Held by sequences. */
  get usedBlocks(): number {
    return this.#used;
  }

  /** Held in case that they are of use again, by no sequence. */
  get cachedBlocks(): number {
    return this.#cached;
  }

  /** Neither held by sequences nor promised to them; what is cached gives way, and counts as free. */
  get freeBlocks(): number {
    return this.blocks - this.#used - this.#promised;
  }

  /** Free at the node itself: what is cached isn't. */
  get vacantBlocks(): number {
    return this.blocks - this.#used - this.#cached;
  }

  /** Tokens that slots of full contexts hold together. */
  get tokens(): number {
    return Math.floor(this.blocks / this.shape.windows.length) * this.shape.blockTokens;
  }

  /** Tokens that one slot can come to with so many blocks; Infinity where all layers have windows, and these fit. */
  tokensIn(blocks: number): number {
    let least = 0;
    let most = 1 + blocks;
    if (this.blocksFor(most * this.shape.blockTokens) <= blocks) return Number.POSITIVE_INFINITY;
    while (most - least > 1) {
      const middle = Math.floor((least + most) / 2);
      if (this.blocksFor(middle * this.shape.blockTokens) <= blocks) least = middle;
      else most = middle;
    }
    return least * this.shape.blockTokens;
  }

  /** Of so many tokens those that fill blocks. */
  wholeBlocks(tokens: number): number {
    return Math.floor(tokens / this.shape.blockTokens) * this.shape.blockTokens;
  }

  /**
   * Blocks of what is free that a slot needs to come to so many tokens, at most: its own, less what it shares with `from`, and of that
   * what is only cached.
   */
  blocksFor(tokens: number, from?: { readonly part: KvPart<R>; readonly tokens: number }): number {
    const { blockTokens, stepTokens, windows } = this.shape;
    const shared = from === undefined ? 0 : Math.floor(from.tokens / blockTokens);
    let needed = 0;
    for (const [group, window] of windows.entries()) {
      const most = window === 0 ? Number.POSITIVE_INFINITY : Math.ceil((window - 1 + stepTokens) / blockTokens) + 1;
      let own = Math.ceil(tokens / blockTokens) - shared;
      if (from !== undefined && from.part.owner === null) {
        const { from: first, blocks } = from.part.tables[group] as BlockTable;
        const seen = heldBlocks(window, blockTokens, from.tokens, from.tokens).from;
        for (let i = seen; i < shared; i++) if (blocks[i - first]?.used === 0) own++;
      }
      needed += Math.min(own, most);
    }
    return needed;
  }

  /** Tokens that residents' rows read at each of their steps, whatever is shared. */
  get residentTokens(): number {
    let tokens = 0;
    for (const part of this.residents) tokens += part.readTokens;
    return tokens;
  }

  /** Blocks that are vacant when what is cached of the part from token `from` on is gone. */
  vacatedBlocks(part: KvPart<R>, from: number): number {
    const first = Math.ceil(from / this.shape.blockTokens);
    let vacated = 0;
    for (const table of part.tables) {
      for (const [i, { used, cached }] of table.blocks.entries()) {
        if (table.from + i >= first && used === 0 && cached === 1) vacated++;
      }
    }
    return vacated;
  }

  open(owner: R | null, slot: Slot, firstToken = 0): KvPart<R> {
    const part = new KvPart<R>(owner, this, slot, firstToken);
    if (owner !== null) this.residents.add(part);
    return part;
  }

  /** A part that begins with another's first `tokens` tokens: whole blocks are shared, of one that is not full it gets a copy. */
  fork(owner: R | null, slot: Slot, parent: KvPart<R>, tokens: number): KvPart<R> {
    if (!this.canFork(parent, tokens)) throw new Error(`a fork of ${tokens} tokens that its parent doesn't hold`);
    const part = this.open(owner, slot, parent.firstToken);
    part.tokens = tokens;
    const { blockTokens, windows } = this.shape;
    const full = Math.floor(tokens / blockTokens);
    for (const [group, table] of part.tables.entries()) {
      const { from, to } = heldBlocks(windows[group] ?? 0, blockTokens, tokens, tokens);
      table.from = from;
      const held = parent.tables[group] as BlockTable;
      for (let i = from; i < to; i++) {
        table.blocks.push(i < full ? this.#hold(part, held.blocks[i - held.from] as KvBlock) : this.#take(part));
      }
    }
    return part;
  }

  /** Whether the part still holds what a row at position `tokens` sees. */
  canFork(parent: KvPart<R>, tokens: number): boolean {
    if (tokens > parent.tokens) return false;
    const { blockTokens, windows } = this.shape;
    return windows.every((window, group) => {
      const { from, to } = heldBlocks(window, blockTokens, tokens, tokens);
      return from === to || (parent.tables[group] as BlockTable).from <= from;
    });
  }

  /** Blocks that such a fork takes: copies of those that are not full. */
  blocksOfFork(tokens: number): number {
    return tokens % this.shape.blockTokens === 0 ? 0 : this.shape.windows.length;
  }

  /**
   * What a step at `position` that leaves the part with `tokens` does to it: blocks that it takes, and blocks that are free for other
   * sequences, or vacant, as it gives them back before.
   */
  change(part: KvPart<R>, position: number, tokens: number) {
    const { blockTokens, windows } = this.shape;
    let takes = 0;
    let frees = 0;
    let vacates = 0;
    const most = Math.max(part.tokens, tokens);
    for (const [group, { from: first, blocks }] of part.tables.entries()) {
      const { from, to } = heldBlocks(windows[group] ?? 0, blockTokens, position, most);
      takes += Math.max(0, to - Math.max(first + blocks.length, from));
      for (let i = first; i < Math.min(from, first + blocks.length); i++) {
        const { used, cached } = blocks[i - first] as KvBlock;
        if (used === 1) frees++;
        if (used === 1 && cached === 0) vacates++;
      }
    }
    return { takes, frees, vacates };
  }

  /** A step with rows at `position` to `position + count - 1` is announced. */
  announce(part: KvPart<R>, position: number, count: number): void {
    const { blockTokens, windows } = this.shape;
    const { takes, frees } = this.change(part, position, position + count);
    part.tokens = Math.max(part.tokens, position + count);
    this.#slide(part, position);
    for (const [group, table] of part.tables.entries()) {
      const { to } = heldBlocks(windows[group] ?? 0, blockTokens, position, part.tokens);
      while (table.from + table.blocks.length < to) table.blocks.push(this.#take(part));
    }
    this.promise(part, Math.max(0, part.promised - Math.max(0, takes - frees)));
  }

  /** A step whose rows at `position` and after it visit the part is announced. */
  visit(part: KvPart<R>, position: number): void {
    this.#slide(part, position);
  }

  /** Whether a row at `position`, or one after it, sees anything of the part. */
  isSeen(part: KvPart<R>, position: number): boolean {
    const { blockTokens, windows } = this.shape;
    return windows.some((window) => {
      const { from, to } = heldBlocks(window, blockTokens, position, part.tokens);
      return from < to;
    });
  }

  /** Lets go of what rows from `position` on don't see. */
  #slide(part: KvPart<R>, position: number): void {
    const { blockTokens, windows } = this.shape;
    for (const [group, table] of part.tables.entries()) {
      const { from } = heldBlocks(windows[group] ?? 0, blockTokens, position, part.tokens);
      const gone = Math.max(0, Math.min(from - table.from, table.blocks.length));
      for (const block of table.blocks.splice(0, gone)) this.#letGo(part, block);
      table.from = Math.max(table.from, from);
    }
  }

  /** Keeps so many blocks for the part. */
  promise(part: KvPart<R>, blocks: number): void {
    this.#promised += blocks - part.promised;
    part.promised = blocks;
  }

  /** Its sequence has no more use for it; it stays as something cached. */
  retire(part: KvPart<R>): void {
    this.promise(part, 0);
    this.#eachBlock(part, (block) => this.#letGo(part, block));
    this.residents.delete(part);
    part.owner = null;
    this.#eachBlock(part, (block) => this.#hold(part, block));
  }

  /** What was cached is a sequence's again. */
  adopt(part: KvPart<R>, owner: R): void {
    this.#eachBlock(part, (block) => this.#letGo(part, block));
    part.owner = owner;
    this.residents.add(part);
    this.#eachBlock(part, (block) => this.#hold(part, block));
  }

  free(part: KvPart<R>): void {
    this.promise(part, 0);
    for (const { blocks } of part.tables) for (const block of blocks.splice(0)) this.#letGo(part, block);
    this.residents.delete(part);
    part.tokens = 0;
  }

  #eachBlock(part: KvPart<R>, visit: (block: KvBlock) => void): void {
    for (const { blocks } of part.tables) blocks.forEach(visit);
  }

  #take(part: KvPart<R>): KvBlock {
    if (this.vacantBlocks < 1) throw new Error(`shard ${this.index} of node ${this.node} has no KV block left to take`);
    return this.#hold(part, { used: 0, cached: 0 });
  }

  #hold(part: KvPart<R>, block: KvBlock): KvBlock {
    if (part.owner === null) {
      if (block.used === 0 && block.cached === 0) this.#cached++;
      block.cached++;
    } else {
      if (block.used === 0) this.#used++;
      if (block.used === 0 && block.cached > 0) this.#cached--;
      block.used++;
    }
    return block;
  }

  #letGo(part: KvPart<R>, block: KvBlock): void {
    if (part.owner === null) {
      block.cached--;
      if (block.used === 0 && block.cached === 0) this.#cached--;
    } else {
      block.used--;
      if (block.used > 0) return;
      this.#used--;
      if (block.cached > 0) this.#cached++;
    }
  }
}

/** Slot indexes of one node, dense from 0, each with a generation that grows whenever it is used again. */
export class SlotTable {
  readonly #free: number[] = [];
  readonly #generations: number[] = [];

  take(): Slot {
    const index = this.#free.pop() ?? this.#generations.length;
    const generation = (this.#generations[index] ?? 0) + 1;
    this.#generations[index] = generation;
    return { index, generation };
  }

  get taken(): number {
    return this.#generations.length - this.#free.length;
  }

  giveBack(slot: Slot): void {
    this.#free.push(slot.index);
  }
}
