/**
 * The `wasm` dense backend: for machines without a usable GPU. Matrix products by TensorFlow.js's WASM library on several workers,
 * each with its columns of every matrix in f32; the rest in TypeScript. One message a stage and micro-batch.
 */
import {
  CapacityError,
  type DeviceError,
  type Logger,
  type ModelConfig,
  type RopeFrequencies,
  ropeFrequencies,
  silentLogger,
} from '@glinthawk/core';
import { platform } from '#dense-wasm';
import type { DenseBackend, DenseBatch, DenseInfo, DenseModel } from '../backend.ts';
import { BatchMemory, type BatchShape, batchMemoryBytes } from './batch-memory.ts';
import { checkCapacity, type LoadedWeights, loadWeights } from './load-weights.ts';
import { type BatchOwner, WasmBatch } from './wasm-batch.ts';
import { WorkerPool } from './worker-pool.ts';

/** More share a memory bus without gaining. */
const MOST_DEFAULT_WORKERS = 8;
/** While one call runs, a second one's message is already with the workers. */
const CALLS_AT_ONCE = 2;

export interface WasmDenseOptions {
  /** Threads for the matrix products; by default one for each core, 8 at most. 1 where memory can't be shared. */
  readonly workers?: number;
  /** false: activations travel in messages, as in pages that are not cross-origin isolated. By default what the runtime allows. */
  readonly sharedMemory?: boolean;
  readonly logger?: Logger;
}

/**
 * Starts the workers and loads the weights.
 * @throws CapacityError when a worker's memory (4 GiB) can't hold its share; ModelFormatError when weights can't be read; DeviceError
 * when workers or WebAssembly SIMD can't be had
 */
export async function createWasmDense(model: DenseModel, options: WasmDenseOptions = {}): Promise<DenseBackend> {
  const { config, weights } = model;
  const logger = options.logger ?? silentLogger;
  const shared = platform.canShareMemory() && options.sharedMemory !== false;
  const wanted = options.workers ?? Math.min(platform.cores(), MOST_DEFAULT_WORKERS);
  if (!Number.isInteger(wanted) || wanted < 1) throw new RangeError(`${wanted} dense workers; there must be 1 or more`);
  const workers = shared ? wanted : 1;
  checkCapacity(config, workers);

  const started = performance.now();
  const pool = new WorkerPool(platform, workers, shared);
  try {
    const { barrier } = pool;
    const answers = await Promise.all(
      Array.from({ length: workers }, (_, worker) =>
        pool.request(worker, { type: 'start', config, worker, workers, barrier, wasmUrl: platform.wasmUrl }),
      ),
    );
    const loaded = await loadWeights(config, weights, pool);
    const library = answers[0]?.description ?? '';
    const threads = `${workers} worker${workers === 1 ? '' : 's'}`;
    const memory = shared ? '' : `, no shared memory (${platform.noSharedMemory})`;
    const description = `${library}, f32 weights, ${threads}${memory}`;
    logger.info(`dense tier: ${description}`, {
      weightBytes: loaded.weightBytes,
      heapBytes: pool.heapBytes(),
      loadMs: Math.round(performance.now() - started),
    });
    return new WasmDense(config, loaded, pool, description);
  } catch (error) {
    await pool.close();
    throw error;
  }
}

class WasmDense implements DenseBackend, BatchOwner {
  readonly info: DenseInfo;
  readonly config: ModelConfig;
  readonly concurrency = CALLS_AT_ONCE;
  readonly lost: Promise<DeviceError>;
  readonly frequencies: RopeFrequencies;
  readonly pool: WorkerPool;
  #embeddings: Float32Array | null;
  readonly #batchBytes = new Map<number, number>();
  #nextBatch = 0;

  constructor(config: ModelConfig, { embeddings, weightBytes }: LoadedWeights, pool: WorkerPool, description: string) {
    this.info = { kind: 'wasm', description, weightDtype: 'f32', weightBytes };
    this.config = config;
    this.lost = pool.lost;
    this.frequencies = ropeFrequencies(config);
    this.pool = pool;
    this.#embeddings = embeddings;
  }

  get embeddings(): Float32Array {
    return this.#embeddings ?? new Float32Array(0);
  }

  async createBatch({
    maxRows,
    maxHeadRows,
  }: {
    readonly maxRows: number;
    readonly maxHeadRows: number;
  }): Promise<DenseBatch> {
    const { hiddenSize, intermediateSize, headDim, heads, kvHeads, vocabSize } = this.config;
    const shape: BatchShape = {
      maxRows,
      maxHeadRows,
      workers: this.pool.size,
      hiddenSize,
      intermediateSize,
      headDim,
      heads,
      qkvHeads: heads + 2 * kvHeads,
      vocabSize,
    };
    const memory = allocateMemory(batchMemoryBytes(shape), this.pool.shared);
    const batch = this.#nextBatch++;
    try {
      await this.pool.requestAll({ type: 'open', batch, shape, memory: memory instanceof ArrayBuffer ? null : memory });
    } catch (error) {
      this.pool.notify({ type: 'close', batch }); // those workers that had room
      throw error;
    }
    // Without shared memory the worker has a block of its own, of the same size.
    this.#batchBytes.set(batch, memory.byteLength * (this.pool.shared ? 1 : 2));
    return new WasmBatch(batch, this, new BatchMemory(shape, memory));
  }

  allocatedBytes(): number {
    let bytes = this.pool.heapBytes() + this.embeddings.byteLength;
    for (const batchBytes of this.#batchBytes.values()) bytes += batchBytes;
    return bytes;
  }

  release(batch: number): void {
    this.#batchBytes.delete(batch);
  }

  async close(): Promise<void> {
    this.#embeddings = null;
    this.#batchBytes.clear();
    await this.pool.close();
  }
}

function allocateMemory(bytes: number, shared: boolean): ArrayBuffer | SharedArrayBuffer {
  try {
    return shared ? new SharedArrayBuffer(bytes) : new ArrayBuffer(bytes);
  } catch (cause) {
    throw new CapacityError('MEMORY', `${bytes} bytes for a micro-batch could not be allocated`, {
      cause,
      hint: 'use smaller micro-batches, or fewer of them in flight',
    });
  }
}
