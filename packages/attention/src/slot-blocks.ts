/**
 * The blocks of one slot, by layer group, and its block tables, which the kernels read. What it holds is always what heldBlocks
 * says. It changes nothing that it was not told to: whether there is room, and whether anything still reads what is given back,
 * its owner knows. A run is the blocks of a slot that could fill a frame: those from a multiple of frameBlocks on.
 */
import { CapacityError } from '@glinthawk/core';
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
  /** Index of the first block of each whole run that isn't a frame. */
  readonly apart: number[];
}

/** A block that is to get what another holds. */
export interface BlockCopy {
  readonly source: number; // of WasmHeap.block
  readonly target: number;
}

/** Moves what blocks hold, by number. */
export interface BlockMover {
  copy(source: number, target: number): void;
  swap(one: number, other: number): void;
  /** Whether nothing touches its blocks, nor may till it is in a step. */
  isIdle(slot: SlotBlocks): boolean;
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
    this.#groups = shape.groups.map(({ window }) => ({ window, from: 0, blocks: [], apart: [] }));
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
      keepWhere(group.apart, (first) => first >= from);
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
        for (let left = each; left > 0; ) {
          const blocks = this.#take(group, left, waits);
          this.#append(index, group, blocks);
          left -= blocks.length;
        }
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
    for (const { from, blocks, apart } of this.#groups) {
      for (const block of blocks.splice(Math.max(0, to - from))) this.#shard.pool.giveBack(block, until);
      keepWhere(apart, (first) => first + this.#shard.pool.frameBlocks <= to);
    }
  }

  /**
   * Gives whole runs that lie apart frames of their own: such as are free, or else the one that has most of the run, whose other
   * blocks change places with the run's. Not what others share. Only while nothing touches the slot's blocks.
   * @param most blocks to move, about
   * @param until what its latest `grow` said to wait for has settled; then it changes places with nobody
   * @returns how many were moved
   */
  gather(most: number, until: Promise<void> | null, mover: BlockMover): number {
    const { pool } = this.#shard;
    let moved = 0;
    for (const [index, group] of this.#groups.entries()) {
      keepWhere(group.apart, (first) => {
        const run = group.blocks.slice(first - group.from, first - group.from + pool.frameBlocks);
        if (moved >= most || run.some((block) => pool.holders(block) > 1)) return true;
        const frame = this.#takeFrame();
        if (frame === undefined) {
          const changed = until === null ? this.#changePlaces(index, group, first, run, mover) : 0;
          moved += changed;
          return changed === 0;
        }
        for (const [i, block] of run.entries()) {
          mover.copy(block, frame + i);
          this.#set(index, group, first + i, frame + i);
          pool.giveBack(block, until);
        }
        moved += run.length;
        return false;
      });
    }
    return moved;
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
            child.#append(index, group, [block]);
          } else {
            const own = child.#take(group, 1, waits);
            child.#append(index, group, own);
            copies.push({ source: heap.block(block), target: heap.block(own[0] as number) });
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

  /** @param run its blocks @returns how many blocks were moved; 0 where somebody in each of their frames can't be */
  #changePlaces(index: number, group: GroupBlocks, first: number, run: readonly number[], mover: BlockMover): number {
    const { owners, pool } = this.#shard;
    const each = pool.frameBlocks;
    const frameOf = (block: number) => block - (block % each);
    const share = (frame: number) => run.filter((block) => frameOf(block) === frame).length;
    const frames = [...new Set(run.map(frameOf))].sort((a, b) => share(b) - share(a));
    const mayMove = (block: number) => {
      if (run.includes(block) || pool.isFree(block)) return true;
      const owner = owners[block];
      return owner !== undefined && pool.holders(block) === 1 && owner.#place(block) !== null && mover.isIdle(owner);
    };
    const target = frames.find((frame) => Array.from({ length: each }, (_, i) => frame + i).every(mayMove));
    if (target === undefined) return 0;
    let moved = 0;
    for (let i = 0; i < each; i++) {
      const to = target + i;
      const from = group.blocks[first - group.from + i] as number;
      if (from === to) continue;
      moved++;
      if (pool.take(to)) {
        mover.copy(from, to);
        pool.giveBack(from);
      } else {
        mover.swap(from, to);
        // What was forked of a slot that is gone has that as its owner still.
        const owner = this.#place(to) === null ? (owners[to] as SlotBlocks) : this;
        const place = owner.#place(to);
        if (place === null) throw new Error(`nobody has block ${to}, which was to be moved`);
        owner.#set(place.index, place.group, place.at, from);
        moved++;
      }
      this.#set(index, group, first + i, to);
    }
    return moved;
  }

  /** Where the slot has a block. */
  #place(block: number): { readonly index: number; readonly group: GroupBlocks; readonly at: number } | null {
    for (const [index, group] of this.#groups.entries()) {
      const i = group.blocks.indexOf(block);
      if (i >= 0) return { index, group, at: group.from + i };
    }
    return null;
  }

  /** Undefined also where memory can't grow: whoever needs more than another order of blocks is told. */
  #takeFrame(): number | undefined {
    const { heap, pool } = this.#shard;
    const frame = pool.takeFrame();
    if (frame === undefined) return undefined;
    try {
      heap.block(frame);
      return frame;
    } catch (error) {
      if (!(error instanceof CapacityError)) throw error;
      for (let i = 0; i < pool.frameBlocks; i++) pool.giveBack(frame + i);
      return undefined;
    }
  }

  /** The next blocks of a group, up to `most`: a frame where they are a whole run, else one. */
  #take(group: GroupBlocks, most: number, waits: Set<Promise<void>>): readonly number[] {
    const { pool } = this.#shard;
    const place = (group.from + group.blocks.length) % pool.frameBlocks;
    if (place === 0 && most >= pool.frameBlocks) {
      const frame = pool.takeFrame();
      if (frame !== undefined) return Array.from({ length: pool.frameBlocks }, (_, i) => frame + i);
    }
    const last = group.blocks.at(-1);
    const neighbour = last !== undefined && last % pool.frameBlocks === place - 1 ? pool.takeNext(last) : undefined;
    return [neighbour ?? pool.beginFrame(place) ?? pool.takeLone(waits)];
  }

  #append(index: number, group: GroupBlocks, blocks: readonly number[]): void {
    const { owners, pool } = this.#shard;
    const { frameBlocks } = pool;
    const at = group.from + group.blocks.length;
    for (const block of blocks) if (pool.holders(block) === 1) owners[block] = this;
    group.blocks.push(...blocks); // before their addresses, which may fail: then they are given back with the others
    for (const [i, block] of blocks.entries()) this.#point(index, at + i, block);
    const end = at + blocks.length;
    if (end % frameBlocks !== 0 || end - frameBlocks < group.from) return;
    const run = group.blocks.slice(-frameBlocks);
    const first = run[0] as number;
    if (first % frameBlocks !== 0 || run.some((block, i) => block !== first + i)) group.apart.push(end - frameBlocks);
  }

  /** Has another block in place of one that it has. */
  #set(index: number, group: GroupBlocks, at: number, block: number): void {
    group.blocks[at - group.from] = block;
    this.#shard.owners[block] = this;
    this.#point(index, at, block);
  }

  /** @throws CapacityError when memory can't grow */
  #point(index: number, at: number, block: number): void {
    const { heap } = this.#shard;
    const address = heap.block(block);
    heap.u32[this.tables / 4 + index * this.#shape.tableBlocks + at] = address;
  }
}

/** Removes those that are not to be kept. */
function keepWhere(runs: number[], keep: (first: number) => boolean): void {
  for (let i = runs.length - 1; i >= 0; i--) if (!keep(runs[i] as number)) runs.splice(i, 1);
}
