/** The WGSL kernels in Node, on Dawn. */
import { type GpuDevice, openGpuDevice } from '@glinthawk/dense/webgpu';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { describeWithWebGpu } from '../webgpu.ts';
import { wgslCases } from './wgsl-cases.ts';
import { WgslRunner } from './wgsl-runner.ts';

describeWithWebGpu('WGSL kernels', () => {
  let gpu: GpuDevice;
  let runner: WgslRunner;
  beforeAll(async () => {
    gpu = await openGpuDevice({ allowSoftware: true });
    runner = new WgslRunner(gpu);
  });
  afterAll(() => gpu.close());

  for (const wgslCase of wgslCases) {
    it(wgslCase.name, async (context) => {
      const isSupported = wgslCase.kernels.every((kernel) => runner.supports(kernel));
      // lavapipe has shader-f16: there nothing may be left out.
      if (process.env.GLINTHAWK_TEST_ADAPTER === 'lavapipe') expect(isSupported).toBe(true);
      context.skip(!isSupported, 'the adapter has no shader-f16');
      expect(await wgslCase.run(runner)).toBeNull();
    });
  }
});
