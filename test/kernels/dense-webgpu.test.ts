/** The `webgpu` dense backend in Node: results, refusals, faults, and what it leaves behind. */
import { CapacityError, DeviceError, InputError } from '@glinthawk/core';
import type { DenseBackend } from '@glinthawk/dense';
import { createWebGpuDense, type GpuDevice, openGpuDevice, probeAdapters } from '@glinthawk/dense/webgpu';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { describeWithWebGpu } from '../webgpu.ts';
import { denseWebGpuCases, runDenseWebGpuCase } from './dense-webgpu-cases.ts';
import { randomModel } from './random-model.ts';
import { randomAttended, randomStep, type StepTrace, sameBits, traceStep } from './step-trace.ts';

const open = () => openGpuDevice({ allowSoftware: true });

describeWithWebGpu('webgpu dense', () => {
  let gpu: GpuDevice;
  beforeAll(async () => {
    gpu = await open();
  });
  afterAll(() => gpu.close());

  for (const testCase of denseWebGpuCases) {
    it(testCase.name, async () => {
      expect(await runDenseWebGpuCase(gpu, testCase)).toEqual([]);
    });
  }

  it('works on a device with the smallest limits and no features', async () => {
    const baseline = await openGpuDevice({ allowSoftware: true, baseline: true });
    try {
      expect(baseline.device.limits.maxStorageBuffersPerShaderStage).toBe(8);
      expect(baseline.device.limits.maxComputeWorkgroupStorageSize).toBe(16_384);
      expect(
        await runDenseWebGpuCase(baseline, { name: '', config: {}, rows: [1, 33], options: [{ weightDtype: 'f16' }] }),
      ).toEqual([]);
      await expect(createWebGpuDense(baseline, randomModel(), { f16Kernels: 'native' })).rejects.toThrow(DeviceError);
    } finally {
      baseline.close();
    }
  });

  it('runs steps of several batches at once without mixing them', async () => {
    const model = randomModel();
    const backend = await createWebGpuDense(gpu, model, { weightDtype: 'f32' });
    const steps = [1, 5, 9, 12].map((rows) => ({
      step: randomStep(model.config, rows, rows),
      attended: randomAttended(model.config, rows, rows),
    }));
    const alone: StepTrace[] = [];
    for (const { step, attended } of steps) alone.push(await traceStep(backend, step, attended, 12));
    const together = await Promise.all(steps.map(({ step, attended }) => traceStep(backend, step, attended, 12)));
    expect(together.map((trace, i) => sameBits(trace, alone[i] as StepTrace))).toEqual(steps.map(() => true));
    await backend.close();
  });

  it('gives back a batch’s memory, and shares scratch between batches', async () => {
    const backend = await createWebGpuDense(gpu, randomModel());
    const before = backend.allocatedBytes();
    const first = await backend.createBatch({ maxRows: 8, maxHeadRows: 8 });
    const one = backend.allocatedBytes() - before;
    const second = await backend.createBatch({ maxRows: 8, maxHeadRows: 8 });
    expect(backend.allocatedBytes() - before).toBeLessThan(2 * one);
    second.destroy();
    second.destroy();
    expect(backend.allocatedBytes() - before).toBe(one);
    first.destroy();
    expect(backend.allocatedBytes()).toBe(before);
    await backend.createBatch({ maxRows: 3, maxHeadRows: 1 });
    await backend.close();
    await backend.close();
    expect(backend.allocatedBytes()).toBe(0);
    await expect(backend.createBatch({ maxRows: 1, maxHeadRows: 1 })).rejects.toThrow(DeviceError);
  });

  it('refuses what does not fit', async () => {
    const model = randomModel();
    const backend = await createWebGpuDense(gpu, model);
    await expect(backend.createBatch({ maxRows: 70_000, maxHeadRows: 1 })).rejects.toThrow(CapacityError);
    const before = backend.allocatedBytes();
    // Rows of gate and up would need a buffer beyond every GPU's limit.
    const wide = randomModel({ intermediateSize: 20_000, hiddenSize: 8, layers: 1 });
    const wideBackend = await createWebGpuDense(gpu, wide);
    const held = wideBackend.allocatedBytes();
    await expect(wideBackend.createBatch({ maxRows: 60_000, maxHeadRows: 1 })).rejects.toThrow(CapacityError);
    expect(wideBackend.allocatedBytes()).toBe(held);
    await wideBackend.close();
    expect(backend.allocatedBytes()).toBe(before);
    await expect(createWebGpuDense(gpu, model, { maxBindingBytes: 100 })).rejects.toThrow(/at most 100/);
    const batch = await backend.createBatch({ maxRows: 2, maxHeadRows: 1 });
    const step = {
      tokenIds: Uint32Array.of(1, 257),
      positions: Uint32Array.of(0, 1),
      headRows: Uint32Array.of(1),
      inverseTemperatures: Float32Array.of(1),
    };
    await expect(batch.begin(step)).rejects.toThrow(InputError);
    await expect(batch.begin({ ...step, tokenIds: Uint32Array.of(1, 2, 3) })).rejects.toThrow(RangeError);
    await expect(batch.begin({ ...step, tokenIds: Uint32Array.of(1, 2), headRows: Uint32Array.of(2) })).rejects.toThrow(
      RangeError,
    );
    await backend.close();
  });

  it('needs no head rows', async () => {
    const model = randomModel();
    const backend = await createWebGpuDense(gpu, model);
    const step = {
      ...randomStep(model.config, 3, 1),
      headRows: new Uint32Array(),
      inverseTemperatures: new Float32Array(),
    };
    expect((await traceStep(backend, step, randomAttended(model.config, 3, 1))).heads).toEqual([]);
    await backend.close();
  });

  it('says when logits are not numbers', async () => {
    const model = randomModel();
    const { weights } = model;
    const damaged = {
      ...weights,
      read: async (...args: Parameters<typeof weights.read>) => {
        const values = await weights.read(...args);
        return args[0] === 'finalNorm' ? values.fill(Number.NaN) : values;
      },
    };
    const backend = await createWebGpuDense(gpu, { config: model.config, weights: damaged });
    const step = randomStep(model.config, 1, 1);
    await expect(traceStep(backend, step, randomAttended(model.config, 1, 1))).rejects.toThrow(/not finite/);
    await backend.close();
  });

  it('leaves nothing behind when a model cannot be loaded', async () => {
    const model = randomModel();
    const weights = {
      ...model.weights,
      read: async (...args: Parameters<typeof model.weights.read>) => {
        if (args[0] === 'layers.1.down') throw new Error('disk gone');
        return model.weights.read(...args);
      },
    };
    await expect(createWebGpuDense(gpu, { config: model.config, weights })).rejects.toThrow('disk gone');
  });

  describe('when the device fails', () => {
    const started = async () => {
      const device = await open();
      const model = randomModel();
      const backend = await createWebGpuDense(device, model);
      const batch = await backend.createBatch({ maxRows: 1, maxHeadRows: 1 });
      return { device, backend, begin: () => batch.begin(randomStep(model.config, 1, 1)) };
    };
    const closed = async (backend: DenseBackend, device: GpuDevice) => {
      await backend.close();
      expect(backend.allocatedBytes()).toBe(0);
      device.close();
    };

    it('a lost device rejects pending and later calls, and tells', async () => {
      const { device, backend, begin } = await started();
      await begin();
      const pending = begin();
      device.device.destroy();
      await expect(pending).rejects.toThrow(DeviceError);
      expect((await backend.lost).code).toBe('DEVICE_LOST');
      await expect(begin()).rejects.toThrow(DeviceError);
      await closed(backend, device);
    });

    it('an error that nobody caught does so too', async () => {
      const { device, backend, begin } = await started();
      device.device.createBuffer({ size: 16, usage: 0 });
      expect((await backend.lost).code).toBe('GPU_ERROR');
      await expect(begin()).rejects.toThrow(DeviceError);
      await closed(backend, device);
    });
  });

  it('a software adapter must be asked for', async () => {
    const { adapters } = await probeAdapters();
    expect(adapters.length).toBeGreaterThan(0);
    expect(adapters[0]?.limits.maxBufferSize).toBeGreaterThan(0);
    if (adapters.some(({ software }) => !software)) return;
    await expect(openGpuDevice({ allowSoftware: false })).rejects.toThrow(/only WebGPU adapter is software/);
  });
});
