/** Slots, blocks and steps: what is refused, what is reused, and that nothing is left. Numbers are test/kernels' business. */
import { type AttentionGeometry, CapacityError, InputError, NodeLostError } from '@glinthawk/core';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { AttentionBackend } from './backend.ts';
import { createInlineAttention } from './inline.ts';

const geometry: AttentionGeometry = {
  layers: 2,
  kvHeads: 2,
  groupSize: 2,
  headDim: 4,
  softmaxScale: 0.5,
  windows: [0, 0],
  maxContextTokens: 100,
};
const QKV = 32; // floats of a row
const OUT = 16;
const BLOCKS = 4;
const blockBytes = 16 * 8 * 2 * 4 * 2 * 2; // tokens, padded dim, K and V, f32, layers, heads

let backend: AttentionBackend;
let nextStep = 0;

beforeEach(async () => {
  backend = await createInlineAttention(geometry, {
    kvDtype: 'f32',
    blockTokens: 16,
    memoryBytes: BLOCKS * blockBytes,
  });
});
afterEach(() => backend.close());

const slot = (index: number, generation = 0) => ({ index, generation });
const ramp = (floats: number) => new Float32Array(floats).map((_, i) => Math.sin(i));

/** Runs all layers of one step over the given entries; returns the output of layer 0. */
async function step(entries: readonly { slot: ReturnType<typeof slot>; position: number; count: number }[]) {
  const id = nextStep++;
  const rows = entries.reduce((sum, { count }) => sum + count, 0);
  const output = new Float32Array(rows * OUT).fill(Number.NaN);
  backend.announce({ id, entries });
  try {
    await backend.attend(id, 0, ramp(rows * QKV), output);
    await backend.attend(id, 1, ramp(rows * QKV), new Float32Array(rows * OUT));
  } finally {
    backend.retire(id);
  }
  return output;
}

describe('blocks', () => {
  it('are taken as positions grow, and given back by free', async () => {
    expect(backend.capacity).toEqual({ blockTokens: 16, blockBytes, shards: [{ blocks: BLOCKS }], workers: 1 });
    backend.open(slot(0), 0);
    expect(backend.stats()).toMatchObject({ usedBlocks: 0, openSlots: 1 });
    await step([{ slot: slot(0), position: 0, count: 16 }]);
    expect(backend.stats().usedBlocks).toBe(1);
    await step([{ slot: slot(0), position: 16, count: 1 }]);
    expect(backend.stats().usedBlocks).toBe(2);
    backend.free(slot(0));
    expect(backend.stats()).toMatchObject({ usedBlocks: 0, openSlots: 0 });
  });

  it('that run out fail that step only, with nothing taken', async () => {
    for (const index of [0, 1, 2]) backend.open(slot(index), 0);
    await step([{ slot: slot(0), position: 0, count: 40 }]);
    const before = backend.stats().usedBlocks;
    const tooMuch = [
      { slot: slot(1), position: 0, count: 16 },
      { slot: slot(2), position: 0, count: 1 },
    ];
    await expect(step(tooMuch)).rejects.toThrow(CapacityError);
    expect(backend.stats().usedBlocks).toBe(before);
    await expect(step([{ slot: slot(1), position: 1, count: 1 }])).rejects.toThrow(InputError); // it holds nothing
    await step([{ slot: slot(1), position: 0, count: 16 }]);
    backend.free(slot(0));
    await step([{ slot: slot(2), position: 0, count: 33 }]);
  });

  it('are reused without growing memory, and what they held is gone', async () => {
    let output = new Float32Array();
    let bytes = 0;
    for (let generation = 0; generation < 20; generation++) {
      backend.open(slot(0, generation), 0);
      const now = await step([{ slot: slot(0, generation), position: 0, count: 61 }]);
      if (generation === 0) [output, bytes] = [now, backend.allocatedBytes()];
      expect(now).toEqual(output);
      expect(backend.allocatedBytes()).toBe(bytes);
      backend.free(slot(0, generation));
    }
  });

  it('of another slot are never seen through NaN or infinities', async () => {
    backend.open(slot(0), 0);
    backend.announce({ id: 900, entries: [{ slot: slot(0), position: 0, count: 64 }] });
    await backend.attend(900, 0, new Float32Array(64 * QKV).fill(Number.NaN), new Float32Array(64 * OUT));
    backend.retire(900);
    backend.free(slot(0));
    backend.open(slot(1), 0);
    for (let position = 0; position < 20; position++) {
      expect((await step([{ slot: slot(1), position, count: 1 }])).every(Number.isFinite)).toBe(true);
    }
  });
});

describe('slots', () => {
  it('are refused on a shard that is not there, twice, or with an old generation', () => {
    expect(() => backend.open(slot(0), 1)).toThrow(/shard 1 doesn't exist: there are 1/);
    backend.open(slot(0, 3), 0);
    expect(() => backend.open(slot(0, 4), 0)).toThrow(/open already/);
    backend.free(slot(0, 3));
    expect(() => backend.open(slot(0, 3), 0)).toThrow(/generation 3: the next must be higher, found 3/);
    expect(() => backend.open(slot(-1), 0)).toThrow(InputError);
    backend.open(slot(0, 9), 0);
  });

  it('are not freed by an old generation, and freeing unknown ones does nothing', () => {
    backend.open(slot(0, 5), 0);
    backend.free(slot(0, 4));
    backend.free(slot(7));
    expect(backend.stats().openSlots).toBe(1);
  });

  it('freed while a step is under way give zeros, and the step goes on for the others', async () => {
    backend.open(slot(0), 0);
    backend.open(slot(1), 0);
    const entries = [slot(0), slot(1)].map((one) => ({ slot: one, position: 0, count: 2 }));
    backend.announce({ id: 901, entries });
    const [first, second] = [new Float32Array(4 * OUT), new Float32Array(4 * OUT).fill(Number.NaN)];
    await backend.attend(901, 0, ramp(4 * QKV), first);
    backend.free(slot(0));
    expect(backend.stats().usedBlocks).toBe(1);
    await backend.attend(901, 1, ramp(4 * QKV), second);
    expect(second.subarray(0, 2 * OUT).every((x) => x === 0)).toBe(true);
    expect(second.subarray(2 * OUT)).toEqual(first.subarray(2 * OUT));
    backend.retire(901);
  });
});

describe('steps', () => {
  it('with a gap, a stale slot, an empty run or too long a context fail at attend', async () => {
    backend.open(slot(0, 1), 0);
    await step([{ slot: slot(0, 1), position: 0, count: 3 }]);
    for (const [entry, message] of [
      [{ slot: slot(0, 1), position: 4, count: 1 }, /holds 3 tokens: the next position is 3, found 4/],
      [{ slot: slot(0, 0), position: 3, count: 1 }, /generation 1 is open/],
      [{ slot: slot(8, 0), position: 0, count: 1 }, /not open/],
      [{ slot: slot(0, 1), position: 3, count: 0 }, /no run of rows/],
      [{ slot: slot(0, 1), position: -1, count: 1 }, /no run of rows/],
      [{ slot: slot(0, 1), position: 3, count: 98 }, /longest context is 100/],
    ] as const) {
      await expect(step([entry])).rejects.toThrow(message);
    }
    await step([{ slot: slot(0, 1), position: 3, count: 1 }]);
  });

  it('check layer, array sizes, ids and that layers follow each other', async () => {
    backend.open(slot(0), 0);
    const id = 902;
    backend.announce({ id, entries: [{ slot: slot(0), position: 0, count: 2 }] });
    expect(() => backend.announce({ id, entries: [] })).toThrow(/announced already/);
    const [qkv, output] = [ramp(2 * QKV), new Float32Array(2 * OUT)];
    await expect(backend.attend(id, 2, qkv, output)).rejects.toThrow(/layer 2 doesn't exist/);
    await expect(backend.attend(id, 0, qkv.subarray(1), output)).rejects.toThrow(/qkv must hold 64 floats/);
    await expect(backend.attend(id, 0, qkv, output.subarray(1))).rejects.toThrow(/output must hold 32 floats/);
    await expect(backend.attend(999, 0, qkv, output)).rejects.toThrow(/isn't announced/);
    const running = backend.attend(id, 0, qkv, output);
    await expect(backend.attend(id, 1, qkv, output)).rejects.toThrow(/under way/);
    await running;
    backend.retire(id);
    await expect(backend.attend(id, 1, qkv, output)).rejects.toThrow(/isn't announced/);
  });

  it('may be run again after they failed half-way', async () => {
    backend.open(slot(0), 0);
    await step([{ slot: slot(0), position: 0, count: 10 }]);
    const entries = [{ slot: slot(0), position: 10, count: 20 }];
    backend.announce({ id: 903, entries });
    await backend.attend(903, 0, ramp(20 * QKV), new Float32Array(20 * OUT));
    backend.retire(903);
    const again = await step(entries);
    expect(await step(entries)).toEqual(again);
  });

  it('give the log-sum-exp of the scores when asked', async () => {
    backend.open(slot(0), 0);
    backend.announce({ id: 904, entries: [{ slot: slot(0), position: 0, count: 2 }] });
    const qkv = ramp(2 * QKV);
    const logSumExp = new Float32Array(2 * 4);
    await backend.attend(904, 0, qkv, new Float32Array(2 * OUT), logSumExp);
    for (let row = 0; row < 2; row++) {
      for (let head = 0; head < 4; head++) {
        let sum = 0;
        for (let t = 0; t <= row; t++) {
          let dot = 0;
          for (let d = 0; d < 4; d++) {
            dot += (qkv[row * QKV + head * 4 + d] ?? 0) * (qkv[t * QKV + OUT + Math.floor(head / 2) * 4 + d] ?? 0);
          }
          sum += Math.exp(dot * geometry.softmaxScale);
        }
        expect(logSumExp[row * 4 + head]).toBeCloseTo(Math.log(sum), 5);
      }
    }
  });

  it('of no rows do nothing', async () => {
    backend.announce({ id: 905, entries: [] });
    await backend.attend(905, 0, new Float32Array(), new Float32Array());
    backend.retire(905);
  });
});

describe('closing', () => {
  it('gives everything back and refuses what comes later', async () => {
    backend.open(slot(0), 0);
    await step([{ slot: slot(0), position: 0, count: 5 }]);
    expect(backend.allocatedBytes()).toBeGreaterThan(0);
    await backend.close();
    await backend.close();
    expect(backend.allocatedBytes()).toBe(0);
    expect(backend.stats()).toMatchObject({ usedBlocks: 0, openSlots: 0 });
    expect(() => backend.open(slot(1), 0)).toThrow(NodeLostError);
    backend.free(slot(0));
    backend.retire(0);
  });
});

describe('creation', () => {
  const options = { kvDtype: 'f16', memoryBytes: 1 << 24 } as const;
  it.each([
    [{ ...geometry, headDim: 7 }, options, /headDim must be even/],
    [{ ...geometry, headDim: 514 }, options, /at most 512, found 514/],
    [{ ...geometry, layers: 0 }, options, /layers must be a whole number of at least 1/],
    [{ ...geometry, windows: [0] }, options, /one entry per layer \(2\), found 1/],
    [{ ...geometry, windows: [0, 2 ** 32 - 1] }, options, /at most 1073741824 tokens, found 4294967295/],
    [{ ...geometry, softmaxScale: Number.NaN }, options, /softmaxScale/],
    [geometry, { ...options, blockTokens: 24 }, /power of two from 16 to 512, found 24/],
    [geometry, { ...options, memoryBytes: 1000 }, /takes \d+ bytes; each of 1 memories has 1000/],
    [geometry, { ...options, memoryBytes: -1 }, /memoryBytes must be positive/],
  ])('refuses %j %j', async (wrong, wrongOptions, message) => {
    await expect(createInlineAttention(wrong, wrongOptions)).rejects.toThrow(message);
  });
});

describe('staging', () => {
  const large: AttentionGeometry = {
    layers: 2,
    kvHeads: 8,
    groupSize: 8,
    headDim: 128,
    softmaxScale: 0.088,
    windows: [0, 0],
    maxContextTokens: 4096,
  };
  const rows = 256;

  it('has room for 32 micro-batches of 256 rows of a 70B model while KV is full', async () => {
    const tier = await createInlineAttention(large, { kvDtype: 'f16', memoryBytes: 160 << 20, blockTokens: 128 });
    const blocks = tier.capacity.shards[0]?.blocks ?? 0;
    const announce = (id: number, index: number, position: number, count: number) =>
      tier.announce({ id, entries: [{ slot: slot(index), position, count }] });
    tier.open(slot(0), 0);
    // Lengths of all kinds, the longest that there may be too: none of them costs KV its room.
    for (const count of [900, 1100, 1300, 4096]) {
      announce(1, 0, 0, count);
      tier.retire(1);
    }
    for (let index = 1; tier.stats().usedBlocks < blocks; index++) {
      tier.open(slot(index), 0);
      announce(1, index, 0, Math.min(rows, (blocks - tier.stats().usedBlocks) * 128));
      tier.retire(1);
    }
    for (let id = 10; id < 42; id++) announce(id, id - 9, 0, rows);
    const qkv = new Float32Array(rows * 10 * 8 * 128);
    const output = new Float32Array(rows * 8 * 8 * 128).fill(1);
    await tier.attend(41, 0, qkv, output);
    expect(output.every((value) => value === 0)).toBe(true);
    await tier.close();
  });

  it('that is full fails that step only, with no block taken, and is reused for any size', async () => {
    const tier = await createInlineAttention(large, { kvDtype: 'int8', memoryBytes: 1 << 30, blockTokens: 128 });
    const maxStepRows = tier.limits?.maxStepRows ?? 0;
    expect(maxStepRows).toBeGreaterThan(4096);
    const announce = (id: number, count: number) => {
      tier.open(slot(id), 0);
      tier.announce({ id, entries: [{ slot: slot(id), position: 0, count }] });
    };
    const attend = (id: number) =>
      tier.attend(id, 0, new Float32Array(rows * 10 * 8 * 128), new Float32Array(rows * 8 * 8 * 128));
    const long = Math.floor(maxStepRows / 4096);
    for (let id = 0; id < long; id++) announce(id, 4096);
    let id = long;
    for (; id < 100; id++) announce(id, rows);
    const { usedBlocks } = tier.stats();
    announce(id, rows);
    expect(tier.stats().usedBlocks).toBe(usedBlocks);
    await expect(attend(id)).rejects.toMatchObject({ code: 'ATTENTION_STAGING' });
    await expect(attend(id)).rejects.toThrow(CapacityError);
    tier.retire(0);
    announce(++id, rows);
    await attend(id);
    await tier.close();
  });
});
