/**
 * Buffers that hold activations only within one submission. Submissions run in order, so all batches of a size share them;
 * what must outlive a submission (the residual, the normed head rows) belongs to its batch.
 */
import type { ModelConfig } from '@glinthawk/core';
import { BUFFER_USAGE, type GpuMemory } from './gpu-memory.ts';
import { HEAD_CHUNK, LIST_WORDS } from './kernels.ts';
import { paddedTo8 } from './matrix.ts';

export interface BatchShape {
  readonly maxRows: number;
  readonly maxHeadRows: number;
}

/** Head rows whose logits are held at a time: their buffer must fit a binding and needn't be huge. */
const LOGITS_BYTES = 64 << 20;

export interface Scratch {
  readonly attended: GPUBuffer; // [maxRows, attendedStride]
  readonly normed: GPUBuffer; // [maxRows, hiddenStride]
  readonly qkv: GPUBuffer; // [maxRows, (heads + 2 kvHeads) headDim]
  readonly gateUp: GPUBuffer; // [maxRows, 2 intermediate]
  readonly activated: GPUBuffer; // [maxRows, intermediateStride]
  readonly logits: GPUBuffer; // [headChunkRows, vocab]
  readonly lists: GPUBuffer; // [headChunkRows, chunks, LIST_WORDS]
  readonly results: GPUBuffer; // [maxHeadRows, LIST_WORDS]
  readonly headChunkRows: number;
}

export class ScratchPool {
  readonly #memory: GpuMemory;
  readonly #config: ModelConfig;
  readonly #maxBindingBytes: number;
  readonly #pool = new Map<string, { readonly scratch: Scratch; users: number }>();

  constructor(memory: GpuMemory, config: ModelConfig, maxBindingBytes: number) {
    this.#memory = memory;
    this.#config = config;
    this.#maxBindingBytes = maxBindingBytes;
  }

  /** @throws CapacityError when a buffer would be larger than the GPU allows. */
  acquire(shape: BatchShape): Scratch {
    const key = `${shape.maxRows},${shape.maxHeadRows}`;
    const known = this.#pool.get(key);
    if (known) {
      known.users++;
      return known.scratch;
    }
    const scratch = this.#create(shape);
    this.#pool.set(key, { scratch, users: 1 });
    return scratch;
  }

  release(shape: BatchShape): void {
    const key = `${shape.maxRows},${shape.maxHeadRows}`;
    const entry = this.#pool.get(key);
    if (!entry || --entry.users > 0) return;
    this.#pool.delete(key);
    for (const item of Object.values(entry.scratch)) if (typeof item !== 'number') this.#memory.destroy(item);
  }

  #create({ maxRows, maxHeadRows }: BatchShape): Scratch {
    const { hiddenSize, intermediateSize, heads, kvHeads, headDim, vocabSize } = this.#config;
    const { storage, copyDst, copySrc } = BUFFER_USAGE;
    const made: GPUBuffer[] = [];
    const rows = (label: string, count: number, width: number, usage: number = storage) => {
      const buffer = this.#memory.create(label, count * width * 4, usage);
      made.push(buffer);
      return buffer;
    };
    const logitsBytes = Math.min(LOGITS_BYTES, this.#maxBindingBytes);
    const headChunkRows = Math.max(1, Math.min(maxHeadRows, Math.floor(logitsBytes / (vocabSize * 4))));
    try {
      return {
        attended: rows('attended', maxRows, paddedTo8(heads * headDim), storage | copyDst),
        normed: rows('normed', maxRows, paddedTo8(hiddenSize)),
        qkv: rows('qkv', maxRows, (heads + 2 * kvHeads) * headDim, storage | copySrc),
        gateUp: rows('gate|up', maxRows, 2 * intermediateSize),
        activated: rows('activated', maxRows, paddedTo8(intermediateSize)),
        logits: rows('logits', headChunkRows, vocabSize, storage | copySrc),
        lists: rows('lists', headChunkRows, Math.ceil(vocabSize / HEAD_CHUNK) * LIST_WORDS),
        results: rows('results', maxHeadRows, LIST_WORDS, storage | copySrc),
        headChunkRows,
      };
    } catch (thrown) {
      for (const buffer of made) this.#memory.destroy(buffer);
      throw thrown;
    }
  }
}
