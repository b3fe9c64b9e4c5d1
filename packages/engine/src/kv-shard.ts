/**
 * The engine's account of KV blocks, which is the authoritative one: a shard is one worker's memory at one attention node, a
 * placement is what one sequence holds of it. A placement always covers the tokens whose KV is or is about to be written:
 * blocks = ceil(tokens / blockTokens).
 */
import type { Slot } from '@glinthawk/attention';

export class KvShard<R> {
  /** Index of the node among the engine's sources, and of the shard at that node. */
  readonly node: number;
  readonly index: number;
  readonly blockTokens: number;
  readonly blocks: number;
  readonly residents = new Set<R>();
  #freeBlocks: number;

  constructor(at: { readonly node: number; readonly index: number }, blockTokens: number, blocks: number) {
    this.node = at.node;
    this.index = at.index;
    this.blockTokens = blockTokens;
    this.blocks = blocks;
    this.#freeBlocks = blocks;
  }

  get freeBlocks(): number {
    return this.#freeBlocks;
  }

  get usedBlocks(): number {
    return this.blocks - this.#freeBlocks;
  }

  get tokens(): number {
    return this.blocks * this.blockTokens;
  }

  blocksFor(tokens: number): number {
    return Math.ceil(tokens / this.blockTokens);
  }

  take(resident: R, slot: Slot, tokens: number): Placement<R> {
    const placement: Placement<R> = { shard: this, slot, blocks: 0 };
    this.residents.add(resident);
    this.grow(placement, this.blocksFor(tokens));
    return placement;
  }

  grow(placement: Placement<R>, blocks: number): void {
    if (blocks > this.#freeBlocks) throw new Error(`${blocks} KV blocks taken, ${this.#freeBlocks} free`);
    this.#freeBlocks -= blocks;
    placement.blocks += blocks;
  }

  giveBack(resident: R, placement: Placement<R>): void {
    if (!this.residents.delete(resident)) throw new Error('KV blocks given back twice');
    this.#freeBlocks += placement.blocks;
    placement.blocks = 0;
  }
}

export interface Placement<R> {
  readonly shard: KvShard<R>;
  readonly slot: Slot;
  blocks: number;
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
