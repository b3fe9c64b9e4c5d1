/**
 * The blocks of one slot, by layer group, and its block tables, which the kernels read. What it holds is always what heldBlocks
 * says. It changes nothing that it was not told to: whether there is room, and whether anything still reads what is given back,
 * its owner knows.
 */
import { allOf } from './block-pool.ts';
import { heldBlocks, type LayerGroup } from './kv-blocks.ts';
import { slotTableBytes } from './kv-token-bytes.ts';
import type { Shard } from './shard.ts';

/** What all slots of a backend have in common. */
export interface SlotShape {
  readonly groups: readonly LayerGroup[];
  readonly blockTokens: number;
  /** Entries of a block table. */
  readonly tableBlocks: number;
}

interface GroupBlocks {
  readonly window: number;
  /** Index of the first block held: what is before it left every window. */
  from: number;
  readonly blocks: number[];
}

/** A block that is to get what another holds. */
export interface BlockCopy {
  readonly source: number; // of WasmHeap.block
  readonly target: number;
}

export class SlotBlocks {
  /** Address of the block tables. What is outside of the held range is stale. */
  readonly tables: number;
  readonly #shard: Shard;
  readonly #shape: SlotShape;
  readonly #groups: readonly GroupBlocks[];
  #tokens = 0;

  /** @throws CapacityError when there is no room for its tables */
  constructor(shard: Shard, shape: SlotShape) {
    this.#shard = shard;
    this.#shape = shape;
    this.tables = shard.heap.allocate(slotTableBytes(shape.groups.length, shape.tableBlocks));
    this.#groups = shape.groups.map(({ window }) => ({ window, from: 0, blocks: [] }));
  }

  /** Stored or about to be. */
  get tokens(): number {
    return this.#tokens;
  }

  /** Whether it still holds all of the first `tokens` tokens that a row at `position` sees. */
  holds(position: number, tokens: number): boolean {
    return this.#groups.every((group) => {
      const { from, to } = heldBlocks(group.window, this.#shape.blockTokens, position, tokens);
      return from === to || group.from <= from;
    });
  }

  /** Whether somebody else has a part of what would be written from `position` on. */
  sharesFrom(position: number): boolean {
    const first = Math.floor(position / this.#shape.blockTokens);
    return this.#groups.some(({ from, blocks }) => {
      for (let i = Math.max(0, first - from); i < blocks.length; i++) {
        if (this.#shard.pool.holders(blocks[i] as number) > 1) return true;
      }
      return false;
    });
  }

  /** How many blocks `grow` would take. */
  missing(tokens: number): number {
    const { blockTokens } = this.#shape;
    const more = Math.ceil(tokens / blockTokens) - Math.ceil(this.#tokens / blockTokens);
    return Math.max(0, more) * this.#groups.length;
  }

  /** Gives back what a row at `position`, and whatever follows it, doesn't see. @param until what still reads it has settled */
  slide(position: number, until: Promise<void> | null): void {
    for (const group of this.#groups) {
      const { from } = heldBlocks(group.window, this.#shape.blockTokens, position, this.#tokens);
      if (from <= group.from) continue;
      for (const block of group.blocks.splice(0, from - group.from)) this.#shard.pool.giveBack(block, until);
      group.from = from;
    }
  }

  /**
   * Takes blocks up to `tokens`, or none at all.
   * @param waits gets what must settle before they are written
   * @throws CapacityError when memory can't grow
   */
  grow(tokens: number, waits: Set<Promise<void>>): void {
    const each = this.missing(tokens) / this.#groups.length;
    try {
      for (const [index, group] of this.#groups.entries()) {
        for (let i = 0; i < each; i++) this.#append(index, group, this.#take(group, waits));
      }
    } catch (error) {
      this.shrink(this.#tokens, allOf(waits));
      throw error;
    }
    this.#tokens = Math.max(this.#tokens, tokens);
  }

  /** Undoes `grow`. @param tokens that there were before @param until what grow said to wait for has settled */
  shrink(tokens: number, until: Promise<void> | null): void {
    this.#tokens = tokens;
    const to = Math.ceil(tokens / this.#shape.blockTokens);
    for (const { from, blocks } of this.#groups) {
      for (const block of blocks.splice(Math.max(0, to - from))) this.#shard.pool.giveBack(block, until);
    }
  }

  /** How many blocks a fork would take: a copy of one that is not full, in every group. */
  missingForFork(tokens: number): number {
    return tokens % this.#shape.blockTokens === 0 ? 0 : this.#groups.length;
  }

  /**
   * A slot that shares the whole blocks of the first `tokens` tokens, and what is to be copied into its own last ones.
   * @param waits gets what must settle before that may be done
   * @throws CapacityError when there is no room for its tables, or memory can't grow
   */
  fork(
    tokens: number,
    waits: Set<Promise<void>>,
  ): { readonly blocks: SlotBlocks; readonly copies: readonly BlockCopy[] } {
    const { blockTokens } = this.#shape;
    const { heap, pool } = this.#shard;
    const child = new SlotBlocks(this.#shard, this.#shape);
    const whole = Math.floor(tokens / blockTokens);
    const copies: BlockCopy[] = [];
    try {
      for (const [index, group] of child.#groups.entries()) {
        const parent = this.#groups[index] as GroupBlocks;
        const { from, to } = heldBlocks(group.window, blockTokens, tokens, tokens);
        group.from = from;
        for (let i = from; i < to; i++) {
          const block = parent.blocks[i - parent.from] as number;
          if (i < whole) {
            pool.share(block);
            child.#append(index, group, block);
          } else {
            const own = child.#take(group, waits);
            child.#append(index, group, own);
            copies.push({ source: heap.block(block), target: heap.block(own) });
          }
        }
      }
    } catch (error) {
      child.release(allOf(waits));
      throw error;
    }
    child.#tokens = tokens;
    return { blocks: child, copies };
  }

  /** Gives back all, and the tables. @param until what still reads them has settled */
  release(until: Promise<void> | null): void {
    const { groups, tableBlocks } = this.#shape;
    const { heap, pool } = this.#shard;
    for (const { blocks } of this.#groups) {
      for (const block of blocks.splice(0)) pool.giveBack(block, until);
    }
    const bytes = slotTableBytes(groups.length, tableBlocks);
    if (until === null) heap.release(this.tables, bytes);
    else until.then(() => heap.release(this.tables, bytes));
  }

  #take(group: GroupBlocks, waits: Set<Promise<void>>): number {
    return this.#shard.pool.take(waits, { index: group.from + group.blocks.length, after: group.blocks.at(-1) });
  }

  #append(index: number, group: GroupBlocks, block: number): void {
    const { heap } = this.#shard;
    const at = group.from + group.blocks.length;
    group.blocks.push(block); // before the address, which may fail: then it is given back with the others
    const address = heap.block(block);
    heap.u32[this.tables / 4 + index * this.#shape.tableBlocks + at] = address;
  }
}
