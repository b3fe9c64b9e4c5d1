/**
 * What each slot of a KV cache holds: its tokens, the blocks that hold them by the rule of kv-blocks.ts, and who shares those. It has no pages
 * and knows nothing of time: whoever drives a real backend tells it the same things in the same order and compares.
 */
import { heldBlocks, layerGroups } from '@glinthawk/attention';
import type { AttentionGeometry } from '@glinthawk/core';
import type { Token } from './token-rows.ts';

export interface ModelSlot {
  readonly index: number;
  readonly generation: number;
  readonly shard: number;
  readonly tokens: Token[];
  /** Of the latest announced row: what lies before every window of it is gone, so the next one isn't earlier. */
  position: number;
  /** KV below it is whole; from there on a step must run (again). */
  valid: number;
  /** Blocks below it are shared: nothing is written there. */
  floor: number;
  /** It is visited beyond its end: nothing can be appended where windows have moved on. */
  ended: boolean;
  isBusy: boolean;
  isFreed: boolean;
  /** Tokens that a sequence had before it was preempted, to be written again. */
  readonly lost: Token[];
  /** By layer group: number of the block at each index, or undefined. */
  readonly blocks: (number | undefined)[][];
}

export class CacheModel {
  readonly geometry: AttentionGeometry;
  readonly blockTokens: number;
  readonly shardBlocks: readonly number[];
  readonly slots = new Map<number, ModelSlot>();
  readonly #windows: readonly number[]; // by layer group
  readonly #generations = new Map<number, number>();
  /** How many slots hold a block. */
  readonly #holders = new Map<number, number>();
  readonly #used: number[]; // by shard
  #nextBlock = 0;

  constructor(
    geometry: AttentionGeometry,
    capacity: { readonly blockTokens: number; readonly shards: readonly { readonly blocks: number }[] },
  ) {
    this.geometry = geometry;
    this.blockTokens = capacity.blockTokens;
    this.shardBlocks = capacity.shards.map(({ blocks }) => blocks);
    this.#windows = layerGroups(geometry).map(({ window }) => window);
    this.#used = this.shardBlocks.map(() => 0);
  }

  get usedBlocks(): number {
    return this.#used.reduce((sum, used) => sum + used, 0);
  }

  get blocks(): number {
    return this.shardBlocks.reduce((sum, blocks) => sum + blocks, 0);
  }

  get groups(): number {
    return this.#windows.length;
  }

  free(shard: number): number {
    return (this.shardBlocks[shard] ?? 0) - (this.#used[shard] ?? 0);
  }

  open(index: number, shard: number, lost: readonly Token[] = []): ModelSlot {
    const generation = (this.#generations.get(index) ?? -1) + 1;
    this.#generations.set(index, generation);
    const slot: ModelSlot = {
      index,
      generation,
      shard,
      tokens: [],
      position: 0,
      valid: 0,
      floor: 0,
      ended: false,
      isBusy: false,
      isFreed: false,
      lost: [...lost],
      blocks: this.#windows.map(() => []),
    };
    this.slots.set(index, slot);
    return slot;
  }

  close(slot: ModelSlot): void {
    slot.isFreed = true;
    this.slots.delete(slot.index);
    for (const blocks of slot.blocks) {
      for (const block of blocks) if (block !== undefined) this.#giveBack(slot.shard, block);
      blocks.length = 0;
    }
  }

  /** Blocks that announcing rows at `position` up to `tokens` takes in the slot's shard, what it gives back counted against. */
  growth(slot: ModelSlot, position: number, tokens: number): number {
    let growth = 0;
    for (const [group, window] of this.#windows.entries()) {
      const { from, to } = heldBlocks(window, this.blockTokens, position, Math.max(tokens, slot.tokens.length));
      const blocks = slot.blocks[group] ?? [];
      for (let i = from; i < to; i++) if (blocks[i] === undefined) growth++;
      for (let i = 0; i < Math.min(from, blocks.length); i++) {
        const block = blocks[i];
        if (block !== undefined && this.#holders.get(block) === 1) growth--;
      }
    }
    return growth;
  }

  /** Gives back what is before every window of `position`. Also what a step that fails for want of blocks does. */
  leaveBehind(slot: ModelSlot, position: number): void {
    slot.position = Math.max(slot.position, position);
    for (const [group, window] of this.#windows.entries()) {
      const blocks = slot.blocks[group] ?? [];
      const { from } = heldBlocks(window, this.blockTokens, position, Number.MAX_SAFE_INTEGER);
      for (let i = 0; i < Math.min(from, blocks.length); i++) {
        const block = blocks[i];
        if (block === undefined) continue;
        blocks[i] = undefined;
        this.#giveBack(slot.shard, block);
      }
    }
  }

  /** A step with rows of this slot is announced. */
  append(slot: ModelSlot, position: number, tokens: readonly Token[]): void {
    this.leaveBehind(slot, position);
    slot.tokens.splice(position, tokens.length, ...tokens);
    for (const [group, window] of this.#windows.entries()) {
      const blocks = slot.blocks[group] ?? [];
      const { from, to } = heldBlocks(window, this.blockTokens, position, slot.tokens.length);
      for (let i = from; i < to; i++) blocks[i] ??= this.#take(slot.shard);
    }
  }

  /** Whether the parent still has what a slot of its first `tokens` tokens needs. */
  canFork(parent: ModelSlot, tokens: number): boolean {
    return this.#windows.every((window, group) => {
      const { from, to } = heldBlocks(window, this.blockTokens, tokens, tokens);
      for (let i = from; i < to; i++) if (parent.blocks[group]?.[i] === undefined) return false;
      return true;
    });
  }

  /** Blocks that a fork copies: those that are not full. */
  forkGrowth(tokens: number): number {
    return tokens % this.blockTokens === 0 ? 0 : this.#windows.length;
  }

  fork(index: number, parent: ModelSlot, tokens: number): ModelSlot {
    const slot = this.open(index, parent.shard);
    slot.tokens.push(...parent.tokens.slice(0, tokens));
    slot.valid = tokens;
    slot.position = tokens;
    const whole = Math.floor(tokens / this.blockTokens);
    for (const [group, window] of this.#windows.entries()) {
      const { from, to } = heldBlocks(window, this.blockTokens, tokens, tokens);
      const blocks = slot.blocks[group] ?? [];
      for (let i = from; i < to; i++) {
        const block = i < whole ? parent.blocks[group]?.[i] : undefined;
        if (block !== undefined) this.#holders.set(block, (this.#holders.get(block) ?? 0) + 1);
        blocks[i] = block ?? this.#take(slot.shard);
      }
    }
    slot.floor = whole * this.blockTokens;
    parent.floor = Math.max(parent.floor, slot.floor);
    return slot;
  }

  #take(shard: number): number {
    const block = this.#nextBlock++;
    this.#holders.set(block, 1);
    this.#used[shard] = (this.#used[shard] ?? 0) + 1;
    return block;
  }

  #giveBack(shard: number, block: number): void {
    const holders = (this.#holders.get(block) ?? 0) - 1;
    if (holders > 0) {
      this.#holders.set(block, holders);
      return;
    }
    this.#holders.delete(block);
    this.#used[shard] = (this.#used[shard] ?? 0) - 1;
  }
}
