/** Forks, visits, windows and what they cost, on one thread; numbers are compared with the plain tier of remote/. */
import { type AttentionGeometry, CapacityError, InputError, NodeLostError } from '@glinthawk/core';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { AttentionBackend, StepEntry } from './backend.ts';
import { createInlineAttention } from './inline.ts';
import { heldBlockCount, layerGroups } from './kv-blocks.ts';
import { kvRowBytes } from './kv-token-bytes.ts';
import { NaiveBackend } from './remote/naive-backend.fixture.ts';

const geometry: AttentionGeometry = {
  layers: 4,
  kvHeads: 2,
  groupSize: 2,
  headDim: 8,
  softmaxScale: 0.4,
  windows: [0, 20, 0, 20],
  maxContextTokens: 200,
};
const groups = layerGroups(geometry);
const T = 16;
const QKV = 8 * 8;
const OUT = 4 * 8;
const HEADS = 4;
const BLOCKS = 24;
const blockBytes = T * 8 * 2 * 4 * 2 * 2; // tokens, dim, K and V, f32, layers of a group, heads

let backend: AttentionBackend;
let naive: NaiveBackend;
let nextStep: number;

beforeEach(async () => {
  backend = await createInlineAttention(geometry, { kvDtype: 'f32', blockTokens: T, memoryBytes: BLOCKS * blockBytes });
  naive = new NaiveBackend(geometry, 'f32', { blocks: 1e9 });
  nextStep = 0;
});
afterEach(() => backend.close());

const slot = (index: number, generation = 0) => ({ index, generation });
const entry = (index: number, position: number, count: number, visit = false): StepEntry =>
  visit ? { slot: slot(index), position, count, visit } : { slot: slot(index), position, count };
const both = (call: (tier: AttentionBackend) => void) => [backend, naive].forEach(call);
const rowsOf = (floats: number, seed: number) => new Float32Array(floats).map((_, i) => Math.sin(i * 1.7 + seed * 31));

/** All layers of a step, in both tiers, which must agree. */
async function step(...entries: StepEntry[]) {
  const id = nextStep++;
  const rows = entries.reduce((sum, { count }) => sum + count, 0);
  const outputs: Float32Array[] = [];
  both((tier) => tier.announce({ id, entries }));
  try {
    for (let layer = 0; layer < geometry.layers; layer++) {
      const qkv = rowsOf(rows * QKV, id * geometry.layers + layer);
      const [output, expected] = [new Float32Array(rows * OUT), new Float32Array(rows * OUT)];
      const [lse, expectedLse] = [new Float32Array(rows * HEADS), new Float32Array(rows * HEADS)];
      await backend.attend(id, layer, qkv, output, lse);
      await naive.attend(id, layer, qkv, expected, expectedLse);
      expectClose(output, expected);
      expectClose(lse, expectedLse);
      outputs.push(output);
    }
  } finally {
    both((tier) => tier.retire(id));
  }
  return outputs;
}

function expectClose(found: Float32Array, expected: Float32Array) {
  for (const [i, x] of found.entries()) {
    if (x !== expected[i] && !(Math.abs(x - (expected[i] as number)) < 2e-5)) {
      expect.fail(`${x} at ${i}, expected ${expected[i]}`);
    }
  }
}

const used = () => backend.stats().usedBlocks;
const held = (position: number, tokens: number) => heldBlockCount(groups, T, position, tokens);

describe('a fork', () => {
  it('shares whole blocks, copies the last, and both go their own ways', async () => {
    both((tier) => tier.open(slot(0), 0));
    await step(entry(0, 0, 40));
    both((tier) => tier.fork(slot(1), slot(0), 40));
    // Of the windowed group the fork sees tokens from 21 on: blocks 1 and 2, of which 2 is copied.
    expect(used()).toBe(held(0, 40) + groups.length);
    expect(backend.stats()).toMatchObject({ openSlots: 2, forkedTokens: 40, appendedTokens: 40 });
    await step(entry(0, 40, 3), entry(1, 40, 5));
    await step(entry(1, 45, 1), entry(0, 43, 1));
    both((tier) => tier.free(slot(0)));
    expect(used()).toBe(held(45, 46));
    await step(entry(1, 46, 20));
    both((tier) => tier.free(slot(1)));
    expect(used()).toBe(0);
  });

  it("of whole blocks costs none, at any length below the parent's", async () => {
    both((tier) => tier.open(slot(0), 0));
    await step(entry(0, 0, 64));
    const before = used();
    for (const [i, tokens] of [0, 16, 32, 64].entries()) {
      both((tier) => tier.fork(slot(1 + i), slot(0), tokens));
      expect(used()).toBe(before);
      await step(entry(1 + i, tokens, 7));
      both((tier) => tier.free(slot(1 + i)));
      expect(used()).toBe(before);
    }
    both((tier) => tier.fork(slot(9), slot(0), 17));
    expect(used()).toBe(before + groups.length);
    await step(entry(9, 17, 1));
  });

  it('of a fork, and again, frees everything in any order', async () => {
    both((tier) => tier.open(slot(0), 0));
    await step(entry(0, 0, 33));
    for (let i = 1; i < 5; i++) both((tier) => tier.fork(slot(i), slot(i - 1), 33));
    await step(...[4, 2, 0, 3, 1].map((i) => entry(i, 33, 1 + i)));
    for (const i of [2, 0, 4, 1]) both((tier) => tier.free(slot(i)));
    await step(entry(3, 37, 2));
    backend.free(slot(3));
    expect(used()).toBe(0);
  });

  it('is refused where the parent does not have it', async () => {
    backend.open(slot(0), 0);
    naive.open(slot(0), 0);
    await step(entry(0, 0, 50));
    await step(entry(0, 50, 1));
    for (const [child, parent, tokens, message] of [
      [slot(1), slot(5), 3, /slot 5, generation 0: it is not open/],
      [slot(1), slot(0, 1), 3, /generation 0 is open/],
      [slot(1), slot(0), 52, /holds 51 tokens: 52 can't be forked/],
      [slot(1), slot(0), -1, /can't be forked/],
      [slot(1), slot(0), 1.5, /can't be forked/],
      [slot(1), slot(0), 33, /gave back tokens that 33 forked ones would see/],
      [slot(0), slot(0), 51, /open already/],
    ] as const) {
      expect(() => backend.fork(child, parent, tokens)).toThrow(InputError);
      expect(() => backend.fork(child, parent, tokens)).toThrow(message);
    }
    backend.fork(slot(1), slot(0), 51);
    expect(used()).toBe(held(50, 51) + groups.length);
  });

  it('for whose copies there is no block takes nothing', async () => {
    both((tier) => tier.open(slot(0), 0));
    both((tier) => tier.open(slot(1), 0));
    await step(entry(0, 0, 100), entry(1, 0, 70));
    expect(BLOCKS - used()).toBe(0);
    expect(() => backend.fork(slot(2), slot(0), 100)).toThrow(CapacityError);
    expect(backend.stats()).toMatchObject({ usedBlocks: BLOCKS, openSlots: 2 });
    backend.fork(slot(2), slot(0), 96);
    expect(backend.stats()).toMatchObject({ usedBlocks: BLOCKS, openSlots: 3 });
  });

  it('keeps its parent from writing what they share', async () => {
    both((tier) => tier.open(slot(0), 0));
    await step(entry(0, 0, 32));
    both((tier) => tier.fork(slot(1), slot(0), 32));
    for (const one of [entry(0, 31, 1), entry(1, 20, 12), entry(0, 16, 30)]) {
      await expect(step(one)).rejects.toThrow(/shares its block at \d+ with a fork/);
    }
    await step(entry(0, 32, 1), entry(1, 32, 1));
    both((tier) => tier.free(slot(0)));
    await step(entry(1, 31, 4));
  });

  it('waits for the last layer of the step that stores its tokens', async () => {
    backend.open(slot(0), 0);
    backend.announce({ id: 700, entries: [entry(0, 0, 20)] });
    for (let layer = 0; layer < geometry.layers; layer++) {
      expect(() => backend.fork(slot(1), slot(0), 20)).toThrow(/fork them after its last layer/);
      await backend.attend(700, layer, rowsOf(20 * QKV, 1), new Float32Array(20 * OUT));
    }
    backend.fork(slot(1), slot(0), 20);
    backend.retire(700);
    backend.announce({ id: 701, entries: [entry(0, 20, 1)] });
    backend.fork(slot(2), slot(0), 20);
    expect(() => backend.fork(slot(3), slot(0), 21)).toThrow(InputError);
  });
});

describe('a window', () => {
  it('gives back what it leaves, when the step that leaves it is announced', async () => {
    both((tier) => tier.open(slot(0), 0));
    await step(entry(0, 0, 100));
    expect(used()).toBe(held(0, 100));
    backend.announce({ id: 800, entries: [entry(0, 100, 1)] });
    expect(used()).toBe(held(100, 101));
    expect(held(100, 101)).toBeLessThan(held(0, 101));
    backend.retire(800);
    await expect(step(entry(0, 40, 1))).rejects.toThrow(/gave back tokens that a row at 40 sees/);
    await step(entry(0, 100, 1));
    for (let position = 101; position < 120; position++) {
      await step(entry(0, position, 1));
      expect(used()).toBe(held(position, position + 1));
    }
  });
});

describe('blocks that a window left', () => {
  it("may hold anything: their next owner's NaN are never seen", async () => {
    both((tier) => tier.open(slot(0), 0));
    await step(entry(0, 0, 90));
    await step(entry(0, 90, 1));
    const free = BLOCKS - used();
    backend.open(slot(1), 0);
    const count = T * Math.floor(free / groups.length);
    backend.announce({ id: 900, entries: [entry(1, 0, count)] });
    expect(used()).toBe(BLOCKS - (free % groups.length));
    for (let layer = 0; layer < geometry.layers; layer++) {
      await backend.attend(900, layer, new Float32Array(count * QKV).fill(Number.NaN), new Float32Array(count * OUT));
    }
    for (let position = 91; position < 96; position++) await step(entry(0, position, 1));
    await step(entry(0, 97, 5, true));
  });
});

describe('a visit', () => {
  it('sees all that is there, stores nothing, and lets go of what left its windows', async () => {
    both((tier) => tier.open(slot(0), 0));
    await step(entry(0, 0, 40));
    await step(entry(0, 40, 4, true));
    expect(used()).toBe(held(40, 40));
    await step(entry(0, 47, 1, true));
    expect(used()).toBe(held(47, 40));
    await step(entry(0, 100, 3, true));
    expect(used()).toBe(held(100, 40));
    expect(held(100, 40)).toBe(3); // only the group without a window is left
    expect(backend.stats().appendedTokens).toBe(40);
    await expect(step(entry(0, 30, 1, true))).rejects.toThrow(/a visit is at its last or later, found 30/);
    await expect(step(entry(0, 40, 1))).rejects.toThrow(/gave back tokens/);
  });

  it('to a fork leaves what its parent sees', async () => {
    both((tier) => tier.open(slot(0), 0));
    await step(entry(0, 0, 48));
    both((tier) => tier.fork(slot(1), slot(0), 48));
    const before = used();
    await step(entry(1, 150, 2, true), entry(0, 48, 1));
    expect(used()).toBe(before - 1 + groups.length); // the parent left its first windowed block and began new ones
    await step(entry(0, 49, 1));
  });

  it('of an empty slot sees nothing', async () => {
    both((tier) => tier.open(slot(0), 0));
    const [output] = await step(entry(0, 0, 2, true));
    expect(output?.every((x) => x === 0)).toBe(true);
    expect(used()).toBe(0);
  });
});

describe('a slot', () => {
  it('stands once in a step, and in one step: the latest', async () => {
    both((tier) => tier.open(slot(0), 0));
    backend.announce({ id: 1, entries: [entry(0, 0, 1), entry(0, 1, 1)] });
    await expect(backend.attend(1, 0, new Float32Array(2 * QKV), new Float32Array(2 * OUT))).rejects.toThrow(
      /slot 0 is in this step already/,
    );
    backend.announce({ id: 2, entries: [entry(0, 0, 1)] });
    await backend.attend(2, 0, new Float32Array(QKV), new Float32Array(OUT));
    nextStep = 3;
    await step(entry(0, 0, 1));
    await expect(backend.attend(2, 1, new Float32Array(QKV), new Float32Array(OUT))).rejects.toThrow(
      /step 2 is over: step 3 has one of its slots/,
    );
    backend.retire(2);
    backend.retire(1);
    await step(entry(0, 1, 1));
  });
});

describe('statistics', () => {
  it('count bytes read by what the rows of an entry see, of each layer by its window', async () => {
    both((tier) => tier.open(slot(0), 0));
    await step(entry(0, 0, 60));
    const row = kvRowBytes(geometry, 'f32', 8);
    expect(row).toBe(2 * 2 * 8 * 4);
    expect(backend.stats().kvBytesRead).toBe(4 * 60 * row);
    await step(entry(0, 60, 1));
    expect(backend.stats().kvBytesRead).toBe(4 * 60 * row + (2 * 61 + 2 * 20) * row);
    await step(entry(0, 70, 2, true));
    expect(backend.stats().kvBytesRead).toBe(4 * 60 * row + (2 * 61 + 2 * 20) * row + (2 * 61 + 2 * 10) * row);
    expect(backend.stats()).toMatchObject({ appendedTokens: 61, forkedTokens: 0 });
  });
});

it('closing with forks open leaves nothing', async () => {
  both((tier) => tier.open(slot(0), 0));
  await step(entry(0, 0, 40));
  backend.fork(slot(1), slot(0), 40);
  await backend.close();
  expect(backend.stats()).toMatchObject({ usedBlocks: 0, openSlots: 0 });
  expect(backend.allocatedBytes()).toBe(0);
  expect(() => backend.fork(slot(2), slot(0), 1)).toThrow(NodeLostError);
});
