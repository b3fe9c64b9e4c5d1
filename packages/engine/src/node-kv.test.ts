/** The engine's account of a node's KV, held to the node's own after every call: the plain tier's and that of the WASM one. */
import { type AttentionBackend, createInlineAttention } from '@glinthawk/attention';
import { type AttentionGeometry, CapacityError } from '@glinthawk/core';
import { describe, expect, it } from 'vitest';
import { requestOf } from '../../../test/golden/engine.ts';
import { ReferenceAttentionSource } from '../../../test/reference/attention.ts';
import { Job } from './job.ts';
import type { KvPart, KvShard, PartRows } from './kv-shard.ts';
import { NodeKv } from './node-kv.ts';
import { Sequence } from './sequence.ts';

const BLOCK_TOKENS = 16;
const STEP_TOKENS = 24;
const BLOCKS = 60;

const geometryOf = (windows: readonly number[]): AttentionGeometry => ({
  layers: windows.length,
  kvHeads: 1,
  groupSize: 1,
  headDim: 8,
  softmaxScale: 1,
  windows,
  maxContextTokens: 512,
});

/** A seeded generator of numbers below 1. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

const sequenceOf = (arrival: number, promptIds: readonly number[]) =>
  new Sequence(new Job(() => {}), requestOf(`s${arrival}`, promptIds, 400), {
    arrival,
    tokenizer: undefined,
    eosTokenIds: [],
    mostTokens: 500,
  });

/** A node as the engine uses it, without the rest of the engine. */
class Traffic {
  readonly kv: NodeKv;
  readonly placed = new Map<Sequence, KvPart<Sequence>>();
  readonly parked: Sequence[] = [];
  adopted = 0;
  forked = 0;
  readonly #backend: AttentionBackend;
  readonly #random: () => number;
  #arrivals = 0;
  #steps = 0;

  constructor(backend: AttentionBackend, seed: number) {
    this.#backend = backend;
    this.#random = random(seed);
    this.kv = new NodeKv(
      {
        ...backend,
        limits: backend.limits,
        open: backend.open.bind(backend),
        fork: backend.fork.bind(backend),
        free: backend.free.bind(backend),
      },
      { node: 0, stepTokens: STEP_TOKENS, prefixSharing: true },
    );
  }

  act(): void {
    const choice = this.#random();
    if (choice < 0.3) this.#place();
    else if (choice < 0.85) this.#step();
    else this.#leave();
  }

  #pick<T>(from: readonly T[]): T | undefined {
    return from[Math.floor(this.#random() * from.length)];
  }

  #place(): void {
    const shard = this.#pick(this.kv.shards) as KvShard<Sequence>;
    const sequence = this.#random() < 0.5 ? this.parked.pop() : undefined;
    const common = Math.floor(this.#random() * 3);
    const length = 1 + Math.floor(this.#random() * 90);
    const differs = Math.floor(this.#random() * length);
    const promptIds = Array.from({ length }, (_, i) => (i < differs ? common : 10 + Math.floor(this.#random() * 9)));
    const next = sequence ?? sequenceOf(this.#arrivals++, promptIds);
    const { match } = this.kv.match(next, shard);
    const from = match === null ? undefined : { part: match.holder.part, tokens: match.tokens };
    if (this.kv.slotsLeft === 0 || shard.blocksFor(next.length, from) > shard.freeBlocks) {
      if (sequence !== undefined) this.parked.push(sequence);
      return;
    }
    if (match?.holder.parkedBy === next) this.adopted++;
    else if (match !== null) this.forked++;
    this.placed.set(next, this.kv.place(next, shard));
  }

  /** Some of those that are placed run, each up to its next token. */
  #step(): void {
    const rows: PartRows<Sequence>[] = [];
    const running: { readonly sequence: Sequence; readonly part: KvPart<Sequence>; readonly end: number }[] = [];
    for (const [sequence, part] of this.placed) {
      const { kvTokens: position } = sequence;
      const count = Math.min(sequence.pendingTokens, 1 + Math.floor(this.#random() * STEP_TOKENS));
      const { takes, frees } = part.shard.change(part, position, position + count);
      const needed = takes - frees - part.promised;
      if (needed > part.shard.freeBlocks || this.#random() < 0.3 || position + count > 400) continue;
      if (needed > 0) part.shard.promise(part, part.promised + needed);
      rows.push({ part, position, count });
      running.push({ sequence, part, end: position + count });
    }
    rows.sort((a, b) => a.part.shard.index - b.part.shard.index);
    this.kv.announce(rows);
    const entries = rows.map(({ part, position, count }) => ({ slot: part.slot, position, count }));
    this.#backend.announce({ id: this.#steps, entries });
    this.#backend.retire(this.#steps++);
    const isDone = this.#random() < 0.9;
    for (const { sequence, part, end } of running) {
      if (!isDone) continue;
      sequence.kvTokens = end;
      if (sequence.pendingTokens === 0) sequence.accept(Math.floor(this.#random() * 3), null);
      this.kv.advance(part, sequence);
    }
  }

  #leave(): void {
    const [sequence, part] = this.#pick([...this.placed]) ?? [];
    if (sequence === undefined || part === undefined) return;
    this.placed.delete(sequence);
    sequence.ended = this.#random() < 0.6;
    this.kv.leave(part, sequence);
    sequence.kvTokens = 0;
    if (!sequence.ended) this.parked.push(sequence);
  }
}

const tiers: Readonly<Record<string, (geometry: AttentionGeometry) => Promise<AttentionBackend>>> = {
  'the plain tier': (geometry) =>
    new ReferenceAttentionSource({ blockTokens: BLOCK_TOKENS, shards: [BLOCKS, BLOCKS / 2] }).connect(geometry, {
      kvDtype: 'f32',
      fingerprint: '',
    }),
  'the WASM tier': (geometry) => {
    const groups = new Set(geometry.windows).size;
    const blockBytes = BLOCK_TOKENS * (geometry.layers / groups) * 2 * 8 * 4;
    return createInlineAttention(geometry, {
      kvDtype: 'f32',
      blockTokens: BLOCK_TOKENS,
      memoryBytes: BLOCKS * blockBytes,
    });
  },
};

for (const [name, open] of Object.entries(tiers)) {
  describe(`blocks are counted as ${name} counts them`, () => {
    for (const windows of [
      [0, 0],
      [0, 40],
      [24, 0, 0, 24],
    ]) {
      it(`windows ${windows.join(', ')}`, async () => {
        for (let seed = 0; seed < 6; seed++) {
          const backend = await open(geometryOf(windows));
          const traffic = new Traffic(backend, seed);
          const { shards } = traffic.kv;
          const counted = (blocks: (shard: KvShard<Sequence>) => number) =>
            shards.reduce((sum, each) => sum + blocks(each), 0);
          let mostCached = 0;
          for (let i = 0; i < 400; i++) {
            traffic.act();
            const cached = counted(({ cachedBlocks }) => cachedBlocks);
            mostCached = Math.max(mostCached, cached);
            expect(counted(({ usedBlocks }) => usedBlocks) + cached).toBe(backend.stats().usedBlocks);
            expect(backend.stats().openSlots).toBe(traffic.placed.size + traffic.kv.cachedSlots);
          }
          expect(traffic.forked).toBeGreaterThan(0);
          expect(traffic.adopted).toBeGreaterThan(0);
          expect(mostCached).toBeGreaterThan(0);
          for (const [sequence, part] of traffic.placed) traffic.kv.leave(part, sequence);
          expect(counted(({ usedBlocks }) => usedBlocks)).toBe(0);
          expect(counted(({ freeBlocks }) => freeBlocks)).toBe(counted(({ blocks }) => blocks));
          traffic.kv.dropCached();
          expect(counted(({ vacantBlocks }) => vacantBlocks)).toBe(counted(({ blocks }) => blocks));
          expect(backend.stats()).toMatchObject({ usedBlocks: 0, openSlots: 0 });
          await backend.close();
        }
      });
    }
  });
}

describe('a fork that the backend refuses at once', () => {
  const SLOTS = 100;
  /** Kept: 81 tokens of a sequence that ended. */
  function withKept(blocks: number, code: string) {
    let refusals = 0;
    const refuse = () => {
      if (refusals-- > 0) throw new CapacityError(code, 'no room');
    };
    const capacity = { blockTokens: 4, blockBytes: 1, shards: [{ blocks }], workers: 1 };
    const limits = { maxSlots: SLOTS, maxSteps: 9, maxStepRows: 999 };
    const backend = { geometry: geometryOf([0]), capacity, limits, open() {}, fork: refuse, free() {} };
    const kv = new NodeKv(backend, { node: 0, stepTokens: 64, prefixSharing: true });
    const [shard] = kv.shards as [KvShard<Sequence>];
    const run = (sequence: Sequence) => {
      const part = kv.place(sequence, shard);
      kv.announce([{ part, position: sequence.kvTokens, count: sequence.pendingTokens }]);
      sequence.kvTokens = sequence.length - 1;
      kv.advance(part, sequence);
      return part;
    };
    const first = sequenceOf(0, tokens(81, 1));
    const part = run(first);
    first.ended = true;
    kv.leave(part, first);
    return { kv, run, refuseOnce: () => (refusals = 1) };
  }
  const tokens = (length: number, seed: number) => Array.from({ length }, (_, i) => (i * 7 + seed) % 90);

  it('costs no more than what would have been shared', () => {
    const { kv, run, refuseOnce } = withKept(100, 'WASM_MEMORY');
    refuseOnce();
    run(sequenceOf(1, [...tokens(80, 1), 95]));
    expect(kv.slotsLeft).toBe(SLOTS - 1);
  });

  it('to shorten what is kept: it goes, with its slot', () => {
    const { kv, run, refuseOnce } = withKept(30, 'WASM_MEMORY');
    refuseOnce();
    run(sequenceOf(1, tokens(61, 2)));
    expect(kv.cachedSlots).toBe(0);
    expect(kv.slotsLeft).toBe(SLOTS - 1);
  });

  it('for there are too many slots: it is asked for no more, until steps went through', () => {
    const { kv, run, refuseOnce } = withKept(100, 'TOO_MANY_SLOTS');
    refuseOnce();
    run(sequenceOf(1, [...tokens(80, 1), 95]));
    expect(kv.slotsLeft).toBe(0);
    kv.trustMore();
    expect(kv.slotsLeft).toBe(1);
  });
});
