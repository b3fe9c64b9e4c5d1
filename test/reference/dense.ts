/**
 * The dense tier in plain loops and double precision: what every dense backend is compared with. Each row is computed by
 * itself, so its result is the same to the last bit whatever it is batched with. Slow on purpose, and nothing but readable.
 */
import {
  DeviceError,
  type LayerWeight,
  type ModelConfig,
  type RopeFrequencies,
  ropeFrequencies,
  type WeightSource,
} from '@glinthawk/core';
import { type DenseBackend, type DenseBatch, type DenseStep, HEAD_CANDIDATES, type HeadRow } from '@glinthawk/dense';

type LayerWeights = Readonly<Partial<Record<LayerWeight, Float32Array>>>;

export interface ReferenceWeights {
  readonly embed: Float32Array; // [vocab, hidden]
  readonly finalNorm: Float32Array; // [hidden]
  readonly head: Float32Array; // [vocab, hidden]; `embed` itself when tied
  readonly layers: readonly LayerWeights[];
}

const layerWeights: readonly LayerWeight[] = [
  ...(['attnNorm', 'q', 'k', 'v', 'o', 'qBias', 'kBias', 'vBias', 'oBias', 'qNorm', 'kNorm'] as const),
  ...(['mlpNorm', 'gate', 'up', 'down', 'gateBias', 'upBias', 'downBias'] as const),
];

export async function readReferenceWeights(config: ModelConfig, source: WeightSource): Promise<ReferenceWeights> {
  const embed = await source.read('embed');
  const layers: LayerWeights[] = [];
  for (let layer = 0; layer < config.layers; layer++) {
    const weights: Partial<Record<LayerWeight, Float32Array>> = {};
    for (const role of layerWeights) {
      const name = `layers.${layer}.${role}` as const;
      if (source.has(name)) weights[role] = await source.read(name);
    }
    layers.push(weights);
  }
  return {
    embed,
    finalNorm: await source.read('finalNorm'),
    head: config.tiedEmbeddings ? embed : await source.read('head'),
    layers,
  };
}

function need(weights: LayerWeights, role: LayerWeight): Float32Array {
  const weight = weights[role];
  if (weight === undefined) throw new Error(`reference dense backend: no weight ${role}`);
  return weight;
}

/** y = W x (+ b), W [outputs, inputs]. */
function linear(weight: Float32Array, input: Float64Array, bias?: Float32Array): Float64Array {
  const inputs = input.length;
  const output = new Float64Array(weight.length / inputs);
  for (let o = 0; o < output.length; o++) {
    let sum = 0;
    for (let i = 0; i < inputs; i++) sum += (weight[o * inputs + i] as number) * (input[i] as number);
    output[o] = sum + (bias === undefined ? 0 : (bias[o] as number));
  }
  return output;
}

function rmsNorm(input: Float64Array, weight: Float32Array, eps: number): Float64Array {
  let squares = 0;
  for (const x of input) squares += x * x;
  const scale = 1 / Math.sqrt(squares / input.length + eps);
  return input.map((x, i) => x * scale * (weight[i] as number));
}

/** Turns one head in place, half-split. */
function rotate(head: Float64Array, position: number, rope: RopeFrequencies): void {
  const half = head.length / 2;
  for (let i = 0; i < half; i++) {
    const angle = position * (rope.inverse[i] as number);
    const cos = Math.cos(angle) * rope.amplitude;
    const sin = Math.sin(angle) * rope.amplitude;
    const a = head[i] as number;
    const b = head[half + i] as number;
    head[i] = a * cos - b * sin;
    head[half + i] = b * cos + a * sin;
  }
}

/** The candidates and sums of one row of logits, as DenseBatch.finish gives them. */
export function headRowOf(logits: ArrayLike<number>, inverseTemperature: number): HeadRow {
  const order = Array.from(logits, (_, id) => id);
  order.sort((a, b) => (logits[b] as number) - (logits[a] as number) || a - b);
  const ids = Uint32Array.from(order.slice(0, HEAD_CANDIDATES));
  return {
    ids,
    logits: Float32Array.from(ids, (id) => logits[id] as number),
    logSumExp: logSumExp(logits, 1),
    scaledLogSumExp: logSumExp(logits, inverseTemperature),
  };
}

function logSumExp(logits: ArrayLike<number>, scale: number): number {
  let max = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < logits.length; i++) max = Math.max(max, (logits[i] as number) * scale);
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp((logits[i] as number) * scale - max);
  return max + Math.log(sum);
}

class ReferenceBatch implements DenseBatch {
  readonly maxRows: number;
  readonly qkv: Float32Array;
  readonly attended: Float32Array;
  readonly #backend: ReferenceDense;
  readonly #weights: ReferenceWeights;
  readonly #config: ModelConfig;
  readonly #rope: RopeFrequencies;
  #step: DenseStep | null = null;
  #residual: Float64Array[] = []; // [rows][hidden]
  #logits: Float32Array[] = []; // [headRows][vocab]

  constructor(backend: ReferenceDense, weights: ReferenceWeights, maxRows: number) {
    this.#backend = backend;
    this.#weights = weights;
    this.#config = backend.config;
    this.#rope = ropeFrequencies(backend.config);
    this.maxRows = maxRows;
    const { heads, kvHeads, headDim } = backend.config;
    this.qkv = new Float32Array(maxRows * (heads + 2 * kvHeads) * headDim);
    this.attended = new Float32Array(maxRows * heads * headDim);
  }

  async begin(step: DenseStep): Promise<void> {
    await this.#backend.beginCall();
    if (step.tokenIds.length > this.maxRows) throw new Error(`${step.tokenIds.length} rows, at most ${this.maxRows}`);
    // Copied, so that a caller which reuses its arrays too early shows.
    this.#step = { ...step, positions: step.positions.slice(), headRows: step.headRows.slice() };
    const { hiddenSize } = this.#config;
    this.#residual = Array.from(step.tokenIds, (id) =>
      Float64Array.from(this.#weights.embed.subarray(id * hiddenSize, (id + 1) * hiddenSize)),
    );
    this.#pre(0);
  }

  async advance(layer: number): Promise<void> {
    await this.#backend.beginCall();
    this.#post(layer);
    this.#pre(layer + 1);
  }

  async finish(): Promise<readonly HeadRow[]> {
    await this.#backend.beginCall();
    this.#post(this.#config.layers - 1);
    const step = this.#current();
    this.#logits = Array.from(step.headRows, (row) => {
      const normed = rmsNorm(this.#row(row), this.#weights.finalNorm, this.#config.rmsNormEps);
      return Float32Array.from(linear(this.#weights.head, normed));
    });
    return this.#logits.map((logits, i) => headRowOf(logits, step.inverseTemperatures[i] as number));
  }

  async logits(index: number): Promise<Float32Array> {
    await this.#backend.beginCall();
    const logits = this.#logits[index];
    if (logits === undefined) throw new Error(`no head row ${index}`);
    return logits;
  }

  destroy(): void {
    this.#backend.forget(this);
  }

  #current(): DenseStep {
    if (this.#step === null) throw new Error('begin comes first');
    return this.#step;
  }

  #row(row: number): Float64Array {
    const residual = this.#residual[row];
    if (residual === undefined) throw new Error(`no row ${row}`);
    return residual;
  }

  #pre(layer: number): void {
    const weights = this.#weights.layers[layer] ?? {};
    const { heads, kvHeads, headDim, rmsNormEps } = this.#config;
    const width = (heads + 2 * kvHeads) * headDim;
    const { positions } = this.#current();
    for (let row = 0; row < positions.length; row++) {
      const normed = rmsNorm(this.#row(row), need(weights, 'attnNorm'), rmsNormEps);
      const q = linear(need(weights, 'q'), normed, weights.qBias);
      const k = linear(need(weights, 'k'), normed, weights.kBias);
      const v = linear(need(weights, 'v'), normed, weights.vBias);
      for (const [tensor, norm] of [
        [q, weights.qNorm],
        [k, weights.kNorm],
      ] as const) {
        for (let at = 0; at < tensor.length; at += headDim) {
          const head = tensor.subarray(at, at + headDim);
          if (norm !== undefined) head.set(rmsNorm(head, norm, rmsNormEps));
          rotate(head, positions[row] as number, this.#rope);
        }
      }
      this.qkv.set(q, row * width);
      this.qkv.set(k, row * width + heads * headDim);
      this.qkv.set(v, row * width + (heads + kvHeads) * headDim);
    }
  }

  #post(layer: number): void {
    const weights = this.#weights.layers[layer] ?? {};
    const { heads, headDim, rmsNormEps } = this.#config;
    const width = heads * headDim;
    const { positions } = this.#current();
    for (let row = 0; row < positions.length; row++) {
      const residual = this.#row(row);
      const attended = Float64Array.from(this.attended.subarray(row * width, (row + 1) * width));
      const projected = linear(need(weights, 'o'), attended, weights.oBias);
      for (let i = 0; i < residual.length; i++) residual[i] = (residual[i] as number) + (projected[i] as number);
      const normed = rmsNorm(residual, need(weights, 'mlpNorm'), rmsNormEps);
      const gate = linear(need(weights, 'gate'), normed, weights.gateBias);
      const up = linear(need(weights, 'up'), normed, weights.upBias);
      const activated = gate.map((g, i) => (g / (1 + Math.exp(-g))) * (up[i] as number));
      const down = linear(need(weights, 'down'), activated, weights.downBias);
      for (let i = 0; i < residual.length; i++) residual[i] = (residual[i] as number) + (down[i] as number);
    }
  }
}

export class ReferenceDense implements DenseBackend {
  readonly info: DenseBackend['info'];
  readonly config: ModelConfig;
  readonly concurrency: number;
  readonly lost: Promise<DeviceError>;
  readonly #weights: ReferenceWeights;
  readonly #batches = new Set<DenseBatch>();
  #lose: (error: DeviceError) => void = () => {};
  #calls = 0;
  #dieAtCall: number;
  #closed = false;

  constructor(
    config: ModelConfig,
    weights: ReferenceWeights,
    options: { readonly concurrency?: number; readonly dieAtCall?: number } = {},
  ) {
    this.config = config;
    this.#weights = weights;
    this.concurrency = options.concurrency ?? 1;
    this.#dieAtCall = options.dieAtCall ?? Number.POSITIVE_INFINITY;
    this.lost = new Promise((resolve) => {
      this.#lose = resolve;
    });
    const weightBytes = weights.embed.byteLength;
    this.info = { kind: 'reference', description: 'plain loops in f64', weightDtype: 'f32', weightBytes };
  }

  async createBatch(options: { readonly maxRows: number; readonly maxHeadRows: number }): Promise<DenseBatch> {
    const batch = new ReferenceBatch(this, this.#weights, options.maxRows);
    this.#batches.add(batch);
    return batch;
  }

  get batches(): number {
    return this.#batches.size;
  }

  allocatedBytes(): number {
    let bytes = this.#closed ? 0 : this.info.weightBytes;
    for (const batch of this.#batches) bytes += batch.qkv.byteLength + batch.attended.byteLength;
    return bytes;
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#batches.clear();
  }

  forget(batch: DenseBatch): void {
    this.#batches.delete(batch);
  }

  /** Lets other work run between calls, and dies where a test wants it. */
  async beginCall(): Promise<void> {
    await Promise.resolve();
    this.#calls++;
    if (this.#calls < this.#dieAtCall) return;
    const error = new DeviceError('DEVICE_LOST', `reference device died at call ${this.#calls}, as told`);
    this.#lose(error);
    throw error;
  }
}

export async function openReferenceDense(
  model: { readonly config: ModelConfig; readonly weights: WeightSource },
  options: { readonly concurrency?: number; readonly dieAtCall?: number } = {},
): Promise<ReferenceDense> {
  return new ReferenceDense(model.config, await readReferenceWeights(model.config, model.weights), options);
}
