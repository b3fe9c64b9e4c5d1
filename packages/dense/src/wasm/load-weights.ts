/**
 * Brings a model's weights into the workers, matrix by matrix: each worker is sent the rows (outputs) that it computes, and a few
 * matrices are under way at a time, so that the caller's thread holds little beside the embedding table.
 */
import {
  CapacityError,
  type LayerWeight,
  type ModelConfig,
  type RowRange,
  type WeightName,
  type WeightSource,
} from '@glinthawk/core';
import type { MatrixRole, VectorRole } from './messages.ts';
import { length, overlap, panelRange, type WorkerShare, workerShare } from './partition.ts';
import { HEAP_LIMIT_BYTES, packedBytes } from './tfjs-engine.ts';
import type { WorkerPool } from './worker-pool.ts';

/** Matrices that a worker is sent before its answer to an earlier one is awaited: one is packed while the next is read. */
const MATRICES_AHEAD = 2;
/** Kept free in a worker's memory for activations, code and the allocator. */
const HEAP_RESERVE_BYTES = 160 * 1024 ** 2;
/** The embedding table is read in pieces of about this many floats. */
const TABLE_PIECE_FLOATS = 4 * 1024 * 1024;

export interface LoadedWeights {
  /** Rows are gathered by the caller's thread; the head's panels are the workers'. */
  readonly embeddings: Float32Array; // [vocab, hidden]
  /** Bytes of all weights as they are held: f32, the embedding table once more where the head is tied to it. */
  readonly weightBytes: number;
}

/** A matrix as one worker holds it: rows of one or several tensors of the model, one below the other. */
interface MatrixPlan {
  readonly role: MatrixRole;
  readonly index: number;
  readonly inputs: number;
  readonly pieces: readonly Piece[];
}

interface Piece {
  readonly weight: WeightName;
  readonly bias: WeightName | null;
  readonly rows: RowRange;
}

/** @throws CapacityError when the workers' memories can't hold the model */
export function checkCapacity(config: ModelConfig, workers: number): void {
  const needed = largestHeap(config, workers);
  if (needed <= HEAP_LIMIT_BYTES) return;
  let enough = workers + 1;
  while (enough < 64 && largestHeap(config, enough) > HEAP_LIMIT_BYTES) enough++;
  const gib = (bytes: number) => `${(bytes / 1024 ** 3).toFixed(1)} GiB`;
  throw new CapacityError(
    'WASM_MEMORY',
    `the model's f32 weights need ${gib(needed)} in each of ${workers} dense workers; a WebAssembly memory ends at ${gib(HEAP_LIMIT_BYTES)}`,
    {
      hint:
        enough < 64 ? `use at least ${enough} workers, or the webgpu dense backend` : 'use the webgpu dense backend',
    },
  );
}

/** Bytes of the fullest worker's heap. */
function largestHeap(config: ModelConfig, workers: number): number {
  let largest = 0;
  for (let worker = 0; worker < workers; worker++) {
    let staging = 0;
    let bytes = HEAP_RESERVE_BYTES;
    for (const { inputs, pieces } of planWorker(config, workerShare(config, worker, workers))) {
      const outputs = pieces.reduce((sum, piece) => sum + length(piece.rows), 0);
      bytes += packedBytes(inputs, outputs);
      staging = Math.max(staging, inputs * outputs * 4);
    }
    largest = Math.max(largest, bytes + staging);
  }
  return largest;
}

/** @throws ModelFormatError, CapacityError, DeviceError */
export async function loadWeights(
  config: ModelConfig,
  weights: WeightSource,
  pool: WorkerPool,
): Promise<LoadedWeights> {
  const { vocabSize, hiddenSize, layers, qkNorm } = config;
  const embeddings = await readTable(weights, vocabSize, hiddenSize);
  let floats = embeddings.length;

  const vectors: [VectorRole, number, WeightName][] = [['finalNorm', 0, 'finalNorm']];
  for (let layer = 0; layer < layers; layer++) {
    vectors.push(['attnNorm', layer, `layers.${layer}.attnNorm`], ['mlpNorm', layer, `layers.${layer}.mlpNorm`]);
    if (qkNorm) vectors.push(['qNorm', layer, `layers.${layer}.qNorm`], ['kNorm', layer, `layers.${layer}.kNorm`]);
  }
  for (const [role, index, name] of vectors) {
    const values = await weights.read(name);
    floats += values.length;
    await pool.requestAll({ type: 'vector', role, index, values });
  }

  const sending: Promise<unknown>[][] = Array.from({ length: pool.size }, () => []);
  const plans = sending.map((_, worker) => planWorker(config, workerShare(config, worker, pool.size)));
  const longest = Math.max(...plans.map((plan) => plan.length));
  try {
    for (let i = 0; i < longest; i++) {
      for (const [worker, plan] of plans.entries()) {
        const matrix = plan[i];
        if (matrix === undefined) continue;
        const { values, bias } = await assemble(matrix, weights, embeddings);
        floats += values.length + (bias?.length ?? 0);
        const { role, index, inputs } = matrix;
        const outputs = values.length / inputs;
        const queue = sending[worker] as Promise<unknown>[];
        if (queue.length >= MATRICES_AHEAD) await queue.shift();
        const transfer = bias === null ? [values.buffer] : [values.buffer, bias.buffer];
        const sent = pool.request(
          worker,
          { type: 'matrix', role, index, inputs, outputs, weights: values, bias },
          transfer,
        );
        sent.catch(() => {}); // seen when the queue is awaited
        queue.push(sent);
      }
    }
    await Promise.all(sending.flat());
  } finally {
    await Promise.allSettled(sending.flat());
  }
  return { embeddings, weightBytes: floats * 4 };
}

/** Everything that a worker holds, in the order in which it is sent. Matrices of no columns are left out. */
function planWorker(config: ModelConfig, share: WorkerShare): MatrixPlan[] {
  const { hiddenSize, intermediateSize, heads, kvHeads, headDim, vocabSize, tiedEmbeddings } = config;
  const { hidden, intermediate, qkvHeads } = share;
  const plans: MatrixPlan[] = [];
  const add = (role: MatrixRole, index: number, inputs: number, pieces: readonly Piece[]) => {
    const filled = pieces.filter((piece) => length(piece.rows) > 0);
    if (filled.length > 0) plans.push({ role, index, inputs, pieces: filled });
  };
  const headRows = (first: number, count: number): RowRange => {
    const { start, end } = overlap(qkvHeads, { start: first, end: first + count });
    return { start: start * headDim, end: end * headDim };
  };
  for (let panel = share.panels.start; panel < share.panels.end; panel++) {
    const weight = tiedEmbeddings ? 'embed' : 'head';
    add('panel', panel, hiddenSize, [{ weight, bias: null, rows: panelRange(vocabSize, panel) }]);
  }
  for (let layer = 0; layer < config.layers; layer++) {
    const piece = (weight: LayerWeight, bias: LayerWeight | null, rows: RowRange): Piece => ({
      weight: `layers.${layer}.${weight}`,
      bias: bias === null ? null : `layers.${layer}.${bias}`,
      rows,
    });
    const { qkvBias, outputBias, mlpBias } = config;
    add('qkv', layer, hiddenSize, [
      piece('q', qkvBias ? 'qBias' : null, headRows(0, heads)),
      piece('k', qkvBias ? 'kBias' : null, headRows(heads, kvHeads)),
      piece('v', qkvBias ? 'vBias' : null, headRows(heads + kvHeads, kvHeads)),
    ]);
    add('output', layer, heads * headDim, [piece('o', outputBias ? 'oBias' : null, hidden)]);
    add('gateUp', layer, hiddenSize, [
      piece('gate', mlpBias ? 'gateBias' : null, intermediate),
      piece('up', mlpBias ? 'upBias' : null, intermediate),
    ]);
    add('down', layer, intermediateSize, [piece('down', mlpBias ? 'downBias' : null, hidden)]);
  }
  return plans;
}

interface AssembledMatrix {
  readonly values: Float32Array<ArrayBuffer>; // [outputs, inputs]
  readonly bias: Float32Array<ArrayBuffer> | null; // [outputs]
}

/** Copies the pieces into buffers of their own, which may be handed to a worker whatever the source does with its arrays. */
async function assemble(plan: MatrixPlan, weights: WeightSource, embeddings: Float32Array): Promise<AssembledMatrix> {
  const { inputs, pieces } = plan;
  const outputs = pieces.reduce((sum, piece) => sum + length(piece.rows), 0);
  const values = allocate(outputs * inputs);
  const bias = pieces.some((piece) => piece.bias !== null) ? allocate(outputs) : null;
  let row = 0;
  for (const piece of pieces) {
    const { start, end } = piece.rows;
    const rows =
      piece.weight === 'embed'
        ? embeddings.subarray(start * inputs, end * inputs)
        : await weights.read(piece.weight, piece.rows);
    values.set(rows, row * inputs);
    if (bias !== null && piece.bias !== null) bias.set(await weights.read(piece.bias, piece.rows), row);
    row += end - start;
  }
  return { values, bias };
}

async function readTable(weights: WeightSource, rows: number, columns: number): Promise<Float32Array> {
  const table = allocate(rows * columns);
  const piece = Math.max(1, Math.floor(TABLE_PIECE_FLOATS / columns));
  for (let start = 0; start < rows; start += piece) {
    const end = Math.min(rows, start + piece);
    table.set(await weights.read('embed', { start, end }), start * columns);
  }
  return table;
}

function allocate(floats: number): Float32Array<ArrayBuffer> {
  try {
    return new Float32Array(floats);
  } catch (cause) {
    throw new CapacityError('MEMORY', `${floats * 4} bytes for weights could not be allocated`, { cause });
  }
}
