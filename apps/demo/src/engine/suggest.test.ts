/** What the page proposes, for machines and models of all sizes. */
import { describe, expect, it } from 'vitest';
import type { Capabilities, GpuVerdict, ModelReport } from './protocol.ts';
import { suggestSettings } from './suggest.ts';

const gpu: GpuVerdict = { name: 'a GPU', software: false, features: [], limits: {} };
const laptop: Capabilities = {
  crossOriginIsolated: true,
  secureContext: true,
  cores: 8,
  deviceMemoryGiB: 8,
  gpus: [gpu],
  gpuUnavailable: null,
  kernels: { build: 'relaxed', relaxedSimd: true, sharedMemory: true },
};

function model(contextTokens: number, kvBytes: number, wasmWeightBytes: number): ModelReport {
  const kvBytesPerToken = { f32: kvBytes * 2, f16: kvBytes, int8: kvBytes / 2 };
  return {
    description: { contextTokens, kvBytesPerToken },
    wasmWeightBytes,
    gpuWeightBytes: wasmWeightBytes / 2,
    hasChatTemplate: true,
  } as unknown as ModelReport;
}

describe('suggestSettings', () => {
  it('takes a hardware GPU, and leaves the engine a core', () => {
    expect(suggestSettings(laptop, null)).toMatchObject({
      mode: 'two-tiers',
      dense: 'webgpu',
      workers: 7,
      inFlight: 'auto',
    });
  });

  it('takes WASM where the GPU is software or none, and leaves it half of the cores', () => {
    const software = { ...laptop, gpus: [{ ...gpu, software: true }] };
    expect(suggestSettings(software, null)).toMatchObject({ dense: 'wasm', workers: 4, allowSoftwareGpu: false });
    expect(suggestSettings({ ...laptop, gpus: [] }, null)).toMatchObject({ dense: 'wasm', workers: 4 });
  });

  it('has a worker on one core, and not one for each of many', () => {
    expect(suggestSettings({ ...laptop, cores: 1 }, null).workers).toBe(1);
    expect(suggestSettings({ ...laptop, cores: 128 }, null).workers).toBe(8);
  });

  it('gives KV a share of the memory, less after WASM weights, and no more than a model can use', () => {
    const big = model(8192, 100_000, 4 * 2 ** 30);
    expect(suggestSettings(laptop, big).kvBytes).toBe(2 ** 30);
    expect(suggestSettings({ ...laptop, gpus: [] }, big).kvBytes).toBe(2 ** 29);
    const small = suggestSettings(laptop, model(512, 1536, 10_000_000)).kvBytes;
    expect(small).toBeGreaterThanOrEqual(64 * 2 ** 20);
    expect(small).toBeLessThan(200 * 2 ** 20);
  });

  it('is whole and positive where nothing is told, and where weights leave nothing', () => {
    for (const deviceMemoryGiB of [null, 0.25, 2]) {
      const { kvBytes } = suggestSettings({ ...laptop, gpus: [], deviceMemoryGiB }, model(8192, 100_000, 20 * 2 ** 30));
      expect(Number.isInteger(kvBytes)).toBe(true);
      expect(kvBytes).toBeGreaterThanOrEqual(64 * 2 ** 20);
    }
  });
});
