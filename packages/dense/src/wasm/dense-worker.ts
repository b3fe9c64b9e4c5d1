/**
 * One worker of the `wasm` dense backend: holds its columns of every matrix and runs each stage together with the others. What
 * a stage needs whole (the residual stream, activated columns) lies in the batch's shared memory; barriers stand where one worker
 * reads what others wrote. Norms that every worker needs whole are computed by each: cheaper than a barrier and a copy.
 */
import { CapacityError, GlinthawkError, type ModelConfig, type RowRange, toError } from '@glinthawk/core';
import { HEAD_CANDIDATES } from '../backend.ts';
import { Barrier } from './barrier.ts';
import { BatchMemory, batchMemoryBytes, transferList } from './batch-memory.ts';
import { Candidates, PANEL_SUMS, panelSums } from './candidates.ts';
import { addColumns, rmsNorm, rotateHead, swiGlu } from './layer-math.ts';
import type { MatrixEngine, WeightMatrix } from './matrix-engine.ts';
import type { MatrixRole, Reply, Request, VectorRole } from './messages.ts';
import { length, panelRange, type WorkerShare, workerShare } from './partition.ts';

/** Rows of the head that are reduced at once: their logits of one panel stay in cache. */
const HEAD_ROWS_AT_ONCE = 64;

/** How a worker is reached, in Node and in browsers. */
export interface WorkerPort {
  post(reply: Reply, transfer: ArrayBuffer[]): void;
}

export type EngineFactory = (wasmUrl: string | null) => Promise<MatrixEngine>;

type RequestOf<T extends Request['type']> = Extract<Request, { type: T }>;

/** Answers requests one by one until the thread is terminated. */
export function createRequestHandler(port: WorkerPort, createEngine: EngineFactory): (request: Request) => void {
  let worker: DenseWorker | null = null;
  let queue: Promise<void> = Promise.resolve();

  const handle = async (request: Request): Promise<void> => {
    if (request.type === 'start') {
      worker = new DenseWorker(request, await createEngine(request.wasmUrl));
      port.post(worker.report(), []);
      return;
    }
    if (worker === null) throw new Error(`${request.type} before start`);
    switch (request.type) {
      case 'matrix':
        worker.addMatrix(request);
        port.post(worker.report(), []);
        return;
      case 'vector':
        worker.addVector(request);
        port.post(worker.report(), []);
        return;
      case 'open':
        worker.open(request);
        port.post(worker.report(), []);
        return;
      case 'stage': {
        const reply = worker.run(request);
        if (reply !== null) port.post(reply, reply.sections === null ? [] : transferList(reply.sections));
        return;
      }
      case 'close':
        worker.close(request.batch);
        return;
      default:
        request satisfies never;
    }
  };

  return (request) => {
    queue = queue.then(() => handle(request)).catch((thrown) => port.post(failure(request, thrown), []));
  };
}

function failure(request: Request, thrown: unknown): Reply {
  const error = toError(thrown);
  return {
    type: 'failed',
    request: request.type,
    kind: error instanceof CapacityError ? 'capacity' : 'device',
    code: error instanceof GlinthawkError ? error.code : 'DENSE_WORKER_FAILED',
    message: error.message,
    hint: error instanceof GlinthawkError ? error.hint : undefined,
  };
}

class DenseWorker {
  readonly #config: ModelConfig;
  readonly #worker: number;
  readonly #workers: number;
  readonly #share: WorkerShare;
  readonly #engine: MatrixEngine;
  readonly #barrier: Barrier;
  readonly #matrices = new Map<string, WeightMatrix>();
  readonly #vectors = new Map<string, Float32Array>();
  readonly #batches = new Map<number, { readonly memory: BatchMemory; readonly shared: boolean }>();
  readonly #candidates = Array.from({ length: HEAD_ROWS_AT_ONCE }, () => new Candidates(HEAD_CANDIDATES));

  constructor(start: RequestOf<'start'>, engine: MatrixEngine) {
    this.#config = start.config;
    this.#worker = start.worker;
    this.#workers = start.workers;
    this.#share = workerShare(start.config, start.worker, start.workers);
    this.#engine = engine;
    this.#barrier = new Barrier(start.barrier, start.workers);
  }

  report(): Reply {
    const { description } = this.#engine;
    return {
      type: 'done',
      description,
      heapBytes: this.#engine.heapBytes(),
      liveTensors: this.#engine.liveTensors(),
    };
  }

  addMatrix({ role, index, inputs, outputs, weights, bias }: RequestOf<'matrix'>): void {
    this.#matrices.set(`${role}.${index}`, this.#engine.addMatrix(weights, inputs, outputs, bias));
  }

  addVector({ role, index, values }: RequestOf<'vector'>): void {
    this.#vectors.set(`${role}.${index}`, values);
  }

  open({ batch, shape, memory }: RequestOf<'open'>): void {
    const rows = shape.maxRows;
    const { hiddenSize, intermediateSize, heads, headDim } = this.#config;
    const inputFloats = rows * Math.max(hiddenSize, intermediateSize, heads * headDim);
    let outputFloats = 0;
    for (const [name, { outputs }] of this.#matrices) {
      const atOnce = name.startsWith('panel') ? Math.min(shape.maxHeadRows, HEAD_ROWS_AT_ONCE) : rows;
      outputFloats = Math.max(outputFloats, atOnce * outputs);
    }
    this.#engine.reserve(inputFloats, outputFloats);
    const buffer = memory ?? new ArrayBuffer(batchMemoryBytes(shape));
    this.#batches.set(batch, { memory: new BatchMemory(shape, buffer), shared: memory !== null });
  }

  close(batch: number): void {
    this.#batches.delete(batch);
  }

  /** Runs a stage; the reply comes from the worker that finished last, null from the others. */
  run({
    batch,
    stage,
    rows,
    headRows,
    layer,
    sections,
  }: RequestOf<'stage'>): Extract<Reply, { type: 'stage-done' }> | null {
    const opened = this.#batches.get(batch);
    if (opened === undefined) throw new Error(`no batch ${batch}`);
    const { memory, shared } = opened;
    if (sections !== null) memory.accept(sections);
    if (rows > 0) {
      if (stage !== 'begin') this.#postAttention(layer, memory, rows);
      if (stage !== 'finish') this.#preAttention(layer + 1, memory, rows);
      else this.#head(memory, headRows);
    }
    if (Atomics.add(memory.arrived, 0, 1) !== this.#workers - 1) return null;
    Atomics.store(memory.arrived, 0, 0);
    return { type: 'stage-done', batch, sections: shared ? null : memory.outputs(stage, rows, headRows) };
  }

  /** residual → qkv: RMSNorm, q, k and v with biases, q/k-norm, RoPE, for this worker's heads. */
  #preAttention(layer: number, memory: BatchMemory, rows: number): void {
    const { headDim, heads, kvHeads, rmsNormEps, qkNorm } = this.#config;
    const { start, end } = this.#share.qkvHeads;
    if (start === end) return;
    this.#normRows(memory.residual, this.#vector('attnNorm', layer), rows);
    const product = this.#engine.multiply(this.#matrix('qkv', layer), rows); // [rows, own heads · headDim]
    const qkvHeads = heads + 2 * kvHeads;
    const qNorm = qkNorm ? this.#vector('qNorm', layer) : null;
    const kNorm = qkNorm ? this.#vector('kNorm', layer) : null;
    let from = 0;
    for (let row = 0; row < rows; row++) {
      for (let head = start; head < end; head++, from += headDim) {
        const to = (row * qkvHeads + head) * headDim;
        if (head >= heads + kvHeads) {
          memory.qkv.set(product.subarray(from, from + headDim), to);
          continue;
        }
        const norm = head < heads ? qNorm : kNorm;
        if (norm !== null) rmsNorm(product, from, norm, rmsNormEps, product, from);
        rotateHead(product, from, memory.rope, row * headDim, headDim, memory.qkv, to);
      }
    }
  }

  /** attended → residual: output projection, residual, RMSNorm, SwiGLU, residual. */
  #postAttention(layer: number, memory: BatchMemory, rows: number): void {
    const { intermediateSize, heads, headDim } = this.#config;
    const { hidden, intermediate } = this.#share;
    this.#addProduct('output', layer, memory.attended, heads * headDim, memory, rows, hidden);
    this.#barrier.wait(); // the residual stream is whole
    if (length(intermediate) > 0) {
      this.#normRows(memory.residual, this.#vector('mlpNorm', layer), rows);
      const product = this.#engine.multiply(this.#matrix('gateUp', layer), rows); // [rows, own gate | own up]
      swiGlu(product, rows, length(intermediate), memory.activated, intermediateSize, intermediate.start);
    }
    this.#barrier.wait(); // all columns are activated, and nobody reads the residual stream
    this.#addProduct('down', layer, memory.activated, intermediateSize, memory, rows, hidden);
    this.#barrier.wait(); // the residual stream is whole
  }

  /** residual += source · W, for this worker's columns of the residual stream. */
  #addProduct(
    role: MatrixRole,
    layer: number,
    source: Float32Array,
    inputs: number,
    memory: BatchMemory,
    rows: number,
    columns: RowRange,
  ): void {
    if (length(columns) === 0) return;
    this.#engine.input(rows * inputs).set(source.subarray(0, rows * inputs));
    const product = this.#engine.multiply(this.#matrix(role, layer), rows);
    addColumns(product, rows, length(columns), memory.residual, this.#config.hiddenSize, columns.start);
  }

  /** residual → logits of this worker's panels, their sums and the best candidates among them, for the head rows. */
  #head(memory: BatchMemory, headRows: number): void {
    const { hiddenSize, vocabSize, rmsNormEps } = this.#config;
    const norm = this.#vector('finalNorm', 0);
    const { panels } = this.#share;
    for (let first = 0; first < headRows; first += HEAD_ROWS_AT_ONCE) {
      const rows = Math.min(HEAD_ROWS_AT_ONCE, headRows - first);
      const input = this.#engine.input(rows * hiddenSize);
      for (let i = 0; i < rows; i++) {
        const row = memory.headRows[first + i] as number;
        rmsNorm(memory.residual, row * hiddenSize, norm, rmsNormEps, input, i * hiddenSize);
      }
      for (let panel = panels.start; panel < panels.end; panel++) {
        const { start, end } = panelRange(vocabSize, panel);
        const columns = end - start;
        const product = this.#engine.multiply(this.#matrix('panel', panel), rows); // [rows, columns]
        for (let i = 0; i < rows; i++) {
          const row = first + i;
          memory.logits.set(product.subarray(i * columns, (i + 1) * columns), row * vocabSize + start);
          this.#candidate(i).offer(product, i * columns, columns, start);
          const temperature = memory.inverseTemperatures[row] as number;
          const sumsAt = (row * memory.panels + panel) * PANEL_SUMS;
          panelSums(product, i * columns, columns, temperature, memory.panelSums, sumsAt);
        }
      }
      for (let i = 0; i < rows; i++) {
        const at = (first + i) * this.#workers + this.#worker;
        memory.candidateCounts[at] = this.#candidate(i).write(
          memory.candidateIds,
          memory.candidateLogits,
          at * HEAD_CANDIDATES,
        );
      }
    }
  }

  #normRows(source: Float32Array, weight: Float32Array, rows: number): void {
    const { hiddenSize, rmsNormEps } = this.#config;
    const input = this.#engine.input(rows * hiddenSize);
    for (let row = 0; row < rows; row++) rmsNorm(source, row * hiddenSize, weight, rmsNormEps, input, row * hiddenSize);
  }

  #candidate(i: number): Candidates {
    return this.#candidates[i] as Candidates;
  }

  #matrix(role: MatrixRole, index: number): WeightMatrix {
    const matrix = this.#matrices.get(`${role}.${index}`);
    if (matrix === undefined) throw new Error(`no matrix ${role} ${index}`);
    return matrix;
  }

  #vector(role: VectorRole, index: number): Float32Array {
    const vector = this.#vectors.get(`${role}.${index}`);
    if (vector === undefined) throw new Error(`no vector ${role} ${index}`);
    return vector;
  }
}
