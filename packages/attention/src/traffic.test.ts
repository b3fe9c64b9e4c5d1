/**
 * Random traffic from several lanes at once: opens, forks, appends, rewrites, visits and frees, at any time. Outputs are held to
 * the plain tier of remote/, and used blocks after every call to a model that holds blocks as objects, by the rule of kv-blocks.ts.
 */
import { type AttentionGeometry, CapacityError } from '@glinthawk/core';
import { describe, expect, it } from 'vitest';
import { randomSource } from '../../../test/kernels/attention-cases.ts';
import type { AttentionBackend, Slot, StepEntry } from './backend.ts';
import { createInlineAttention } from './inline.ts';
import { heldBlocks, layerGroups } from './kv-blocks.ts';
import { createLocalAttention } from './pool.ts';
import { NaiveBackend } from './remote/naive-backend.fixture.ts';

const geometry: AttentionGeometry = {
  layers: 3,
  kvHeads: 2,
  groupSize: 3,
  headDim: 8,
  softmaxScale: 0.4,
  windows: [0, 24, 0],
  maxContextTokens: 400,
};
const groups = layerGroups(geometry);
const T = 16;
const HEADS = 6;
const QKV = 10 * 8;
const OUT = HEADS * 8;
const SHARDS = 2;
const BLOCKS = 44; // of each shard
const SLOTS = 10;
const blockBytes = T * 8 * 2 * 4 * 2; // tokens, dim, K and V, f32, heads; a layer a group
const options = { kvDtype: 'f32', blockTokens: T, memoryBytes: SHARDS * BLOCKS * blockBytes, shards: SHARDS } as const;

/** A slot as whoever counts along knows it. */
interface ModelSlot {
  readonly slot: Slot;
  /** Of the plain tier, which frees it later. */
  readonly plain: Slot;
  readonly shard: number;
  readonly blocks: Map<number, object>[]; // by group and index
  tokens: number;
  busy: boolean;
  freed: boolean;
}

class Traffic {
  readonly #tier: AttentionBackend;
  readonly #plain = new NaiveBackend(geometry, 'f32', { blocks: 1e9, shards: SHARDS });
  readonly #random: () => number;
  readonly #slots = new Map<number, ModelSlot>();
  #made = 0;
  #steps = 0;
  readonly done = { steps: 0, rows: 0, forks: 0, visits: 0, full: 0, freedUnderWay: 0 };

  constructor(tier: AttentionBackend, seed: number) {
    this.#tier = tier;
    this.#random = randomSource(seed);
  }

  /** One of those that do this at the same time. */
  async lane(rounds: number): Promise<void> {
    for (let i = 0; i < rounds; i++) {
      const what = this.#random();
      if (what < 0.12) this.#open();
      else if (what < 0.24) this.#fork();
      else if (what < 0.34) this.#free();
      else await this.#step();
      this.#account();
    }
  }

  end(): void {
    for (const model of this.#slots.values()) this.#tier.free(model.slot);
    this.#slots.clear();
    this.#account();
  }

  #account(): void {
    expect(this.#tier.stats()).toMatchObject({ usedBlocks: this.#used(), openSlots: this.#slots.size });
  }

  /** Distinct blocks that slots hold. */
  #used(shard?: number): number {
    const blocks = new Set<object>();
    for (const model of this.#slots.values()) {
      if (shard !== undefined && model.shard !== shard) continue;
      for (const group of model.blocks) for (const block of group.values()) blocks.add(block);
    }
    return blocks.size;
  }

  #below(n: number): number {
    return Math.floor(this.#random() * n);
  }

  #any(accept: (model: ModelSlot) => boolean): ModelSlot | undefined {
    const fitting = [...this.#slots.values()].filter(accept);
    return fitting[this.#below(fitting.length)];
  }

  #new(): { readonly slot: Slot; readonly plain: Slot } | null {
    if (this.#slots.size === SLOTS) return null;
    let index = this.#below(SLOTS);
    while (this.#slots.has(index)) index = (index + 1) % SLOTS;
    const made = this.#made++;
    return { slot: { index, generation: made }, plain: { index: made, generation: 0 } };
  }

  #open(): void {
    const ids = this.#new();
    if (ids === null) return;
    const shard = this.#below(SHARDS);
    this.#tier.open(ids.slot, shard);
    this.#plain.open(ids.plain, shard);
    const blocks = groups.map(() => new Map<number, object>());
    this.#slots.set(ids.slot.index, { ...ids, shard, blocks, tokens: 0, busy: false, freed: false });
  }

  #fork(): void {
    const parent = this.#any((model) => !model.busy);
    const ids = this.#new();
    if (parent === undefined || ids === null) return;
    const tokens = this.#below(3) === 0 ? this.#below(parent.tokens + 1) : parent.tokens;
    const blocks = groups.map(() => new Map<number, object>());
    let copies = 0;
    let held = true;
    for (const [g, { window }] of groups.entries()) {
      const { from, to } = heldBlocks(window, T, tokens, tokens);
      for (let i = from; i < to; i++) {
        const block = parent.blocks[g]?.get(i);
        if (block === undefined) held = false;
        else if ((i + 1) * T <= tokens) blocks[g]?.set(i, block);
        else blocks[g]?.set(i, { copy: copies++ });
      }
    }
    const fork = () => this.#tier.fork(ids.slot, parent.slot, tokens);
    if (!held) {
      expect(fork).toThrow(/gave back tokens/);
    } else if (this.#used(parent.shard) + copies > BLOCKS) {
      expect(fork).toThrow(CapacityError);
      this.done.full++;
    } else {
      fork();
      this.#plain.fork(ids.plain, parent.plain, tokens);
      this.#slots.set(ids.slot.index, { ...ids, shard: parent.shard, blocks, tokens, busy: false, freed: false });
      this.done.forks++;
    }
  }

  /** Of a slot in a step, too. */
  #free(): void {
    const model = this.#any(() => true);
    if (model === undefined) return;
    this.#tier.free(model.slot);
    this.#slots.delete(model.slot.index);
    model.freed = true;
    if (model.busy) this.done.freedUnderWay++;
    else this.#plain.free(model.plain);
  }

  /** A random entry that the slot may have. */
  #entry(model: ModelSlot): StepEntry {
    const { slot, tokens } = model;
    const room = geometry.maxContextTokens - tokens;
    const longest = this.#below(3) === 0 ? 50 : 3;
    const slidThere = groups.some(({ window }, g) => {
      const { from, to } = heldBlocks(window, T, tokens, tokens);
      for (let i = from; i < to; i++) if (model.blocks[g]?.has(i) !== true) return true;
      return false;
    });
    if (room === 0 || slidThere || this.#below(8) === 0) {
      const position = Math.min(geometry.maxContextTokens - 2, tokens + this.#below(30));
      return { slot, position: Math.max(position, tokens - 1), count: 1 + this.#below(2), visit: true };
    }
    const back = this.#below(6) === 0 ? Math.min(tokens, this.#below(5)) : 0;
    return { slot, position: tokens - back, count: 1 + this.#below(Math.min(longest, room + back)) };
  }

  /** Why it would be refused. */
  #refusal(model: ModelSlot, { position, visit = false }: StepEntry): RegExp | null {
    for (const [g, { window }] of groups.entries()) {
      const { from, to } = heldBlocks(window, T, position, model.tokens);
      for (let i = from; i < to; i++) if (model.blocks[g]?.has(i) !== true) return /gave back tokens/;
    }
    for (const other of this.#slots.values()) {
      if (visit || other === model) continue;
      for (const [g, blocks] of other.blocks.entries()) {
        for (const [i, block] of blocks) {
          if (i >= Math.floor(position / T) && model.blocks[g]?.get(i) === block) return /shares its block/;
        }
      }
    }
    return null;
  }

  async #step(): Promise<void> {
    const chosen = [...this.#slots.values()].filter(({ busy }) => !busy && this.#below(3) === 0);
    chosen.sort((a, b) => a.shard - b.shard);
    const entries = chosen.map((model) => this.#entry(model));
    const id = this.#steps++;
    const refusals = chosen.map((model, i) => this.#refusal(model, entries[i] as StepEntry));
    const refusal = refusals.find((one) => one !== null) ?? null;
    this.#tier.announce({ id, entries });
    if (refusal !== null) {
      await expect(this.#tier.attend(id, 0, new Float32Array(), new Float32Array())).rejects.toThrow(refusal);
      this.#tier.retire(id);
      return;
    }
    if (!this.#take(chosen, entries)) {
      await expect(this.#tier.attend(id, 0, new Float32Array(), new Float32Array())).rejects.toThrow(CapacityError);
      this.#tier.retire(id);
      this.done.full++;
      return;
    }
    this.#account();
    for (const model of chosen) model.busy = true;
    this.#plain.announce({ id, entries: entries.map((entry, i) => ({ ...entry, slot: chosen[i]?.plain as Slot })) });
    const layers = this.#below(10) === 0 ? this.#below(geometry.layers) : geometry.layers;
    // What is left half-way is run again at once by whoever needs it; here its rows are never looked at again.
    for (let layer = 0; layer < layers; layer++) await this.#attend(id, layer, chosen, entries);
    this.#tier.retire(id);
    this.#plain.retire(id);
    for (const model of chosen) {
      model.busy = false;
      if (layers < geometry.layers && !model.freed) {
        this.#tier.free(model.slot);
        this.#slots.delete(model.slot.index);
        model.freed = true;
      }
      if (model.freed) this.#plain.free(model.plain);
    }
    this.done.steps++;
    this.done.visits += entries.filter(({ visit }) => visit).length;
  }

  /** Slides windows, and takes blocks where there is room for all. */
  #take(chosen: readonly ModelSlot[], entries: readonly StepEntry[]): boolean {
    const takes: (() => void)[] = [];
    const needed = Array.from({ length: SHARDS }, () => 0);
    for (const [i, model] of chosen.entries()) {
      const { position, count, visit = false } = entries[i] as StepEntry;
      const tokens = visit ? model.tokens : Math.max(model.tokens, position + count);
      for (const [g, { window }] of groups.entries()) {
        const blocks = model.blocks[g] as Map<number, object>;
        const before = heldBlocks(window, T, position, model.tokens);
        for (const index of blocks.keys()) if (index < before.from) blocks.delete(index);
        const after = heldBlocks(window, T, position, tokens);
        for (let index = Math.max(before.to, after.from); index < after.to; index++) {
          needed[model.shard] = (needed[model.shard] ?? 0) + 1;
          takes.push(() => blocks.set(index, { index }));
        }
      }
      takes.push(() => {
        model.tokens = tokens;
      });
    }
    if (needed.some((blocks, shard) => this.#used(shard) + blocks > BLOCKS)) return false;
    for (const take of takes) take();
    return true;
  }

  async #attend(id: number, layer: number, chosen: readonly ModelSlot[], entries: readonly StepEntry[]) {
    const rows = entries.reduce((sum, { count }) => sum + count, 0);
    const qkv = new Float32Array(rows * QKV).map(() => 2 * this.#random() - 1);
    const [output, expected] = [new Float32Array(rows * OUT).fill(7), new Float32Array(rows * OUT)];
    const [lse, expectedLse] = [new Float32Array(rows * HEADS).fill(7), new Float32Array(rows * HEADS)];
    const freedBefore = chosen.map(({ freed }) => freed);
    const running = this.#tier.attend(id, layer, qkv, output, lse);
    await this.#plain.attend(id, layer, qkv, expected, expectedLse);
    await running;
    let row = 0;
    for (const [i, { count }] of entries.entries()) {
      const first = row;
      const own = (array: Float32Array, width: number) => array.subarray(first * width, (first + count) * width);
      row += count;
      if (freedBefore[i] === true) {
        if (own(output, OUT).some((x) => x !== 0)) expect.fail('a freed slot is still attended to');
        continue;
      }
      expectClose(own(output, OUT), own(expected, OUT));
      expectClose(own(lse, HEADS), own(expectedLse, HEADS));
    }
    this.done.rows += rows;
  }
}

function expectClose(found: Float32Array, expected: Float32Array) {
  for (const [i, x] of found.entries()) {
    if (x !== expected[i] && !(Math.abs(x - (expected[i] as number)) < 2e-5)) {
      expect.fail(`${x} at ${i}, expected ${expected[i]}`);
    }
  }
}

async function run(tier: AttentionBackend, lanes: number, rounds: number, seed: number) {
  const traffic = new Traffic(tier, seed);
  const { promise: lost, reject } = Promise.withResolvers<never>();
  tier.lost.then(reject);
  await Promise.race([Promise.all(Array.from({ length: lanes }, () => traffic.lane(rounds))), lost]);
  traffic.end();
  expect(tier.stats()).toMatchObject({ usedBlocks: 0, openSlots: 0 });
  const allocated = tier.allocatedBytes();
  await tier.close();
  expect(tier.allocatedBytes()).toBe(0);
  return { ...traffic.done, allocated };
}

describe('random traffic', () => {
  it('in this thread gives what the plain tier gives, block by block', async () => {
    const tier = await createInlineAttention(geometry, options);
    expect(tier.capacity.shards).toEqual([{ blocks: BLOCKS }, { blocks: BLOCKS }]);
    const done = await run(tier, 1, 500, 1);
    expect(done.forks).toBeGreaterThan(10);
    expect(done.visits).toBeGreaterThan(10);
    expect(done.full).toBeGreaterThan(3);
  });

  it('on workers, from several lanes, with slots freed under running attends', async () => {
    const tier = await createLocalAttention(geometry, { ...options, workers: 3 });
    const done = await run(tier, 4, 150, 2);
    expect(done.freedUnderWay).toBeGreaterThan(3);
    expect(done.forks).toBeGreaterThan(10);
  });
});
