/**
 * One micro-batch in flight on the GPU: its residual and what a step brings, with one submission and one read-back a call.
 * Everything is allocated when it is made; a call only writes into buffers, records dispatches and copies q, k, v out.
 */
import {
  DeviceError,
  fillRopeTable,
  InputError,
  type ModelConfig,
  type RopeFrequencies,
  toError,
} from '@glinthawk/core';
import type { DenseBatch, DenseStep, HeadRow } from '../backend.ts';
import { BUFFER_USAGE, checkedSetup, type GpuMemory, MAP_READ } from './gpu-memory.ts';
import { LIST_CANDIDATES, LIST_WORDS, type WeightFormat } from './kernels.ts';
import { compileSpecs, type Launch, LaunchTable, type RowScope } from './launch.ts';
import { paddedTo8 } from './matrix.ts';
import type { GpuWeights } from './model-weights.ts';
import type { Pipelines } from './pipelines.ts';
import type { BatchShape, Scratch, ScratchPool } from './scratch.ts';
import { type BatchBuffers, buildStages, type Stages } from './stages.ts';

/** What the batches of a backend share. */
export interface BatchContext {
  readonly device: GPUDevice;
  readonly memory: GpuMemory;
  readonly pipelines: Pipelines;
  readonly config: ModelConfig;
  readonly weights: GpuWeights;
  readonly format: WeightFormat;
  readonly rope: RopeFrequencies;
  readonly scratchPool: ScratchPool;
  readonly nothing: GPUBuffer;
  /** The backend's error once its device has failed: every call throws it. */
  failure(): DeviceError | null;
  /** Told when the batch is destroyed. */
  onDestroy(batch: WebGpuBatch): void;
}

/** The step's inputs lie in one buffer, in sections that may be bound: 256 is the largest alignment an adapter may ask for. */
const SECTION_BYTES = 256;

interface StepLayout {
  readonly tokenIds: number;
  readonly headRows: number;
  readonly inverseTemperatures: number;
  readonly ropeTable: number;
  readonly bytes: number;
}

function stepLayout({ maxRows, maxHeadRows }: BatchShape, headDim: number): StepLayout {
  const section = (elements: number) => Math.ceil(Math.max(1, elements * 4) / SECTION_BYTES) * SECTION_BYTES;
  const tokenIds = 0;
  const headRows = tokenIds + section(maxRows);
  const inverseTemperatures = headRows + section(maxHeadRows);
  const ropeTable = inverseTemperatures + section(maxHeadRows);
  return { tokenIds, headRows, inverseTemperatures, ropeTable, bytes: ropeTable + section(maxRows * headDim) };
}

export class WebGpuBatch implements DenseBatch {
  readonly maxRows: number;
  readonly qkv: Float32Array<ArrayBuffer>;
  readonly attended: Float32Array<ArrayBuffer>;

  readonly #context: BatchContext;
  readonly #shape: BatchShape;
  readonly #scratch: Scratch;
  readonly #buffers: readonly GPUBuffer[];
  readonly #readback: GPUBuffer;
  readonly #step: GPUBuffer;
  readonly #layout: StepLayout;
  readonly #host: ArrayBuffer;
  /** The attention output with padded rows, where they need padding. [maxRows, attendedStride] */
  readonly #padded: Float32Array<ArrayBuffer> | null;
  readonly #table: LaunchTable;
  readonly #embed: readonly Launch[];
  readonly #pre: readonly (readonly Launch[])[]; // [layers]
  readonly #post: readonly (readonly Launch[])[]; // [layers]
  readonly #head: readonly Launch[];
  readonly #oneRow: readonly Launch[];
  #rows = 0;
  #headRows = 0;
  #inverseTemperatures = new Float32Array(0);
  #destroyed = false;

  /** @throws CapacityError, DeviceError */
  static async create(context: BatchContext, shape: BatchShape): Promise<WebGpuBatch> {
    const { device, memory, pipelines, config, scratchPool } = context;
    const layout = stepLayout(shape, config.headDim);
    const made: GPUBuffer[] = [];
    let acquired: Scratch | null = null;
    let table: LaunchTable | null = null;
    try {
      const scratch = await checkedSetup(device, () => {
        acquired = scratchPool.acquire(shape);
        return acquired;
      });
      const { buffers, stages } = await checkedSetup(device, () => {
        const create = (label: string, bytes: number, usage: number) => {
          const buffer = memory.create(label, bytes, usage);
          made.push(buffer);
          return buffer;
        };
        const { storage, copyDst, mapRead } = BUFFER_USAGE;
        const rowBytes = paddedTo8(config.hiddenSize) * 4;
        const qkvBytes = shape.maxRows * qkvWidth(config) * 4;
        const resultBytes = shape.maxHeadRows * LIST_WORDS * 4;
        const own = {
          residual: create('residual', shape.maxRows * rowBytes, storage),
          headNormed: create('normed head rows', shape.maxHeadRows * rowBytes, storage),
          step: create('step', layout.bytes, storage | copyDst),
          readback: create('readback', Math.max(qkvBytes, resultBytes, config.vocabSize * 4), mapRead | copyDst),
        };
        const { step } = own;
        const sections: BatchBuffers = {
          residual: own.residual,
          headNormed: own.headNormed,
          tokenIds: { buffer: step, offset: layout.tokenIds, size: layout.headRows - layout.tokenIds },
          headRows: { buffer: step, offset: layout.headRows, size: layout.inverseTemperatures - layout.headRows },
          inverseTemperatures: {
            buffer: step,
            offset: layout.inverseTemperatures,
            size: layout.ropeTable - layout.inverseTemperatures,
          },
          ropeTable: { buffer: step, offset: layout.ropeTable, size: layout.bytes - layout.ropeTable },
        };
        const stages = buildStages({ ...context, scratch, batch: sections, maxHeadRows: shape.maxHeadRows });
        return { buffers: own, stages };
      });
      const specs = [stages.embed, ...stages.pre, ...stages.post, stages.head, stages.oneRow].flat();
      await compileSpecs(pipelines, specs, (scope) => maxRowsOf(scope, shape, scratch));
      const launches = await checkedSetup(device, () => {
        table = new LaunchTable(device, memory, pipelines, specs);
        return table;
      });
      const failure = context.failure();
      if (failure) throw failure;
      return new WebGpuBatch(context, shape, scratch, made, buffers.step, buffers.readback, layout, launches, stages);
    } catch (thrown) {
      for (const buffer of made) memory.destroy(buffer);
      (table as LaunchTable | null)?.destroy();
      if (acquired) scratchPool.release(shape);
      throw thrown;
    }
  }

  private constructor(
    context: BatchContext,
    shape: BatchShape,
    scratch: Scratch,
    buffers: readonly GPUBuffer[],
    step: GPUBuffer,
    readback: GPUBuffer,
    layout: StepLayout,
    table: LaunchTable,
    stages: Stages,
  ) {
    const { config } = context;
    const attendedWidth = config.heads * config.headDim;
    this.maxRows = shape.maxRows;
    this.qkv = new Float32Array(shape.maxRows * qkvWidth(config));
    this.attended = new Float32Array(shape.maxRows * attendedWidth);
    const stride = paddedTo8(attendedWidth);
    this.#padded = stride === attendedWidth ? null : new Float32Array(shape.maxRows * stride);
    this.#context = context;
    this.#shape = shape;
    this.#scratch = scratch;
    this.#buffers = buffers;
    this.#step = step;
    this.#readback = readback;
    this.#layout = layout;
    this.#host = new ArrayBuffer(layout.bytes);
    this.#table = table;
    this.#embed = table.launches(stages.embed);
    this.#pre = stages.pre.map((specs) => table.launches(specs));
    this.#post = stages.post.map((specs) => table.launches(specs));
    this.#head = table.launches(stages.head);
    this.#oneRow = table.launches(stages.oneRow);
  }

  async begin(step: DenseStep): Promise<void> {
    this.#check();
    this.#accept(step);
    await this.#runToQkv(this.#embed, this.#pre[0] ?? []);
  }

  async advance(layer: number): Promise<void> {
    this.#check();
    const post = this.#post[layer];
    const pre = this.#pre[layer + 1];
    if (!post || !pre) throw new RangeError(`layer ${layer} of ${this.#post.length} has no layer after it`);
    this.#sendAttended();
    await this.#runToQkv(post, pre);
  }

  async finish(): Promise<readonly HeadRow[]> {
    this.#check();
    // Without head rows nobody reads the last layer's output.
    if (this.#headRows === 0) return [];
    this.#sendAttended();
    const bytes = this.#headRows * LIST_WORDS * 4;
    const words = new Uint32Array(bytes / 4);
    await this.#run([this.#post.at(-1) ?? [], this.#head], this.#scratch.results, bytes, (mapped) => {
      words.set(new Uint32Array(mapped));
    });
    return Array.from({ length: this.#headRows }, (_, row) => this.#headRow(words, row));
  }

  async logits(index: number): Promise<Float32Array> {
    this.#check();
    if (!(index >= 0 && index < this.#headRows)) {
      throw new RangeError(`head row ${index} of a step with ${this.#headRows}`);
    }
    const logits = new Float32Array(this.#context.config.vocabSize);
    for (const launch of this.#oneRow) this.#table.write(launch, { rows: 1, first_row: index });
    this.#table.upload();
    const chunkRows = this.#rowsOf(Math.floor(index / this.#scratch.headChunkRows));
    await this.#run(
      [this.#oneRow],
      this.#scratch.logits,
      logits.byteLength,
      (mapped) => logits.set(new Float32Array(mapped)),
      // The kernel that the candidates came from, so that they are these logits to the bit.
      chunkRows,
    );
    return logits;
  }

  destroy(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    for (const buffer of this.#buffers) this.#context.memory.destroy(buffer);
    this.#table.destroy();
    this.#context.scratchPool.release(this.#shape);
    this.#context.onDestroy(this);
  }

  #check(): void {
    const failure = this.#context.failure();
    if (failure) throw failure;
    if (this.#destroyed) throw new DeviceError('BATCH_DESTROYED', 'this batch has been destroyed');
  }

  readonly #rowsOf = (scope: RowScope): number => {
    switch (scope) {
      case 'step':
        return this.#rows;
      case 'head':
        return this.#headRows;
      case 'one':
        return 1;
      default: {
        const { headChunkRows } = this.#scratch;
        return Math.min(headChunkRows, Math.max(0, this.#headRows - scope * headChunkRows));
      }
    }
  };

  /** Checks the step, and sends what the GPU needs of it. */
  #accept({ tokenIds, positions, headRows, inverseTemperatures }: DenseStep): void {
    const { config, rope, device } = this.#context;
    const rows = tokenIds.length;
    if (rows === 0 || rows > this.maxRows || positions.length !== rows) {
      throw new RangeError(
        `a step of ${rows} tokens and ${positions.length} positions in a batch of ${this.maxRows} rows`,
      );
    }
    if (headRows.length > this.#shape.maxHeadRows || inverseTemperatures.length !== headRows.length) {
      throw new RangeError(
        `${headRows.length} head rows with ${inverseTemperatures.length} temperatures in a batch of ${this.#shape.maxHeadRows}`,
      );
    }
    const unknown = tokenIds.find((id) => id >= config.vocabSize);
    if (unknown !== undefined) {
      throw new InputError('TOKEN_ID', `token id ${unknown} is outside the vocabulary of ${config.vocabSize}`);
    }
    if (headRows.some((row) => row >= rows)) throw new RangeError(`a head row outside the step's ${rows} rows`);
    this.#rows = rows;
    this.#headRows = headRows.length;
    this.#inverseTemperatures = Float32Array.from(inverseTemperatures);
    const layout = this.#layout;
    new Uint32Array(this.#host, layout.tokenIds, rows).set(tokenIds);
    new Uint32Array(this.#host, layout.headRows, headRows.length).set(headRows);
    new Float32Array(this.#host, layout.inverseTemperatures, headRows.length).set(inverseTemperatures);
    fillRopeTable(rope, positions, new Float32Array(this.#host, layout.ropeTable, rows * config.headDim));
    device.queue.writeBuffer(this.#step, 0, this.#host, 0, layout.ropeTable + rows * config.headDim * 4);
    this.#table.setRows(this.#rowsOf);
  }

  #sendAttended(): void {
    const { config, device } = this.#context;
    const width = config.heads * config.headDim;
    let source = this.attended;
    let floats = this.#rows * width;
    if (this.#padded) {
      const stride = paddedTo8(width);
      for (let row = 0; row < this.#rows; row++) {
        this.#padded.set(this.attended.subarray(row * width, (row + 1) * width), row * stride);
      }
      source = this.#padded;
      floats = this.#rows * stride;
    }
    device.queue.writeBuffer(this.#scratch.attended, 0, source.buffer, 0, floats * 4);
  }

  async #runToQkv(first: readonly Launch[], second: readonly Launch[]): Promise<void> {
    const floats = this.#rows * qkvWidth(this.#context.config);
    await this.#run([first, second], this.#scratch.qkv, floats * 4, (mapped) => this.qkv.set(new Float32Array(mapped)));
  }

  /** One submission: the launches, and a copy of the first bytes of `result`, which `receive` gets. */
  async #run(
    stages: readonly (readonly Launch[])[],
    result: GPUBuffer,
    bytes: number,
    receive: (mapped: ArrayBuffer) => void,
    likeRows?: number,
  ): Promise<void> {
    const { device } = this.#context;
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (const launches of stages) this.#table.record(pass, launches, this.#rowsOf, likeRows);
    pass.end();
    encoder.copyBufferToBuffer(result, 0, this.#readback, 0, bytes);
    device.queue.submit([encoder.finish()]);
    try {
      await this.#readback.mapAsync(MAP_READ, 0, bytes);
    } catch (cause) {
      throw this.#context.failure() ?? new DeviceError('GPU_ERROR', toError(cause).message, { cause });
    }
    receive(this.#readback.getMappedRange(0, bytes));
    this.#readback.unmap();
    const failure = this.#context.failure();
    if (failure) throw failure;
  }

  #headRow(words: Uint32Array<ArrayBuffer>, row: number): HeadRow {
    const floats = new Float32Array(words.buffer);
    const at = row * LIST_WORDS;
    const count = Math.min(LIST_CANDIDATES, this.#context.config.vocabSize);
    const best = floats[at + LIST_CANDIDATES] as number;
    const sum = floats[at + 2 * LIST_CANDIDATES] as number;
    const scaledSum = floats[at + 2 * LIST_CANDIDATES + 1] as number;
    const logSumExp = best + Math.log(sum);
    if (!Number.isFinite(logSumExp)) {
      throw new DeviceError('NOT_FINITE', 'the model gave logits that are not finite numbers', {
        hint: 'Weights may be damaged (`glinthawk doctor` looks for NaN) or too large for f16: try f32 weights.',
      });
    }
    return {
      ids: words.slice(at, at + count),
      logits: floats.slice(at + LIST_CANDIDATES, at + LIST_CANDIDATES + count),
      logSumExp,
      scaledLogSumExp: best * (this.#inverseTemperatures[row] ?? 1) + Math.log(scaledSum),
    };
  }
}

function qkvWidth({ heads, kvHeads, headDim }: ModelConfig): number {
  return (heads + 2 * kvHeads) * headDim;
}

/** The most rows that a launch's variants are chosen for. */
function maxRowsOf(scope: RowScope, { maxRows, maxHeadRows }: BatchShape, { headChunkRows }: Scratch): number {
  if (scope === 'step') return maxRows;
  return scope === 'head' ? maxHeadRows : headChunkRows;
}
