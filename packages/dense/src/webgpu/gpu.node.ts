/**
 * WebGPU in Node: Dawn, from the npm package `webgpu`. The native module is loaded at the first call, so that importing this
 * costs nothing and `VK_ICD_FILENAMES` may be set until then.
 */
import { DeviceError } from '@glinthawk/core';

/** Dawn dies (SIGSEGV) when its instance is collected while a device lives, so instances stay for the process's life. */
const instances = new Map<string, GPU>();

/**
 * The platform's WebGPU. `GLINTHAWK_ADAPTER` (or `adapter`) chooses among several drivers by a part of the adapter's name.
 * @throws DeviceError when the native module can't be loaded.
 */
export async function platformGpu(adapter = process.env.GLINTHAWK_ADAPTER): Promise<GPU> {
  const flags = adapter ? [`adapter=${adapter}`] : [];
  const known = instances.get(flags.join());
  if (known) return known;
  try {
    const { create } = await import('webgpu');
    const gpu = create(flags);
    instances.set(flags.join(), gpu);
    return gpu;
  } catch (cause) {
    throw new DeviceError('WEBGPU_MISSING', 'WebGPU (Dawn, the npm package webgpu) could not be loaded', {
      cause,
      hint: 'Use --dense wasm, or see whether this platform and its C++ library are among those that the package supports.',
    });
  }
}
