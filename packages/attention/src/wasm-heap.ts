/**
 * Addresses in the memory of one shard, which grows as they are first needed and never shrinks. At the low end lie the kernels'
 * data and what workers have of their own (kernel.ts); above it what is kept (Config, block tables: few sizes, each reused for
 * itself only), then the staging of steps in flight, then KV blocks by number. None of them takes another's room.
 */
import { CapacityError } from '@glinthawk/core';
import { StagingArena } from './staging-arena.ts';

const WASM_PAGE = 65536;
/** Just under 4 GiB, so that no end address wraps to 0. */
export const MAX_MEMORY_BYTES = 65535 * WASM_PAGE;
const ALIGNMENT = 64;
/** Each growth of a memory costs a garbage collection, up to 24 ms; what is grown and not used is only an address. */
const GROWTH_BYTES = 64 << 20;

/** What a memory has room for. Only what is used of it is more than an address. */
export interface HeapPlan {
  /** Of the kernels and their workers; a multiple of 64 KiB. */
  readonly baseBytes: number;
  readonly keptBytes: number;
  readonly stagingBytes: number;
  /** Whole frames of them (page-layout.ts). */
  readonly blocks: number;
  readonly frameBlocks: number;
  readonly frameBytes: number;
}

/** Where blocks begin. */
function blockBase({ baseBytes, keptBytes, stagingBytes }: Omit<HeapPlan, 'blocks'>): number {
  return baseBytes + roundUp(keptBytes) + roundUp(stagingBytes);
}

/** How many blocks one memory can have beside the rest. */
export function mostBlocks(plan: Omit<HeapPlan, 'blocks'>): number {
  return Math.max(0, Math.floor((MAX_MEMORY_BYTES - blockBase(plan)) / plan.frameBytes)) * plan.frameBlocks;
}

function limitBytes(plan: HeapPlan): number {
  return Math.min(MAX_MEMORY_BYTES, blockBase(plan) + (plan.blocks / plan.frameBlocks) * plan.frameBytes);
}

/** @throws CapacityError when the address space for it can't be had */
export function createMemory(plan: HeapPlan, shared: boolean): WebAssembly.Memory {
  const maximum = Math.ceil(limitBytes(plan) / WASM_PAGE);
  try {
    return new WebAssembly.Memory({ initial: plan.baseBytes / WASM_PAGE, maximum, shared });
  } catch (cause) {
    throw new CapacityError('WASM_MEMORY', `no WebAssembly memory of up to ${maximum * WASM_PAGE} bytes can be made`, {
      cause,
      hint: 'give the attention tier less memory',
    });
  }
}

export class WasmHeap {
  readonly #memory: WebAssembly.Memory;
  readonly #plan: HeapPlan;
  readonly #released = new Map<number, number[]>();
  readonly #staging: StagingArena;
  readonly #keptEnd: number;
  readonly #blockBase: number;
  #keptTop: number;
  #stagingTop: number;
  #blockTop: number;
  #f32: Float32Array;
  #u32: Uint32Array;
  #u8: Uint8Array;

  constructor(memory: WebAssembly.Memory, plan: HeapPlan) {
    this.#memory = memory;
    this.#plan = plan;
    this.#keptTop = plan.baseBytes;
    this.#keptEnd = plan.baseBytes + roundUp(plan.keptBytes);
    this.#blockBase = blockBase(plan);
    this.#staging = new StagingArena(this.#keptEnd, roundUp(plan.stagingBytes));
    this.#stagingTop = this.#keptEnd;
    this.#blockTop = this.#blockBase;
    this.#f32 = new Float32Array(memory.buffer);
    this.#u32 = new Uint32Array(memory.buffer);
    this.#u8 = new Uint8Array(memory.buffer);
  }

  /** The whole memory as it is now; to be taken anew after each allocation. Index is address / 4. */
  get f32(): Float32Array {
    return this.#f32;
  }

  get u32(): Uint32Array {
    return this.#u32;
  }

  get u8(): Uint8Array {
    return this.#u8;
  }

  /**
   * Bytes that were ever used. The memory's own length has more, but a page that was never written to is only an address; the
   * workers' part is used once there was something to attend to.
   */
  get touchedBytes(): number {
    const { baseBytes } = this.#plan;
    const staged = this.#stagingTop - this.#keptEnd;
    return (staged > 0 ? baseBytes : 0) + this.#keptTop - baseBytes + staged + (this.#blockTop - this.#blockBase);
  }

  /** A block as the kernels have it (place_of in kernels/layout.h), once memory has grown to hold its frame. @throws CapacityError */
  block(id: number): number {
    const { frameBlocks, frameBytes } = this.#plan;
    const index = id % frameBlocks;
    const address = this.#blockBase + ((id - index) / frameBlocks) * frameBytes;
    const end = address + frameBytes;
    if (end > this.#blockTop) {
      this.#reach(end);
      this.#blockTop = end;
    }
    return address + index;
  }

  /** For one step; any size. @throws CapacityError */
  stage(bytes: number): number {
    const size = roundUp(bytes);
    const address = this.#staging.take(size);
    const end = address + size;
    try {
      this.#reach(end);
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
    if (reused !== undefined) return reused;
    const address = this.#keptTop;
    const end = address + size;
    if (end > this.#keptEnd) {
      throw new CapacityError(
        'ATTENTION_SLOTS',
        `${size} bytes are needed for a block table; ${this.#keptEnd - address} of ${this.#plan.keptBytes} are left in this shard`,
        { hint: 'have fewer slots open' },
      );
    }
    this.#reach(end);
    this.#keptTop = end;
    return address;
  }

  /** `bytes` as it was allocated. */
  release(address: number, bytes: number): void {
    const size = roundUp(bytes);
    const list = this.#released.get(size);
    if (list === undefined) this.#released.set(size, [address]);
    else list.push(address);
  }

  #reach(end: number): void {
    const grown = this.#memory.buffer.byteLength;
    if (end <= grown) return;
    const wanted = Math.min(limitBytes(this.#plan), Math.max(end, grown + GROWTH_BYTES));
    try {
      this.#memory.grow(Math.ceil((wanted - grown) / WASM_PAGE));
    } catch (cause) {
      throw new CapacityError('WASM_MEMORY', `a shard's WASM memory can't grow from ${grown} to ${end} bytes`, {
        cause,
        hint: 'give the attention tier less memory, or the machine more',
      });
    }
    this.#f32 = new Float32Array(this.#memory.buffer);
    this.#u32 = new Uint32Array(this.#memory.buffer);
    this.#u8 = new Uint8Array(this.#memory.buffer);
  }
}

/** To the start of a cache line. */
export function roundUp(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}
