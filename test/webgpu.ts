/**
 * Tests that need WebGPU in Node: skipped by name where there is no adapter, failed where one is required
 * (GLINTHAWK_REQUIRE_WEBGPU=1, as `npm test` sets), so that the kernels never go unchecked in silence.
 */
import { probeAdapters } from '@glinthawk/dense/webgpu';
import { describe, it } from 'vitest';

const probe = await probeAdapters();

/** A `describe` whose tests need a WebGPU adapter, a software one if need be. */
export function describeWithWebGpu(title: string, tests: () => void): void {
  const [adapter] = probe.adapters;
  if (adapter) {
    describe(`${title} on ${adapter.description}`, () => tests());
  } else if (process.env.GLINTHAWK_REQUIRE_WEBGPU) {
    describe(title, () => {
      it('has a WebGPU adapter', () => {
        throw new Error(`GLINTHAWK_REQUIRE_WEBGPU is set, but ${probe.unavailable}`);
      });
    });
  } else {
    describe.skip(`${title} (no WebGPU: ${probe.unavailable})`, () => {
      it('needs a WebGPU adapter', () => {});
    });
  }
}
