/** The `webgpu` dense backend in Chromium. */
import { type GpuDevice, openGpuDevice } from '@glinthawk/dense/webgpu';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { denseWebGpuCases, runDenseWebGpuCase } from './dense-webgpu-cases.ts';

describe('webgpu dense in the browser', () => {
  let gpu: GpuDevice;
  beforeAll(async () => {
    gpu = await openGpuDevice({ allowSoftware: true });
  });
  afterAll(() => gpu.close());

  for (const testCase of denseWebGpuCases) {
    it(testCase.name, async () => {
      expect(await runDenseWebGpuCase(gpu, testCase)).toEqual([]);
    });
  }
});
