/**
 * KV of a reference node by the contract's words (backend.ts, kv-blocks.ts) and nothing more: blocks with counts of who holds
 * them, a table per slot and layer group. Whatever was given back can't be read, and what is shared can't be written, so that wrong
 * accounting in the engine fails a test.
 */
import { heldBlocks, type LayerGroup, layerGroups, type Slot, type StepEntry } from '@glinthawk/attention';
import { type AttentionGeometry, CapacityError, InputError } from '@glinthawk/core';

type Vectors = (Float64Array | undefined)[]; // [blockTokens] of [kvHeads · headDim]

interface Block {
  holders: number;
  readonly keys: readonly Vectors[]; // [layers of the group]
  readonly values: readonly Vectors[];
}

interface HeldSlot {
  readonly generation: number;
  readonly shard: number;
  tokens: number;
  /** By layer group: its blocks, by index. */
  readonly tables: readonly Map<number, Block>[];
}

export class KvMemory {
  readonly groups: readonly LayerGroup[];
  forkedTokens = 0;
  readonly #name: string;
  readonly #blockTokens: number;
  /** By shard. */
  readonly #blocks: readonly number[];
  readonly #used: number[];
  readonly #slots = new Map<number, HeldSlot>();
  /** By layer: its group, and its place there. */
  readonly #places: readonly { readonly group: number; readonly at: number }[];

  constructor(name: string, geometry: AttentionGeometry, blockTokens: number, blocks: readonly number[]) {
    this.#name = name;
    this.#blockTokens = blockTokens;
    this.#blocks = blocks;
    this.#used = blocks.map(() => 0);
    this.groups = layerGroups(geometry);
    this.#places = Array.from({ length: geometry.layers }, (_, layer) => {
      const group = this.groups.findIndex(({ layers }) => layers.includes(layer));
      return { group, at: this.groups[group]?.layers.indexOf(layer) ?? 0 };
    });
  }

  get openSlots(): number {
    return this.#slots.size;
  }

  get usedBlocks(): number {
    return this.#used.reduce((sum, used) => sum + used, 0);
  }

  clear(): void {
    this.#slots.clear();
    this.#used.fill(0);
  }

  open(slot: Slot, shard: number): void {
    if (this.#blocks[shard] === undefined) throw new InputError('NO_SHARD', `no shard ${shard}`);
    this.#make(slot, shard);
  }

  fork(slot: Slot, parent: Slot, tokens: number): void {
    const from = this.held(parent);
    if (tokens < 1 || tokens > from.tokens) throw new InputError('FORK', `${tokens} tokens of ${from.tokens}`);
    const made = this.#make(slot, from.shard);
    made.tokens = tokens;
    this.forkedTokens += tokens;
    for (const [g, { window, layers }] of this.groups.entries()) {
      const range = heldBlocks(window, this.#blockTokens, tokens, tokens);
      for (let i = range.from; i < range.to; i++) {
        const block = from.tables[g]?.get(i);
        if (block === undefined) throw new InputError('FORK', `slot ${parent.index} gave block ${i} back`);
        const kept = tokens - i * this.#blockTokens;
        if (kept >= this.#blockTokens) {
          block.holders++;
          made.tables[g]?.set(i, block);
          continue;
        }
        const copy = this.#take(made.shard, layers.length);
        for (let at = 0; at < layers.length; at++) {
          copy.keys[at]?.push(...(block.keys[at] ?? []).slice(0, kept));
          copy.values[at]?.push(...(block.values[at] ?? []).slice(0, kept));
        }
        made.tables[g]?.set(i, copy);
      }
    }
  }

  free(slot: Slot): void {
    const held = this.#slots.get(slot.index);
    if (held === undefined || held.generation !== slot.generation) return;
    this.#slots.delete(slot.index);
    for (const table of held.tables) for (const block of table.values()) this.#letGo(held.shard, block);
  }

  /**
   * All entries give back what falls out of their windows, then they take what their new tokens need; rows that only visit need nothing.
   * @throws CapacityError
   */
  announce(entries: readonly StepEntry[]): void {
    for (const entry of entries) this.#slide(entry);
    for (const { slot, position, count, visit = false } of entries) {
      if (!visit) this.#grow(this.held(slot), position + count);
    }
  }

  #slide({ slot, position, visit = false }: StepEntry): void {
    const { shard, tables, tokens } = this.held(slot);
    if (visit && position < tokens) throw new InputError('VISIT', `a visit at ${position} of ${tokens} tokens`);
    if (!visit && position > tokens) throw new InputError('GAP', `position ${position} follows ${tokens} tokens`);
    for (const [g, table] of tables.entries()) {
      const { from } = heldBlocks(this.groups[g]?.window ?? 0, this.#blockTokens, position, tokens);
      for (const [i, block] of table) {
        if (i >= from) continue;
        this.#letGo(shard, block);
        table.delete(i);
      }
    }
  }

  #grow(held: HeldSlot, tokens: number): void {
    const first = Math.ceil(held.tokens / this.#blockTokens);
    held.tokens = Math.max(held.tokens, tokens);
    for (const [g, table] of held.tables.entries()) {
      for (let i = first; i < Math.ceil(held.tokens / this.#blockTokens); i++) {
        table.set(i, this.#take(held.shard, this.groups[g]?.layers.length ?? 0));
      }
    }
  }

  held(slot: Slot): HeldSlot {
    const held = this.#slots.get(slot.index);
    if (held === undefined || held.generation !== slot.generation) {
      throw new InputError('NO_SLOT', `slot ${slot.index}.${slot.generation} isn't open`);
    }
    return held;
  }

  store(slot: Slot, layer: number, position: number, key: Float64Array, value: Float64Array): void {
    const { block, at } = this.#find(slot, layer, position);
    if (block.holders > 1) throw new Error(`position ${position} of slot ${slot.index} is written, and it is shared`);
    const token = position % this.#blockTokens;
    (block.keys[at] as Vectors)[token] = key;
    (block.values[at] as Vectors)[token] = value;
  }

  /** Keys and values of tokens `from` to `to` - 1. */
  see(slot: Slot, layer: number, from: number, to: number): { keys: Float64Array[]; values: Float64Array[] } {
    const keys: Float64Array[] = [];
    const values: Float64Array[] = [];
    for (let position = from; position < to; position++) {
      const { block, at } = this.#find(slot, layer, position);
      const key = block.keys[at]?.[position % this.#blockTokens];
      const value = block.values[at]?.[position % this.#blockTokens];
      if (key === undefined || value === undefined) throw new InputError('GAP', `nothing stands at ${position}`);
      keys.push(key);
      values.push(value);
    }
    return { keys, values };
  }

  #find(slot: Slot, layer: number, position: number): { readonly block: Block; readonly at: number } {
    const { group, at } = this.#places[layer] as { group: number; at: number };
    const block = this.held(slot).tables[group]?.get(Math.floor(position / this.#blockTokens));
    if (block === undefined) throw new InputError('GAP', `slot ${slot.index} holds no block for ${position}`);
    return { block, at };
  }

  #make(slot: Slot, shard: number): HeldSlot {
    if (this.#slots.has(slot.index)) throw new InputError('SLOT_TAKEN', `slot ${slot.index} is open`);
    const { generation } = slot;
    const made: HeldSlot = { generation, shard, tokens: 0, tables: this.groups.map(() => new Map<number, Block>()) };
    this.#slots.set(slot.index, made);
    return made;
  }

  #take(shard: number, layers: number): Block {
    const blocks = this.#blocks[shard] ?? 0;
    if ((this.#used[shard] ?? 0) >= blocks) {
      throw new CapacityError('KV_FULL', `shard ${shard} of ${this.#name} has ${blocks} blocks`);
    }
    this.#used[shard] = (this.#used[shard] ?? 0) + 1;
    const empty = () => Array.from({ length: layers }, () => []);
    return { holders: 1, keys: empty(), values: empty() };
  }

  #letGo(shard: number, block: Block): void {
    block.holders--;
    if (block.holders === 0) this.#used[shard] = (this.#used[shard] ?? 0) - 1;
  }
}
