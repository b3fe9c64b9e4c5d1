/**
 * A KV cache in plain arrays: what each slot holds, which blocks hold it by the rule of kv-blocks.ts, who shares them, and what
 * attention over it must give, in double precision. It has no pages and knows nothing of time: whoever drives a real backend tells it the same
 * things in the same order and compares.
 */
import { heldBlocks, layerGroups } from '@glinthawk/attention';
import {
  type AttentionGeometry,
  decodeRows,
  encodeRows,
  type KvDtype,
  qkvRowFloats,
  type RowDtype,
  rowBytes,
} from '@glinthawk/core';
import { roundKv } from '../reference/attention.ts';

/** One token's K and V of all layers, as they came and as the cache gives them back. Never changed: overwriting makes a new one. */
export interface Token {
  /** [layers][(groupSize + 2) kvHeads headDim], q of no use any more. */
  readonly rows: readonly Float32Array[];
  /** [layers][kvHeads, headDim] */
  readonly keys: readonly Float64Array[];
  readonly values: readonly Float64Array[];
}

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

export interface Seen {
  readonly output: Float64Array;
  readonly logSumExp: number;
}

export class CacheModel {
  readonly geometry: AttentionGeometry;
  readonly kvDtype: KvDtype;
  readonly rowDtype: RowDtype;
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
    kvDtype: KvDtype,
    rowDtype: RowDtype,
    capacity: { readonly blockTokens: number; readonly shards: readonly { readonly blocks: number }[] },
  ) {
    this.geometry = geometry;
    this.kvDtype = kvDtype;
    this.rowDtype = rowDtype;
    this.blockTokens = capacity.blockTokens;
    this.shardBlocks = capacity.shards.map(({ blocks }) => blocks);
    this.#windows = layerGroups(geometry).map(({ window }) => window);
    this.#used = this.shardBlocks.map(() => 0);
  }

  get usedBlocks(): number {
    return this.#used.reduce((sum, used) => sum + used, 0);
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

  /** @param rows [layers][(groupSize + 2) kvHeads headDim] as they are given to a backend */
  token(rows: readonly Float32Array[]): Token {
    const { kvHeads, groupSize, headDim } = this.geometry;
    const at = groupSize * kvHeads * headDim;
    const kvFloats = kvHeads * headDim;
    const sent = rows.map((row) => this.sent(row));
    const round = (row: Float32Array, from: number) => this.#stored(row.subarray(from, from + kvFloats));
    return {
      rows,
      keys: sent.map((row) => round(row, at)),
      values: sent.map((row) => round(row, at + kvFloats)),
    };
  }

  /** A row of q, k and v as the backend gets it. */
  sent(row: Float32Array): Float32Array {
    if (this.rowDtype === 'f32') return row;
    return throughRows(this.rowDtype, row, this.geometry.headDim);
  }

  /** What query head `head` of a row at `position` sees of the tokens that are there. */
  attend(tokens: readonly Token[], layer: number, position: number, row: Float32Array, head: number): Seen {
    const { groupSize, headDim, softmaxScale, windows } = this.geometry;
    const window = windows[layer] ?? 0;
    const from = window === 0 ? 0 : Math.max(0, position + 1 - window);
    const to = Math.min(position + 1, tokens.length);
    const output = new Float64Array(headDim);
    if (from >= to) return { output, logSumExp: Number.NEGATIVE_INFINITY };
    const q = this.sent(row).subarray(head * headDim, (head + 1) * headDim);
    const at = Math.floor(head / groupSize) * headDim;
    const scores = new Float64Array(to - from);
    let largest = Number.NEGATIVE_INFINITY;
    for (let t = from; t < to; t++) {
      const key = tokens[t]?.keys[layer];
      if (key === undefined) throw new RangeError(`the model has no token ${t}`);
      let dot = 0;
      for (let d = 0; d < headDim; d++) dot += (q[d] as number) * (key[at + d] as number);
      scores[t - from] = dot * softmaxScale;
      largest = Math.max(largest, dot * softmaxScale);
    }
    let sum = 0;
    for (let t = from; t < to; t++) {
      const value = tokens[t]?.values[layer] as Float64Array;
      const weight = Math.exp((scores[t - from] as number) - largest);
      sum += weight;
      for (let d = 0; d < headDim; d++) output[d] = (output[d] as number) + weight * (value[at + d] as number);
    }
    for (let d = 0; d < headDim; d++) output[d] = (output[d] as number) / sum;
    return { output, logSumExp: largest + Math.log(sum) };
  }

  rowsOf(qkv: Float32Array): number {
    return qkv.length / qkvRowFloats(this.geometry);
  }

  /** int8 KV is rounded as int8 rows are, with a scale per token and head. */
  #stored(row: Float32Array): Float64Array {
    const { headDim } = this.geometry;
    return this.kvDtype === 'int8'
      ? Float64Array.from(throughRows('int8', row, headDim))
      : roundKv(row, this.kvDtype, headDim);
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

function throughRows(dtype: RowDtype, row: Float32Array, headDim: number): Float32Array {
  const heads = row.length / headDim;
  const bytes = new Uint8Array(rowBytes(dtype, heads, headDim));
  encodeRows(dtype, heads, headDim, row, bytes);
  const decoded = new Float32Array(row.length);
  decodeRows(dtype, heads, headDim, bytes, decoded);
  return decoded;
}
