/** The worker pool: what it shares with no other backend, namely workers that run, wait, and die. */
import { type AttentionGeometry, CapacityError, NodeLostError } from '@glinthawk/core';
import { describe, expect, it, vi } from 'vitest';
import { platform } from '#platform';
import type { AttentionBackend } from './backend.ts';
import { createInlineAttention } from './inline.ts';
import type { KernelWorkerData } from './platform.ts';
import { createLocalAttention, createPool, localAttentionSource } from './pool.ts';

const geometry: AttentionGeometry = {
  layers: 3,
  kvHeads: 2,
  groupSize: 3,
  headDim: 16,
  softmaxScale: 0.25,
  windows: [0, 0, 8],
  maxContextTokens: 256,
};
const QKV = 5 * 2 * 16;
const OUT = 3 * 2 * 16;
const options = { kvDtype: 'f16', workers: 3, memoryBytes: 48 << 20 } as const;
const slot = (index: number) => ({ index, generation: 0 });
const ramp = (floats: number, seed: number) => new Float32Array(floats).map((_, i) => Math.sin(i + seed));

/** Six slots, several steps in flight at once, all layers. */
async function run(backend: AttentionBackend): Promise<Float32Array[]> {
  const shards = backend.capacity.shards.length;
  for (let index = 0; index < 6; index++) backend.open(slot(index), Math.floor((index * shards) / 6));
  const outputs: Float32Array[] = [];
  const sequences = [0, 2, 4].map(async (first) => {
    for (let position = 0; position < 40; position += 8) {
      const id = first * 1000 + position;
      const entries = [first, first + 1].map((index) => ({ slot: slot(index), position, count: 8 }));
      backend.announce({ id, entries });
      for (let layer = 0; layer < geometry.layers; layer++) {
        const output = new Float32Array(16 * OUT);
        await backend.attend(id, layer, ramp(16 * QKV, id + layer), output);
        outputs[(id * 3 + layer) / 8] = output;
      }
      backend.retire(id);
    }
  });
  await Promise.all(sequences);
  for (let index = 0; index < 6; index++) backend.free(slot(index));
  return outputs;
}

describe('a pool of workers', () => {
  it('gives what one thread gives, bit for bit, however many workers and memories there are', async () => {
    const inline = await createInlineAttention(geometry, options);
    const expected = await run(inline);
    await inline.close();
    for (const [workers, shards] of [
      [1, 1],
      [2, 3],
      [3, 1],
      [5, 2],
    ] as const) {
      const pool = await createLocalAttention(geometry, { ...options, workers, shards });
      expect(pool.capacity).toMatchObject({ workers });
      expect(pool.capacity.shards).toHaveLength(shards);
      expect(await run(pool)).toEqual(expected);
      expect(pool.stats()).toMatchObject({ usedBlocks: 0, openSlots: 0 });
      expect(pool.stats().busyMs).toBeGreaterThan(0);
      await pool.close();
      expect(pool.allocatedBytes()).toBe(0);
    }
  });

  it.each(['relaxed', 'plain'] as const)(
    'shares one long sequence: %s kernels, same bits as one thread',
    async (build) => {
      const long = { ...geometry, windows: [0, 0, 3000], maxContextTokens: 8192 };
      const outputs: Float32Array[][] = [];
      for (const workers of [0, 3]) {
        const common = { ...options, build, memoryBytes: 64 << 20 };
        const backend = await (workers === 0
          ? createInlineAttention(long, common)
          : createLocalAttention(long, { ...common, workers }));
        backend.open(slot(0), 0);
        const own: Float32Array[] = [];
        for (const [id, [position, count]] of [[0, 4200] as const, [4200, 1] as const, [4201, 40] as const].entries()) {
          backend.announce({ id, entries: [{ slot: slot(0), position, count }] });
          for (let layer = 0; layer < 3; layer++) {
            const output = new Float32Array(count * OUT);
            await backend.attend(id, layer, ramp(count * QKV, id + layer), output);
            if (id > 0) own.push(output);
          }
          backend.retire(id);
        }
        outputs.push(own);
        await backend.close();
      }
      expect(outputs[1]).toEqual(outputs[0]);
    },
  );

  it('runs many steps of several memories at once', async () => {
    const pool = await createLocalAttention(geometry, { ...options, workers: 2, shards: 3 });
    const alone = await createInlineAttention(geometry, options);
    const slots = Array.from({ length: 60 }, (_, index) => slot(index));
    const positions = [0, 1, 2, 3];
    const runOne = async (backend: AttentionBackend, index: number) => {
      const outputs: Float32Array[] = [];
      for (const position of positions) {
        const id = index * 10 + position;
        backend.announce({ id, entries: [{ slot: slot(index), position, count: 1 }] });
        for (let layer = 0; layer < 3; layer++) {
          const output = new Float32Array(OUT);
          await backend.attend(id, layer, ramp(QKV, id + layer), output);
          outputs.push(output);
        }
        backend.retire(id);
      }
      return outputs;
    };
    for (const { index } of slots) {
      pool.open(slot(index), index % 3);
      alone.open(slot(index), 0);
    }
    const expected: Float32Array[][] = [];
    for (const { index } of slots) expected.push(await runOne(alone, index));
    expect(await Promise.all(slots.map(({ index }) => runOne(pool, index)))).toEqual(expected);
    await pool.close();
    await alone.close();
  });

  it('whose worker dies rejects what is under way and resolves lost', async () => {
    const workers: KernelWorkerData[] = [];
    const watched = {
      ...platform,
      startWorker: (data: KernelWorkerData, onGone: (error: Error) => void) => {
        workers.push(data);
        return platform.startWorker(data, onGone);
      },
    };
    const pool = await createPool(geometry, { ...options, name: 'doomed', shards: 2 }, watched);
    expect(workers.map(({ index }) => index)).toEqual([0, 1, 2]);
    const victim = workers[0]?.memories[1];
    if (victim === undefined) throw new Error('no worker was started');
    for (const index of [0, 1, 2]) pool.open(slot(index), index === 0 ? 0 : 1);
    pool.announce({ id: 1, entries: [0, 1, 2].map((index) => ({ slot: slot(index), position: 0, count: 1 })) });
    // A page size that leads the kernels out of memory: a trap ends the worker, as a real fault would.
    new Uint32Array(victim.memory.buffer)[victim.config / 4 + 7] = 0x4000_0000;
    const attend = pool.attend(1, 1, ramp(3 * QKV, 0), new Float32Array(3 * OUT));
    await expect(attend).rejects.toThrow(NodeLostError);
    const lost = await pool.lost;
    expect(lost).toBeInstanceOf(NodeLostError);
    expect(lost).toMatchObject({ code: 'NODE_LOST', node: 'doomed' });
    await expect(pool.attend(1, 1, ramp(3 * QKV, 0), new Float32Array(3 * OUT))).rejects.toThrow(NodeLostError);
    await pool.close();
    expect(pool.allocatedBytes()).toBe(0);
  });

  it('closed with an attend under way rejects it, and lost stays unresolved', async () => {
    const idle = { hold() {}, letGo() {}, async terminate() {} }; // takes no task
    const pool = await createPool(geometry, options, { ...platform, startWorker: async () => idle });
    pool.open(slot(0), 0);
    pool.announce({ id: 1, entries: [{ slot: slot(0), position: 0, count: 1 }] });
    const attend = pool.attend(1, 0, ramp(QKV, 0), new Float32Array(OUT));
    const settled = expect(attend).rejects.toThrow(/closed while an attend was under way/);
    await pool.close();
    await settled;
    const first = await Promise.race([pool.lost, new Promise((resolve) => setTimeout(resolve, 20, 'still there'))]);
    expect(first).toBe('still there');
  });

  it('falls back to this thread where memory cannot be shared, and says so', async () => {
    const warnings: string[] = [];
    const logger = { debug() {}, info() {}, warn: (message: string) => warnings.push(message) };
    const alone = { ...platform, sharedMemory: () => false };
    const backend = await createPool(geometry, { ...options, logger }, alone);
    expect(backend.name).toBe('local');
    expect(backend.capacity.shards).toHaveLength(1);
    expect(warnings.join()).toMatch(/attention runs in this thread/);
    await run(backend);
    await backend.close();
  });

  it('that cannot start a worker says why and leaves none behind', async () => {
    let left = 0;
    const failing = {
      ...platform,
      async startWorker(data: KernelWorkerData, onGone: (error: Error) => void) {
        if (data.name.endsWith('2')) throw new Error('no threads left');
        left++;
        const worker = await platform.startWorker(data, onGone);
        return { ...worker, terminate: () => worker.terminate().then(() => void left--) };
      },
    };
    await expect(createPool(geometry, options, failing)).rejects.toThrow(/could not be started: no threads left/);
    expect(left).toBe(0);
  });

  it('that finds no address space says so, as something that trying again does not mend', async () => {
    const none = vi.spyOn(WebAssembly, 'Memory').mockImplementation(function none() {
      throw new RangeError('could not allocate memory');
    });
    try {
      await expect(createPool(geometry, options, platform)).rejects.toThrow(CapacityError);
    } finally {
      none.mockRestore();
    }
  });

  it('comes from its source as often as it is asked for', async () => {
    const source = localAttentionSource({ workers: 1, memoryBytes: 16 << 20 });
    expect(source.name).toBe('local');
    for (let i = 0; i < 2; i++) {
      const backend = await source.connect(geometry, { kvDtype: 'int8', fingerprint: 'f' });
      expect(backend).toMatchObject({ name: 'local', kvDtype: 'int8', geometry });
      await backend.close();
    }
  });
});
