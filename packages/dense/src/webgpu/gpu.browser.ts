/** WebGPU where the platform itself has it: browsers and Deno. */
import { DeviceError } from '@glinthawk/core';

/**
 * The platform's WebGPU. There is one per page: `adapter` can't be chosen by name here and is ignored.
 * @throws DeviceError where there is none.
 */
export async function platformGpu(_adapter?: string): Promise<GPU> {
  const gpu = (globalThis.navigator as { gpu?: GPU } | undefined)?.gpu;
  if (gpu) return gpu;
  throw new DeviceError('WEBGPU_MISSING', 'this browser has no WebGPU here', {
    hint: 'Use a browser with WebGPU, and a secure context (https or localhost); or the wasm backend.',
  });
}
