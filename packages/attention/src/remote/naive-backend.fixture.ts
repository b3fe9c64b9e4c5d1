/**
 * The attention tier written as plainly as it can be: f32 KV in arrays, one softmax after another, no pages. It is what the
 * tests of this folder serve and compare with; nothing else uses it.
 */
import {
  type AttentionGeometry,
  CapacityError,
  type KvDtype,
  NodeLostError,
  outputRowFloats,
  qkvRowFloats,
} from '@glinthawk/core';
import type { AttentionBackend, AttentionCapacity, AttentionStats, AttentionStep, Slot } from '../backend.ts';

export interface NaiveBackendOptions {
  readonly blocks?: number;
  readonly shards?: number;
  /** Called before each attend; may wait or throw. */
  readonly before?: (stepId: number, layer: number) => void | Promise<void>;
}

interface NaiveSlot {
  readonly generation: number;
  readonly keys: Map<string, Float32Array>; // `${layer}:${position}` → [kvHeads, headDim]
  readonly values: Map<string, Float32Array>;
  tokens: number;
}

const BLOCK_TOKENS = 16;

export class NaiveBackend implements AttentionBackend {
  readonly name = 'naive';
  readonly geometry: AttentionGeometry;
  readonly kvDtype: KvDtype;
  readonly capacity: AttentionCapacity;
  readonly lost: Promise<NodeLostError>;
  readonly slots = new Map<number, NaiveSlot>();
  readonly steps = new Map<number, AttentionStep>();
  readonly fail: (error: NodeLostError) => void;
  closed = false;
  attends = 0;
  #forkedTokens = 0;
  readonly #before: NonNullable<NaiveBackendOptions['before']>;

  constructor(geometry: AttentionGeometry, kvDtype: KvDtype, options: NaiveBackendOptions = {}) {
    this.geometry = geometry;
    this.kvDtype = kvDtype;
    this.#before = options.before ?? (() => {});
    const blockBytes = BLOCK_TOKENS * geometry.layers * geometry.kvHeads * geometry.headDim * 2 * 4;
    const shards = Array.from({ length: options.shards ?? 1 }, () => ({ blocks: options.blocks ?? 64 }));
    this.capacity = { blockTokens: BLOCK_TOKENS, blockBytes, shards, workers: 1 };
    const { promise, resolve } = Promise.withResolvers<NodeLostError>();
    this.lost = promise;
    this.fail = resolve;
  }

  open(slot: Slot, shard: number): void {
    if (shard >= this.capacity.shards.length) throw new CapacityError('BAD_SHARD', `no shard ${shard}`);
    this.slots.set(slot.index, { generation: slot.generation, keys: new Map(), values: new Map(), tokens: 0 });
  }

  fork(slot: Slot, parent: Slot, tokens: number): void {
    const from = this.slots.get(parent.index);
    if (from?.generation !== parent.generation) throw new Error(`slot ${parent.index} is not open`);
    const { generation } = slot;
    this.slots.set(slot.index, { generation, keys: new Map(from.keys), values: new Map(from.values), tokens });
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
  }

  async attend(
    stepId: number,
    layer: number,
    qkv: Float32Array, // [rows, (groupSize + 2) kvHeads headDim]
    output: Float32Array, // [rows, groupSize kvHeads headDim]
    logSumExp?: Float32Array, // [rows, groupSize kvHeads]
  ): Promise<void> {
    const step = this.steps.get(stepId);
    await this.#before(stepId, layer);
    if (this.closed) throw new NodeLostError(this.name, 'closed');
    if (step === undefined) throw new Error(`step ${stepId} was not announced`);
    this.attends++;
    const { kvHeads, groupSize, headDim } = this.geometry;
    const heads = kvHeads * groupSize;
    const rowFloats = qkvRowFloats(this.geometry);
    let row = 0;
    for (const { slot, position, count, visit = false } of step.entries) {
      const kv = this.slots.get(slot.index);
      if (kv?.generation !== slot.generation) throw new Error(`slot ${slot.index} is not open`);
      if (!visit) this.#reserve(kv, position + count);
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

  #reserve(kv: NaiveSlot, tokens: number): void {
    const blocks = this.capacity.shards.reduce((sum, shard) => sum + shard.blocks, 0);
    const needed = Math.ceil(tokens / BLOCK_TOKENS) - Math.ceil(kv.tokens / BLOCK_TOKENS);
    if (needed > 0 && this.stats().usedBlocks + needed > blocks) {
      throw new CapacityError('KV_FULL', `${needed} KV blocks are needed, of ${blocks} none is free`);
    }
    kv.tokens = Math.max(kv.tokens, tokens);
  }

  stats(): AttentionStats {
    let usedBlocks = 0;
    for (const { tokens } of this.slots.values()) usedBlocks += Math.ceil(tokens / BLOCK_TOKENS);
    const none = { bytesSent: 0, bytesReceived: 0, roundTripMs: 0, kvBytesRead: 0, appendedTokens: 0 };
    const { size: openSlots } = this.slots;
    return { usedBlocks, openSlots, busyMs: this.attends, forkedTokens: this.#forkedTokens, ...none };
  }

  allocatedBytes(): number {
    return this.closed ? 0 : 1024;
  }

  async close(): Promise<void> {
    this.closed = true;
    this.slots.clear();
    this.steps.clear();
  }
}
