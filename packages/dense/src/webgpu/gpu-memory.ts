/**
 * GPU buffers with a byte counter: everything that the dense backend allocates goes through one GpuMemory, which destroys
 * what is left when it is closed.
 */
import { CapacityError, DeviceError } from '@glinthawk/core';

/** GPUBufferUsage, which Node has no global of (WebGPU section 5.1). */
export const BUFFER_USAGE = { mapRead: 0x1, copySrc: 0x4, copyDst: 0x8, uniform: 0x40, storage: 0x80 } as const;
/** GPUMapMode.READ. */
export const MAP_READ = 0x1;

export class GpuMemory {
  readonly #device: GPUDevice;
  readonly #live = new Set<GPUBuffer>();
  #bytes = 0;

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** A zeroed buffer of at least `bytes`. @throws CapacityError when one buffer can't be that large. */
  create(label: string, bytes: number, usage: number): GPUBuffer {
    const { maxBufferSize, maxStorageBufferBindingSize } = this.#device.limits;
    const limit = usage & BUFFER_USAGE.storage ? Math.min(maxBufferSize, maxStorageBufferBindingSize) : maxBufferSize;
    if (bytes > limit) {
      throw new CapacityError('GPU_BUFFER', `${label} needs ${bytes} bytes in one buffer; this GPU allows ${limit}`, {
        hint: 'Use fewer rows in a micro-batch.',
      });
    }
    const size = Math.max(16, Math.ceil(bytes / 4) * 4);
    const buffer = this.#device.createBuffer({ label, size, usage });
    this.#live.add(buffer);
    this.#bytes += size;
    return buffer;
  }

  destroy(buffer: GPUBuffer): void {
    if (!this.#live.delete(buffer)) return;
    this.#bytes -= buffer.size;
    buffer.destroy();
  }

  close(): void {
    for (const buffer of [...this.#live]) this.destroy(buffer);
  }
}

/**
 * Runs `setup` so that what the GPU finds wrong with it becomes an exception. `setup` is synchronous because error scopes
 * belong to the device: nothing else may get between.
 * @throws CapacityError when the GPU is out of memory, DeviceError when it finds the calls invalid.
 */
export async function checkedSetup<T>(device: GPUDevice, setup: () => T): Promise<T> {
  device.pushErrorScope('validation');
  device.pushErrorScope('out-of-memory');
  let scopes: readonly Promise<GPUError | null>[] = [];
  let result: T;
  try {
    result = setup();
  } finally {
    scopes = [device.popErrorScope(), device.popErrorScope()];
  }
  const [memory, validation] = await Promise.all(scopes);
  if (memory) throw new CapacityError('GPU_MEMORY', `the GPU has no memory left: ${memory.message}`);
  if (validation) throw new DeviceError('GPU_ERROR', validation.message);
  return result;
}
