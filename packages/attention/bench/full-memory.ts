/**
 * Decode speed in a memory that was never full, and in one where 16 sequences grew by turns, a block at a time, while others' blocks
 * were given back one by one in random order, so that hardly a frame was free. Prints GB/s of KV of both by turns, one worker, the
 * median of 15, and what announcing cost of the time in which the sequences grew: there whole runs are moved together.
 *
 *     node packages/attention/bench/full-memory.ts [f32,f16,bf16,int8]
 */
import { type AttentionBackend, createLocalAttention } from '@glinthawk/attention';
import { type AttentionGeometry, type KvDtype, outputRowFloats, qkvRowFloats } from '@glinthawk/core';

const SEQUENCES = 16;
const TOKENS = 2048;
const T = 32;
const KV_DTYPES: readonly KvDtype[] = ['f32', 'f16', 'bf16', 'int8'];
const REPETITIONS = 15;

const geometry: AttentionGeometry = {
  layers: 2,
  kvHeads: 8,
  groupSize: 1,
  headDim: 128,
  softmaxScale: 0.1,
  windows: [0, 0],
  maxContextTokens: 4096,
};

type Entry = readonly [slot: number, position: number, count: number];

class Memory {
  readonly tier: AttentionBackend;
  readonly #qkv: Float32Array;
  readonly #output: Float32Array;
  #steps = 0;
  announceMs = 0;

  constructor(tier: AttentionBackend) {
    this.tier = tier;
    const rows = T;
    this.#qkv = new Float32Array(rows * qkvRowFloats(tier.geometry)).map((_, i) => Math.sin(i));
    this.#output = new Float32Array(rows * outputRowFloats(tier.geometry));
  }

  /** A step, which is over at once. */
  announce(entries: readonly Entry[]): number {
    const id = this.#steps++;
    const begun = performance.now();
    this.tier.announce({
      id,
      entries: entries.map(([index, position, count]) => ({ slot: { index, generation: 0 }, position, count })),
    });
    this.announceMs += performance.now() - begun;
    return id;
  }

  /** @returns milliseconds of all layers' kernels */
  async step(entries: readonly Entry[]): Promise<number> {
    const id = this.announce(entries);
    const before = this.tier.stats().busyMs;
    for (let layer = 0; layer < geometry.layers; layer++) await this.tier.attend(id, layer, this.#qkv, this.#output);
    this.tier.retire(id);
    return this.tier.stats().busyMs - before;
  }

  /** Sequences grow by turns. @param before what happens before each takes a block @returns milliseconds */
  async grow(before: () => void): Promise<number> {
    const begun = performance.now();
    for (let index = 0; index < SEQUENCES; index++) this.tier.open({ index, generation: 0 }, 0);
    for (let position = 0; position < TOKENS; position += T) {
      for (let index = 0; index < SEQUENCES; index++) {
        before();
        await this.step([[index, position, T]]);
      }
    }
    return performance.now() - begun;
  }

  /** @returns bytes of KV a second of a step in which each sequence has a row */
  async decode(): Promise<number> {
    const before = this.tier.stats().kvBytesRead;
    const ms = await this.step(Array.from({ length: SEQUENCES }, (_, index) => [index, TOKENS - 1, 1]));
    return (this.tier.stats().kvBytesRead - before) / (ms / 1000);
  }
}

/** A slot of one block in every block there is. @returns gives one of them back, any */
function fill(memory: Memory): () => void {
  const slots = Array.from({ length: memory.tier.capacity.shards[0]?.blocks ?? 0 }, (_, i) => 1000 + i);
  for (const index of slots) {
    memory.tier.open({ index, generation: 0 }, 0);
    memory.tier.retire(memory.announce([[index, 0, 1]]));
  }
  let seed = 7;
  return () => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    const [index] = slots.splice(Math.floor((seed / 2147483648) * slots.length), 1);
    if (index !== undefined) memory.tier.free({ index, generation: 0 });
  };
}

const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
const wanted = process.argv[2]?.split(',') ?? ['f32', 'f16', 'int8'];
const dtypes = KV_DTYPES.filter((dtype) => wanted.includes(dtype));
if (process.argv.length > 3 || dtypes.length !== wanted.length) {
  console.error(`usage: node packages/attention/bench/full-memory.ts [${KV_DTYPES.join(',')}]`);
  process.exit(2);
}

async function compare(kvDtype: KvDtype): Promise<string> {
  const create = async (memoryBytes: number) =>
    new Memory(await createLocalAttention(geometry, { kvDtype, workers: 1, memoryBytes }));
  const probe = await create(256 << 20);
  const { blockBytes } = probe.tier.capacity;
  await probe.tier.close();
  const blocks = (SEQUENCES * TOKENS) / T;
  const [fresh, full] = [await create(1.25 * blocks * blockBytes), await create(1.05 * blocks * blockBytes)];
  await fresh.grow(() => {});
  const giveOneBack = fill(full);
  full.announceMs = 0;
  const growMs = await full.grow(giveOneBack);
  const share = full.announceMs / growMs;
  const [inFresh, inFull]: [number[], number[]] = [[], []];
  for (let i = 0; i < REPETITIONS; i++) {
    inFresh.push(await fresh.decode());
    inFull.push(await full.decode());
  }
  await fresh.tier.close();
  await full.tier.close();
  const [a, b] = [median(inFresh) / 1e9, median(inFull) / 1e9];
  return `${kvDtype.padEnd(5)} fresh ${a.toFixed(1)} GB/s  full ${b.toFixed(1)} GB/s (${Math.round((100 * b) / a)} %)  announcing ${(100 * share).toFixed(1)} % of growing`;
}

for (const kvDtype of dtypes) console.log(await compare(kvDtype));
