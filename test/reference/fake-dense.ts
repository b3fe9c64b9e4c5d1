/**
 * A dense tier without a model: integers hashed through the two tiers, cheap and exact. A row's v are small integers made of
 * its token, its position and what the layer below attended to; q is 0, so attention gives the mean of v over the context, from
 * which the sum comes back exactly. The next token hashes those sums: one wrong, missing or doubled token of KV anywhere
 * changes everything after it.
 */
import { CapacityError, DeviceError, type ModelConfig } from '@glinthawk/core';
import type { DenseBackend, DenseBatch, DenseStep, HeadRow } from '@glinthawk/dense';
import { headRowOf } from './dense.ts';

const LAYERS = 3;
const KV_HEADS = 2;
const HEAD_DIM = 2;
const WIDTH = KV_HEADS * HEAD_DIM;

export const fakeConfig: ModelConfig = {
  family: 'fake',
  vocabSize: 97,
  hiddenSize: 1,
  intermediateSize: 1,
  layers: LAYERS,
  heads: KV_HEADS,
  kvHeads: KV_HEADS,
  headDim: HEAD_DIM,
  contextTokens: 256,
  rmsNormEps: 1e-6,
  rope: { theta: 10_000, scaling: { type: 'none' } },
  tiedEmbeddings: true,
  qkvBias: false,
  outputBias: false,
  mlpBias: false,
  qkNorm: false,
  windows: Array.from({ length: LAYERS }, () => 0),
  bosTokenId: null,
  eosTokenIds: [96],
};

function hash(...words: readonly number[]): number {
  let h = 0x811c9dc5;
  for (const word of words) {
    h = Math.imul(h ^ word, 0x85ebca6b);
    h ^= h >>> 13;
    h = Math.imul(h, 0xc2b2ae35);
    h ^= h >>> 16;
  }
  return h >>> 0;
}

/** 11 bits, so that f16 holds them exactly and 256 of them sum up exactly in f32. */
function valuesOf(state: number): number[] {
  return Array.from({ length: WIDTH }, (_, i) => hash(state, i) & 0x7ff);
}

/** Few distinct values, so that ties are common. */
function logitsOf(state: number): Float32Array {
  return Float32Array.from({ length: fakeConfig.vocabSize }, (_, id) => (hash(state, 77, id) % 400) / 40);
}

/** The logits after each token of a sequence, computed without any tier. */
export class FakeSequence {
  readonly #sums = Array.from({ length: LAYERS }, () => new Array<number>(WIDTH).fill(0));
  #position = 0;

  next(token: number): Float32Array {
    let state = hash(token, this.#position);
    this.#position++;
    for (const sums of this.#sums) {
      for (const [i, value] of valuesOf(state).entries()) sums[i] = (sums[i] as number) + value;
      state = hash(state, ...sums);
    }
    return logitsOf(state);
  }
}

/** What greedy generation must give. */
export function fakeGreedy(promptIds: readonly number[], maxTokens: number, stopIds: readonly number[] = []): number[] {
  const sequence = new FakeSequence();
  let logits: Float32Array = new Float32Array();
  for (const id of promptIds) logits = sequence.next(id);
  const ids: number[] = [];
  while (ids.length < maxTokens) {
    const best = logits.reduce((at, logit, id) => (logit > (logits[at] as number) ? id : at), 0);
    ids.push(best);
    if (stopIds.includes(best)) break;
    logits = sequence.next(best);
  }
  return ids;
}

export interface FakeDenseOptions {
  readonly concurrency?: number;
  readonly config?: Partial<ModelConfig>;
  /** Milliseconds of a call; 0 resolves in a microtask. */
  readonly latencyMs?: number | (() => number);
  /** The device is lost at the n-th call. */
  readonly dieAtCall?: number;
  /** Lost without rejecting its calls. */
  readonly silentDeath?: boolean;
  /** Gives NaN for sequences whose last token this is. */
  readonly poisonToken?: number;
  /** Batches that there is room for. */
  readonly mostBatches?: number;
}

export class FakeDense implements DenseBackend {
  readonly info: DenseBackend['info'] = {
    kind: 'reference',
    description: 'hashes',
    weightDtype: 'f32',
    weightBytes: 0,
  };
  readonly config: ModelConfig;
  readonly concurrency: number;
  readonly lost: Promise<DeviceError>;
  readonly options: FakeDenseOptions;
  readonly batches = new Set<DenseBatch>();
  /** Most calls that were under way at once, and most rows of a step. */
  mostCalls = 0;
  mostRows = 0;
  calls = 0;
  logitCalls = 0;
  #underWay = 0;
  #lose: (error: DeviceError) => void = () => {};

  constructor(options: FakeDenseOptions = {}) {
    this.options = options;
    this.config = { ...fakeConfig, ...options.config };
    this.concurrency = options.concurrency ?? 1;
    this.lost = new Promise((resolve) => {
      this.#lose = resolve;
    });
  }

  async createBatch(options: { readonly maxRows: number; readonly maxHeadRows: number }): Promise<DenseBatch> {
    if (this.batches.size >= (this.options.mostBatches ?? Number.POSITIVE_INFINITY)) {
      throw new CapacityError('NO_ROOM', `room for ${this.batches.size} batches, as told`);
    }
    const batch = new FakeBatch(this, options.maxRows, options.maxHeadRows);
    this.batches.add(batch);
    return batch;
  }

  allocatedBytes(): number {
    return this.batches.size;
  }

  async close(): Promise<void> {
    this.batches.clear();
  }

  async call<T>(work: () => T): Promise<T> {
    this.calls++;
    this.#underWay++;
    this.mostCalls = Math.max(this.mostCalls, this.#underWay);
    const { latencyMs = 0, dieAtCall = Number.POSITIVE_INFINITY, silentDeath = false } = this.options;
    const wait = typeof latencyMs === 'number' ? latencyMs : latencyMs();
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
    else await Promise.resolve();
    this.#underWay--;
    if (this.calls < dieAtCall) return work();
    const error = new DeviceError('DEVICE_LOST', 'the fake device died, as told');
    this.#lose(error);
    if (silentDeath) await new Promise(() => {});
    throw error;
  }
}

class FakeBatch implements DenseBatch {
  readonly maxRows: number;
  readonly qkv: Float32Array;
  readonly attended: Float32Array;
  readonly #dense: FakeDense;
  readonly #maxHeadRows: number;
  #step: DenseStep | null = null;
  #states: number[] = [];
  #logits: Float32Array[] = [];

  constructor(dense: FakeDense, maxRows: number, maxHeadRows: number) {
    this.#dense = dense;
    this.#maxHeadRows = maxHeadRows;
    this.maxRows = maxRows;
    this.qkv = new Float32Array(maxRows * WIDTH * 3);
    this.attended = new Float32Array(maxRows * WIDTH);
  }

  begin(step: DenseStep): Promise<void> {
    return this.#dense.call(() => {
      if (step.tokenIds.length > this.maxRows || step.headRows.length > this.#maxHeadRows)
        throw new Error('too many rows');
      this.#dense.mostRows = Math.max(this.#dense.mostRows, step.tokenIds.length);
      this.#step = {
        tokenIds: step.tokenIds.slice(),
        positions: step.positions.slice(),
        headRows: step.headRows.slice(),
        inverseTemperatures: step.inverseTemperatures.slice(),
      };
      this.#states = Array.from(step.tokenIds, (token, row) => hash(token, step.positions[row] as number));
      this.#pre();
    });
  }

  advance(_layer: number): Promise<void> {
    return this.#dense.call(() => {
      this.#post();
      this.#pre();
    });
  }

  finish(): Promise<readonly HeadRow[]> {
    return this.#dense.call(() => {
      this.#post();
      const { headRows, tokenIds, inverseTemperatures } = this.#current();
      this.#logits = Array.from(headRows, (row) => {
        const poisoned = tokenIds[row] === this.#dense.options.poisonToken;
        const logits = logitsOf(this.#states[row] as number);
        return poisoned ? logits.fill(Number.NaN) : logits;
      });
      return this.#logits.map((logits, i) => headRowOf(logits, inverseTemperatures[i] as number));
    });
  }

  logits(index: number): Promise<Float32Array> {
    this.#dense.logitCalls++;
    return this.#dense.call(() => this.#logits[index] ?? new Float32Array());
  }

  destroy(): void {
    this.#dense.batches.delete(this);
  }

  #current(): DenseStep {
    if (this.#step === null) throw new Error('begin comes first');
    return this.#step;
  }

  #pre(): void {
    for (const [row, state] of this.#states.entries()) {
      this.qkv.fill(0, row * WIDTH * 3, (row + 1) * WIDTH * 3);
      this.qkv.set(valuesOf(state), row * WIDTH * 3 + 2 * WIDTH);
    }
  }

  #post(): void {
    const { positions } = this.#current();
    for (const [row, state] of this.#states.entries()) {
      const mean = this.attended.subarray(row * WIDTH, (row + 1) * WIDTH);
      const context = (positions[row] as number) + 1;
      this.#states[row] = hash(state, ...Array.from(mean, (x) => Math.round(x * context)));
    }
    this.attended.fill(Number.NaN);
  }
}
