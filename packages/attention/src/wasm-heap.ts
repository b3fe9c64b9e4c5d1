/**
 * Memory of one shard: addresses in a WebAssembly memory that grows as they are first needed and never shrinks. What is
 * released is reused for the same size only: blocks are all alike, staging buffers come in powers of two. The kernels'
 * own data and scratch lie below HEAP_BASE.
 */
import { CapacityError } from '@glinthawk/core';

const WASM_PAGE = 65536;
/** Just under 4 GiB, so that no end address wraps to 0. */
export const MAX_MEMORY_BYTES = 65535 * WASM_PAGE;
/** Above the module's `__heap_base`, which instantiateKernel checks. */
export const HEAP_BASE = 1 << 20;
/** Of a memory that is meant for KV: staging, block tables and step descriptors have this much beside it. */
export const STAGING_BYTES = 256 << 20;
const ALIGNMENT = 64;
const GROWTH_BYTES = 2 << 20;

/** @throws CapacityError when the address space for it can't be had */
export function createMemory(heapBytes: number, shared: boolean): WebAssembly.Memory {
  const maximum = Math.ceil(Math.min(MAX_MEMORY_BYTES, HEAP_BASE + heapBytes) / WASM_PAGE);
  try {
    return new WebAssembly.Memory({ initial: HEAP_BASE / WASM_PAGE, maximum, shared });
  } catch (cause) {
    throw new CapacityError('WASM_MEMORY', `no WebAssembly memory of up to ${maximum * WASM_PAGE} bytes can be made`, {
      cause,
      hint: 'use fewer workers or less memory a worker',
    });
  }
}

export class WasmHeap {
  readonly #memory: WebAssembly.Memory;
  readonly #limit: number;
  readonly #released = new Map<number, number[]>();
  #top = HEAP_BASE;
  #usedBytes = 0;
  #f32: Float32Array;
  #u32: Uint32Array;

  constructor(memory: WebAssembly.Memory, limitBytes: number) {
    this.#memory = memory;
    this.#limit = Math.min(MAX_MEMORY_BYTES, HEAP_BASE + limitBytes);
    this.#f32 = new Float32Array(memory.buffer);
    this.#u32 = new Uint32Array(memory.buffer);
  }

  /** The whole memory as it is now; taken anew after each allocation. Index is address / 4. */
  get f32(): Float32Array {
    return this.#f32;
  }

  get u32(): Uint32Array {
    return this.#u32;
  }

  /** Bytes given out and not released. */
  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** Bytes that the memory has grown to. */
  get committedBytes(): number {
    return this.#memory.buffer.byteLength;
  }

  /** @throws CapacityError */
  allocate(bytes: number): number {
    const size = roundUp(bytes);
    const reused = this.#released.get(size)?.pop();
    if (reused !== undefined) {
      this.#usedBytes += size;
      return reused;
    }
    const address = this.#top;
    const end = address + size;
    if (end > this.committedBytes) this.#grow(end);
    this.#top = end;
    this.#usedBytes += size;
    return address;
  }

  /** `bytes` as it was allocated. */
  release(address: number, bytes: number): void {
    const size = roundUp(bytes);
    const list = this.#released.get(size);
    if (list === undefined) this.#released.set(size, [address]);
    else list.push(address);
    this.#usedBytes -= size;
  }

  #grow(end: number): void {
    const full = () =>
      new CapacityError(
        'WASM_MEMORY',
        `a shard needs ${end} bytes of WASM memory and may have ${this.#limit}: it holds ${this.#usedBytes}`,
        { hint: 'use more workers, smaller micro-batches, or a machine with more memory' },
      );
    if (end > this.#limit) throw full();
    const wanted = Math.min(this.#limit, Math.max(end, this.committedBytes + GROWTH_BYTES));
    try {
      this.#memory.grow(Math.ceil((wanted - this.committedBytes) / WASM_PAGE));
    } catch {
      throw full();
    }
    this.#f32 = new Float32Array(this.#memory.buffer);
    this.#u32 = new Uint32Array(this.#memory.buffer);
  }
}

function roundUp(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

/** A size for buffers that vary: few different ones, so that released ones fit again. */
export function sizeClass(bytes: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(bytes, 256)));
}
