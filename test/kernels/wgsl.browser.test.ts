/** The WGSL kernels in Chromium. */
import { type GpuDevice, openGpuDevice } from '@glinthawk/dense/webgpu';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { wgslCases } from './wgsl-cases.ts';
import { WgslRunner } from './wgsl-runner.ts';

describe('WGSL kernels in the browser', () => {
  let gpu: GpuDevice;
  let runner: WgslRunner;
  beforeAll(async () => {
    gpu = await openGpuDevice({ allowSoftware: true });
    runner = new WgslRunner(gpu);
  });
  afterAll(() => gpu.close());

  for (const wgslCase of wgslCases) {
    it(wgslCase.name, async (context) => {
      context.skip(!wgslCase.kernels.every((kernel) => runner.supports(kernel)), 'the adapter has no shader-f16');
      expect(await wgslCase.run(runner)).toBeNull();
    });
  }
});
