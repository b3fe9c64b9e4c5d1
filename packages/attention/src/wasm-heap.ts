/**
 * Memory of one shard: addresses in a WebAssembly memory that grows as they are first needed and never shrinks. The kernels'
 * own data and scratch lie below HEAP_BASE, above it the staging of steps in flight, and above that what is kept: blocks and
 * block tables, each of one size, which are reused for the same size only. So neither staging nor KV takes the other's room.
 */
import { CapacityError } from '@glinthawk/core';
import { StagingArena } from './staging-arena.ts';

const WASM_PAGE = 65536;
/** Just under 4 GiB, so that no end address wraps to 0. */
export const MAX_MEMORY_BYTES = 65535 * WASM_PAGE;
/** Above the module's `__heap_base`, which instantiateKernel checks. */
export const HEAP_BASE = 1 << 20;
/** Block tables and the kernels' Config have this much beside KV. */
export const TABLE_BYTES = 64 << 20;
const ALIGNMENT = 64;
const GROWTH_BYTES = 2 << 20;

/** How much a shard's memory may grow to, HEAP_BASE aside. */
export interface HeapBytes {
  readonly staging: number;
  /** KV blocks and block tables. */
  readonly kept: number;
}

function limitBytes({ staging, kept }: HeapBytes): number {
  return Math.min(MAX_MEMORY_BYTES, HEAP_BASE + roundUp(staging) + kept);
}

/** @throws CapacityError when the address space for it can't be had */
export function createMemory(bytes: HeapBytes, shared: boolean): WebAssembly.Memory {
  const maximum = Math.ceil(limitBytes(bytes) / WASM_PAGE);
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
  readonly #staging: StagingArena;
  readonly #keptBase: number;
  #stagingTop = HEAP_BASE;
  #top: number;
  #usedBytes = 0;
  #f32: Float32Array;
  #u32: Uint32Array;

  constructor(memory: WebAssembly.Memory, bytes: HeapBytes) {
    this.#memory = memory;
    this.#limit = limitBytes(bytes);
    this.#staging = new StagingArena(HEAP_BASE, roundUp(bytes.staging));
    this.#keptBase = HEAP_BASE + roundUp(bytes.staging);
    this.#top = this.#keptBase;
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

  /**
   * Bytes that were ever used. The memory's own length also has the staging range up to its end, but a page that was never
   * written to is only an address.
   */
  get touchedBytes(): number {
    return this.#stagingTop + (this.#top - this.#keptBase);
  }

  /** For one step; any size. @throws CapacityError */
  stage(bytes: number): number {
    const size = roundUp(bytes);
    const address = this.#staging.take(size);
    const end = address + size;
    try {
      if (end > this.#memory.buffer.byteLength) this.#grow(end);
    } catch (error) {
      this.#staging.giveBack(address, size);
      throw error;
    }
    this.#stagingTop = Math.max(this.#stagingTop, end);
    return address;
  }

  /** `bytes` as it was staged. */
  unstage(address: number, bytes: number): void {
    this.#staging.giveBack(address, roundUp(bytes));
  }

  /** To be kept; few different sizes. @throws CapacityError */
  allocate(bytes: number): number {
    const size = roundUp(bytes);
    const reused = this.#released.get(size)?.pop();
    if (reused !== undefined) {
      this.#usedBytes += size;
      return reused;
    }
    const address = this.#top;
    const end = address + size;
    if (end > this.#memory.buffer.byteLength) this.#grow(end);
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
    const grown = this.#memory.buffer.byteLength;
    const full = () =>
      new CapacityError(
        'WASM_MEMORY',
        `a shard needs ${end} bytes of WASM memory and may have ${this.#limit}: it holds ${this.#usedBytes}`,
        { hint: 'use more workers, smaller micro-batches, or a machine with more memory' },
      );
    if (end > this.#limit) throw full();
    const wanted = Math.min(this.#limit, Math.max(end, grown + GROWTH_BYTES));
    try {
      this.#memory.grow(Math.ceil((wanted - grown) / WASM_PAGE));
    } catch {
      throw full();
    }
    this.#f32 = new Float32Array(this.#memory.buffer);
    this.#u32 = new Uint32Array(this.#memory.buffer);
  }
}

/** To the start of a cache line. */
export function roundUp(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}
