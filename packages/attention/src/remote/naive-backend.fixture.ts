/**
 * The attention tier written as plainly as it can be: f32 KV in arrays, one softmax after another, no pages. It is what the
 * tests of this folder serve and compare with; nothing else uses it.
 */
import {
  type AttentionGeometry,
  CapacityError,
  decodeRows,
  encodeRows,
  type KvDtype,
  layerGroups,
  NodeLostError,
  outputRowBytes,
  outputRowFloats,
  qkvRowBytes,
  qkvRowFloats,
  type RowDtype,
} from '@glinthawk/core';
import type {
  AttentionCapacity,
  AttentionStats,
  AttentionStep,
  Slot,
  StagedAttention,
  StagedRows,
} from '../backend.ts';
import { heldBlocks } from '../kv-blocks.ts';

export interface NaiveBackendOptions {
  readonly blocks?: number;
  readonly shards?: number;
  readonly rowDtype?: RowDtype;
  /** What a page without shared memory has. */
  readonly unshared?: boolean;
  /** Called before each attend; may wait or throw. */
  readonly before?: (stepId: number, layer: number) => void | Promise<void>;
  /** May change what is answered. */
  readonly after?: (output: Float32Array, logSumExp: Float32Array | undefined) => unknown;
}

interface NaiveSlot {
  readonly generation: number;
  readonly keys: Map<string, Float32Array>; // `${layer}:${position}` → [kvHeads, headDim]
  readonly values: Map<string, Float32Array>;
  /** Of each layer group, by block index; one that is shared is the same object in each slot. */
  readonly blocks: readonly Map<number, object>[];
  tokens: number;
}

interface Staging {
  readonly rows: number;
  readonly qkv: Uint8Array;
  readonly output: Uint8Array;
}

const BLOCK_TOKENS = 16;

export class NaiveBackend implements StagedAttention {
  readonly name = 'naive';
  readonly geometry: AttentionGeometry;
  readonly kvDtype: KvDtype;
  readonly rowDtype: RowDtype;
  readonly capacity: AttentionCapacity;
  readonly lost: Promise<NodeLostError>;
  readonly slots = new Map<number, NaiveSlot>();
  readonly steps = new Map<number, AttentionStep>();
  readonly fail: (error: NodeLostError) => void;
  closed = false;
  attends = 0;
  readonly #windows: readonly number[];
  readonly #staging = new Map<number, Staging>();
  #appendedTokens = 0;
  #forkedTokens = 0;
  readonly #options: NaiveBackendOptions;

  constructor(geometry: AttentionGeometry, kvDtype: KvDtype, options: NaiveBackendOptions = {}) {
    this.geometry = geometry;
    this.kvDtype = kvDtype;
    this.rowDtype = options.rowDtype ?? 'f32';
    this.#options = options;
    const groups = layerGroups(geometry);
    this.#windows = groups.map(({ window }) => window);
    const { layers, kvHeads, headDim } = geometry;
    const blockBytes = BLOCK_TOKENS * (layers / groups.length) * kvHeads * headDim * 2 * 4;
    const shards = Array.from({ length: options.shards ?? 1 }, () => ({ blocks: options.blocks ?? 64 }));
    this.capacity = { blockTokens: BLOCK_TOKENS, blockBytes, shards, workers: 2 };
    const { promise, resolve } = Promise.withResolvers<NodeLostError>();
    this.lost = promise;
    this.fail = resolve;
  }

  open(slot: Slot, shard: number): void {
    if (shard >= this.capacity.shards.length) throw new CapacityError('BAD_SHARD', `no shard ${shard}`);
    const blocks = this.#windows.map(() => new Map<number, object>());
    const { generation } = slot;
    this.slots.set(slot.index, { generation, keys: new Map(), values: new Map(), blocks, tokens: 0 });
  }

  fork(slot: Slot, parent: Slot, tokens: number): void {
    const from = this.#slot(parent);
    const whole = Math.floor(tokens / BLOCK_TOKENS);
    const blocks = this.#windows.map((window, group) => {
      const range = heldBlocks(window, BLOCK_TOKENS, tokens, tokens);
      const own = new Map<number, object>();
      for (let i = range.from; i < range.to; i++) own.set(i, (i < whole && from.blocks[group]?.get(i)) || {});
      return own;
    });
    const { generation } = slot;
    this.slots.set(slot.index, { generation, keys: new Map(from.keys), values: new Map(from.values), blocks, tokens });
    this.#forkedTokens += tokens;
  }

  free(slot: Slot): void {
    if (this.slots.get(slot.index)?.generation === slot.generation) this.slots.delete(slot.index);
  }

  announce(step: AttentionStep): void {
    this.steps.set(step.id, step);
  }

  retire(stepId: number): void {
    this.steps.delete(stepId);
    this.#staging.delete(stepId);
  }

  staged(stepId: number): StagedRows {
    const { qkv, output } = this.#stagingOf(stepId);
    // In two pieces each, as a step's parts in two shards have.
    const pieces = (all: Uint8Array) => [all.subarray(0, 4), all.subarray(4)];
    return { qkv: pieces(qkv), output: pieces(output) };
  }

  #stagingOf(stepId: number): Staging {
    const present = this.#staging.get(stepId);
    if (present !== undefined) return present;
    const rows = (this.steps.get(stepId)?.entries ?? []).reduce((sum, { count }) => sum + count, 0);
    const { unshared = false } = this.#options;
    const bytes = (count: number) => new Uint8Array(unshared ? new ArrayBuffer(count) : new SharedArrayBuffer(count));
    const made: Staging = {
      rows,
      qkv: bytes(rows * qkvRowBytes(this.geometry, this.rowDtype)),
      output: bytes(rows * outputRowBytes(this.geometry, this.rowDtype)),
    };
    this.#staging.set(stepId, made);
    return made;
  }

  async attendStaged(stepId: number, layer: number, logSumExp?: Float32Array): Promise<void> {
    const staging = this.#stagingOf(stepId);
    const { kvHeads, groupSize, headDim } = this.geometry;
    const heads = kvHeads * groupSize;
    const qkv = new Float32Array(staging.rows * qkvRowFloats(this.geometry));
    decodeRows(this.rowDtype, heads + 2 * kvHeads, headDim, staging.qkv, qkv);
    const output = new Float32Array(staging.rows * outputRowFloats(this.geometry));
    await this.attend(stepId, layer, qkv, output, logSumExp);
    encodeRows(this.rowDtype, heads, headDim, output, staging.output);
    if (!this.#options.unshared) return;
    // Memory that grows ends the views that were had before.
    const moved = (all: Uint8Array) => new Uint8Array((all.buffer as ArrayBuffer).transfer());
    this.#staging.set(stepId, { rows: staging.rows, qkv: moved(staging.qkv), output: moved(staging.output) });
  }

  async attend(
    stepId: number,
    layer: number,
    qkv: Float32Array, // [rows, (groupSize + 2) kvHeads headDim]
    output: Float32Array, // [rows, groupSize kvHeads headDim]
    logSumExp?: Float32Array, // [rows, groupSize kvHeads]
  ): Promise<void> {
    const step = this.steps.get(stepId);
    await this.#options.before?.(stepId, layer);
    if (this.closed) throw new NodeLostError(this.name, 'closed');
    if (step === undefined) throw new Error(`step ${stepId} was not announced`);
    this.attends++;
    const { kvHeads, groupSize, headDim } = this.geometry;
    const heads = kvHeads * groupSize;
    const rowFloats = qkvRowFloats(this.geometry);
    let row = 0;
    for (const { slot, position, count, visit = false } of step.entries) {
      const kv = this.#slot(slot);
      if (!visit) this.#reserve(kv, position, position + count);
      for (let i = 0; i < count; i++, row++) {
        const q = qkv.subarray(row * rowFloats, row * rowFloats + heads * headDim);
        const k = qkv.slice(row * rowFloats + heads * headDim, row * rowFloats + (heads + kvHeads) * headDim);
        const v = qkv.slice(row * rowFloats + (heads + kvHeads) * headDim, (row + 1) * rowFloats);
        if (!visit) kv.keys.set(`${layer}:${position + i}`, k);
        if (!visit) kv.values.set(`${layer}:${position + i}`, v);
        for (let head = 0; head < heads; head++) {
          const o = output.subarray(row * outputRowFloats(this.geometry) + head * headDim).subarray(0, headDim);
          const lse = this.#attendHead(
            kv,
            layer,
            position + i,
            q.subarray(head * headDim, (head + 1) * headDim),
            head,
            o,
          );
          if (logSumExp !== undefined) logSumExp[row * heads + head] = lse;
        }
      }
    }
    this.#options.after?.(output, logSumExp);
  }

  #attendHead(kv: NaiveSlot, layer: number, position: number, q: Float32Array, head: number, o: Float32Array): number {
    const { groupSize, headDim, softmaxScale, windows } = this.geometry;
    const window = windows[layer] ?? 0;
    const first = window === 0 ? 0 : Math.max(0, position + 1 - window);
    const at = Math.floor(head / groupSize) * headDim;
    const weights: number[] = [];
    for (let t = first; t <= position && t < kv.tokens; t++) {
      const k = kv.keys.get(`${layer}:${t}`) as Float32Array;
      let score = 0;
      for (let d = 0; d < headDim; d++) score += (q[d] as number) * (k[at + d] as number);
      weights.push(score * softmaxScale);
    }
    o.fill(0);
    if (weights.length === 0) return Number.NEGATIVE_INFINITY;
    const top = Math.max(...weights);
    const sum = weights.reduce((total, weight) => total + Math.exp(weight - top), 0);
    weights.forEach((weight, i) => {
      const v = kv.values.get(`${layer}:${first + i}`) as Float32Array;
      const p = Math.exp(weight - top) / sum;
      for (let d = 0; d < headDim; d++) o[d] = (o[d] as number) + p * (v[at + d] as number);
    });
    return top + Math.log(sum);
  }

  #slot({ index, generation }: Slot): NaiveSlot {
    const kv = this.slots.get(index);
    if (kv?.generation !== generation) throw new Error(`slot ${index} is not open`);
    return kv;
  }

  #reserve(kv: NaiveSlot, position: number, tokens: number): void {
    const blocks = this.capacity.shards.reduce((sum, shard) => sum + shard.blocks, 0);
    const wanted = this.#windows.map((window) =>
      heldBlocks(window, BLOCK_TOKENS, position, Math.max(kv.tokens, tokens)),
    );
    let needed = 0;
    wanted.forEach(({ from, to }, group) => {
      const own = kv.blocks[group] as Map<number, object>;
      for (const index of own.keys()) if (index < from) own.delete(index);
      for (let i = from; i < to; i++) if (!own.has(i)) needed++;
    });
    if (needed > 0 && this.stats().usedBlocks + needed > blocks) {
      throw new CapacityError('KV_FULL', `${needed} KV blocks are needed, of ${blocks} none is free`);
    }
    wanted.forEach(({ from, to }, group) => {
      const own = kv.blocks[group] as Map<number, object>;
      for (let i = from; i < to; i++) if (!own.has(i)) own.set(i, {});
    });
    this.#appendedTokens += Math.max(0, tokens - kv.tokens);
    kv.tokens = Math.max(kv.tokens, tokens);
  }

  stats(): AttentionStats {
    const used = new Set<object>();
    for (const { blocks } of this.slots.values())
      for (const own of blocks) for (const one of own.values()) used.add(one);
    return {
      usedBlocks: used.size,
      openSlots: this.slots.size,
      busyMs: this.attends,
      kvBytesRead: 100 * this.attends,
      appendedTokens: this.#appendedTokens,
      forkedTokens: this.#forkedTokens,
      bytesSent: 0,
      bytesReceived: 0,
      roundTripMs: 0,
    };
  }

  allocatedBytes(): number {
    return this.closed ? 0 : 1024;
  }

  async close(): Promise<void> {
    this.closed = true;
    this.slots.clear();
    this.steps.clear();
    this.#staging.clear();
  }
}
