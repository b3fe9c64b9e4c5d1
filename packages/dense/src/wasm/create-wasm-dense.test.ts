import { CapacityError, DeviceError, InputError, ModelFormatError, type WeightSource } from '@glinthawk/core';
import { expect, it } from 'vitest';
import { randomModel } from '../../../../test/kernels/random-model.ts';
import type { DenseBackend, DenseBatch } from '../backend.ts';
import { createWasmDense } from './create-wasm-dense.ts';

const model = randomModel({ layers: 3, windows: [0, 0, 0] });

const step = (ids: number[]) => ({
  tokenIds: Uint32Array.from(ids),
  positions: Uint32Array.from(ids, (_, i) => i),
  headRows: Uint32Array.from([ids.length - 1]),
  inverseTemperatures: Float32Array.from([1]),
});

async function runThrough(backend: DenseBackend, batch: DenseBatch, ids: number[]): Promise<number> {
  await batch.begin(step(ids));
  for (let layer = 0; layer < backend.config.layers - 1; layer++) {
    batch.attended.fill(0.1);
    await batch.advance(layer);
  }
  const [head] = await batch.finish();
  return head?.logSumExp ?? Number.NaN;
}

it('says what it is, counts bytes, and gives everything back', async () => {
  const backend = await createWasmDense(model, { workers: 2 });
  expect(backend.info.kind).toBe('wasm');
  expect(backend.info.description).toBe('tfjs-wasm SIMD, f32 weights, 2 workers');
  const loaded = backend.allocatedBytes();
  expect(loaded).toBeGreaterThan(backend.info.weightBytes);
  const batch = await backend.createBatch({ maxRows: 8, maxHeadRows: 2 });
  expect(backend.allocatedBytes()).toBeGreaterThan(loaded);
  batch.destroy();
  batch.destroy();
  expect(backend.allocatedBytes()).toBe(loaded);
  await backend.close();
  await backend.close();
  expect(backend.allocatedBytes()).toBe(0);
  await expect(backend.createBatch({ maxRows: 1, maxHeadRows: 1 })).rejects.toThrow(DeviceError);
});

it('says why there is one worker where memory is not shared', async () => {
  const backend = await createWasmDense(model, { workers: 3, sharedMemory: false });
  expect(backend.info.description).toBe('tfjs-wasm SIMD, f32 weights, 1 worker, no shared memory (switched off)');
  await backend.close();
});

it('micro-batches in flight do not disturb each other, and memory stays as it is from step to step', async () => {
  const backend = await createWasmDense(model, { workers: 2 });
  try {
    const batches = await Promise.all([5, 6, 7].map(() => backend.createBatch({ maxRows: 16, maxHeadRows: 1 })));
    const inputs = [[1, 2, 3], [9], Array.from({ length: 16 }, (_, i) => i)];
    const alone: number[] = [];
    for (const [i, batch] of batches.entries()) alone.push(await runThrough(backend, batch, inputs[i] as number[]));
    const bytes = backend.allocatedBytes();
    for (let round = 0; round < 20; round++) {
      const together = await Promise.all(batches.map((batch, i) => runThrough(backend, batch, inputs[i] as number[])));
      expect(together).toEqual(alone);
    }
    const again = await backend.createBatch({ maxRows: 1, maxHeadRows: 1 });
    again.destroy();
    expect(backend.allocatedBytes()).toBe(bytes);
  } finally {
    await backend.close();
  }
});

it('a step without head rows, or without rows, gives no heads', async () => {
  const backend = await createWasmDense(model, { workers: 2 });
  try {
    const batch = await backend.createBatch({ maxRows: 4, maxHeadRows: 1 });
    for (const ids of [[1, 2], []]) {
      await batch.begin({ ...step(ids), headRows: new Uint32Array(0), inverseTemperatures: new Float32Array(0) });
      await batch.advance(0);
      await batch.advance(1);
      expect(await batch.finish()).toEqual([]);
    }
  } finally {
    await backend.close();
  }
});

it('refuses what does not fit the batch or the model', async () => {
  const backend = await createWasmDense(model, { workers: 1 });
  try {
    const batch = await backend.createBatch({ maxRows: 2, maxHeadRows: 1 });
    await expect(batch.begin(step([1, 2, 3]))).rejects.toThrow(
      '3 rows and 1 head rows in a micro-batch made for 2 and 1',
    );
    await expect(batch.begin(step([257]))).rejects.toThrow(InputError);
    await expect(batch.advance(2)).rejects.toThrow(RangeError);
    const first = batch.begin(step([1]));
    await expect(batch.advance(0)).rejects.toThrow('a call under way');
    await first;
  } finally {
    await backend.close();
  }
});

it('a micro-batch without room is refused, and the backend goes on', async () => {
  const backend = await createWasmDense(model, { workers: 2 });
  try {
    const bytes = backend.allocatedBytes();
    await expect(backend.createBatch({ maxRows: 2 ** 23, maxHeadRows: 1 })).rejects.toThrow(CapacityError);
    expect(backend.allocatedBytes()).toBeLessThan(2 * bytes);
    const batch = await backend.createBatch({ maxRows: 1, maxHeadRows: 1 });
    expect(await runThrough(backend, batch, [1])).toBeGreaterThan(0);
  } finally {
    await backend.close();
  }
});

it('closing rejects what is under way', async () => {
  const backend = await createWasmDense(model, { workers: 2 });
  const batch = await backend.createBatch({ maxRows: 1, maxHeadRows: 1 });
  const pending = expect(batch.begin(step([1]))).rejects.toMatchObject({ code: 'DENSE_CLOSED' });
  await backend.close();
  await pending;
});

it('a model that workers cannot hold is refused before anything is read', async () => {
  const { config } = randomModel();
  const large = {
    ...config,
    layers: 80,
    hiddenSize: 8192,
    intermediateSize: 28672,
    heads: 64,
    kvHeads: 8,
    headDim: 128,
  };
  const weights = new Proxy({} as WeightSource, {
    get: () => {
      throw new Error('read');
    },
  });
  const refused = createWasmDense({ config: large, weights }, { workers: 2 });
  await expect(refused).rejects.toThrow(CapacityError);
  await expect(refused).rejects.toThrow(/GiB in each of 2 dense workers; a WebAssembly memory ends at 4.0 GiB/);
});

it('a weight that cannot be read ends the workers and passes the error on', async () => {
  const weights: WeightSource = {
    ...model.weights,
    async read(name, rows) {
      if (name === 'layers.1.down') throw new ModelFormatError('TRUNCATED', 'the file ends early');
      return model.weights.read(name, rows);
    },
  };
  await expect(createWasmDense({ config: model.config, weights }, { workers: 2 })).rejects.toThrow(
    'the file ends early',
  );
});
