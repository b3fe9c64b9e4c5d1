/**
 * Runs a text through a model once for each variant, chunk by chunk side by side, so that the true distributions of one chunk are all that
 * is kept. A variant has two sequences: one that lives with its own errors from layer to layer and token to token, for perplexity, and
 * one that is given the true q, k and v, for the error of attention by itself.
 */
import { type AttentionBackend, createLocalAttention } from '@glinthawk/attention';
import { type AttentionGeometry, attentionGeometry, outputRowFloats, qkvRowFloats } from '@glinthawk/core';
import type { DenseBackend, DenseBatch } from '@glinthawk/dense';
import { Lane } from './lane.ts';
import { type Distribution, Score, type ScoreResult, type Truth, truthOf } from './score.ts';
import { CHANNEL_GROUP, type Variant } from './variants.ts';

/** Rows of a pass; a multiple of CHANNEL_GROUP. */
const CHUNK_TOKENS = 4 * CHANNEL_GROUP;
const TRUE: Variant = { name: 'f32', kvDtype: 'f32', wire: 'f32', bits: 32 };

export interface Evaluation {
  readonly truth: ScoreResult;
  readonly variants: readonly ScoreResult[];
  /** By layer, of the head where it is most: the mean square of the largest channel of K over that of the head's median channel. */
  readonly keyOutliers: readonly number[];
}

export interface EvaluateOptions {
  readonly workers: number;
  /**
   * Adds this many times the root mean square of a head's keys to two of its channels: what biases of K do. Softmax doesn't change by a
   * number that all keys of a head have in common, so truth is the same.
   */
  readonly keyBias: number;
  readonly onProgress: (tokens: number) => void;
}

export async function evaluate(
  dense: DenseBackend,
  texts: readonly (readonly number[])[],
  variants: readonly Variant[],
  options: EvaluateOptions,
): Promise<Evaluation> {
  const longest = Math.max(...texts.map(({ length }) => length));
  const geometry = attentionGeometry(dense.config, longest);
  const backends = new Map<string, AttentionBackend>();
  const batch = await dense.createBatch({ maxRows: CHUNK_TOKENS, maxHeadRows: CHUNK_TOKENS });
  let nextSlot = 0;
  const open = async (variant: Variant): Promise<Lane> => {
    const key = `${variant.kvDtype} ${variant.int8}`;
    let backend = backends.get(key);
    if (backend === undefined) {
      backend = await createLocalAttention(geometry, {
        kvDtype: variant.kvDtype,
        workers: options.workers,
        // Two sequences of each variant, all of them on one backend at most, and as much again for blocks that are not full.
        memoryBytes: 2 * (2 * variants.length + 2) * kvBytes(geometry) + (64 << 20),
        ...(variant.int8 === undefined ? {} : { int8: variant.int8 }),
      });
      backends.set(key, backend);
    }
    return new Lane(backend, { index: nextSlot++, generation: 0 }, variant);
  };

  const truth = new Score(TRUE.name, geometry.layers);
  const scores = variants.map(({ name }) => new Score(name, geometry.layers));
  const model = new Model(batch, geometry, options.keyBias);
  try {
    for (const tokens of texts) {
      const trueLane = await open(TRUE);
      const lanes: { readonly score: Score; readonly own: Lane; readonly fed: Lane }[] = [];
      for (const [i, variant] of variants.entries()) {
        lanes.push({ score: scores[i] as Score, own: await open(variant), fed: await open(variant) });
      }
      for (let from = 0; from < tokens.length - 1; from += CHUNK_TOKENS) {
        const chunk = tokens.slice(from, Math.min(from + CHUNK_TOKENS, tokens.length - 1));
        const truths: Truth[] = [];
        await model.pass(
          chunk,
          from,
          async (layer, qkv, output) => {
            await trueLane.attend(layer, from, qkv, output);
            model.watchKeys(layer, qkv);
            truth.addOutput(layer, output, output);
            const found = new Float32Array(output.length);
            for (const { score, fed } of lanes) {
              await fed.attend(layer, from, qkv, found);
              score.addOutput(layer, output, found);
            }
          },
          (row, distribution) => {
            const ofRow = truthOf(distribution, tokens[from + row + 1] as number);
            truths.push(ofRow);
            truth.addToken(ofRow, distribution);
          },
        );
        for (const { score, own } of lanes) {
          await model.pass(
            chunk,
            from,
            (layer, qkv, output) => own.attend(layer, from, qkv, output),
            (row, distribution) => score.addToken(truths[row] as Truth, distribution),
          );
        }
        options.onProgress(chunk.length);
      }
      for (const lane of [trueLane, ...lanes.flatMap(({ own, fed }) => [own, fed])]) lane.free();
    }
  } finally {
    batch.destroy();
    await Promise.all([...backends.values()].map((backend) => backend.close()));
  }
  return { truth: truth.result(), variants: scores.map((score) => score.result()), keyOutliers: model.keyOutliers() };
}

/** Of one sequence in f32. */
function kvBytes({ layers, kvHeads, headDim, maxContextTokens }: AttentionGeometry): number {
  return 2 * 4 * layers * kvHeads * headDim * maxContextTokens;
}

/** One pass at a time of a chunk through all layers. */
class Model {
  readonly #batch: DenseBatch;
  readonly #geometry: AttentionGeometry;
  readonly #keyBias: number;
  readonly #biases: (number | undefined)[]; // [layers, kvHeads]
  readonly #squares: Float64Array; // [layers, kvHeads, headDim]

  constructor(batch: DenseBatch, geometry: AttentionGeometry, keyBias: number) {
    const { layers, kvHeads, headDim } = geometry;
    this.#batch = batch;
    this.#geometry = geometry;
    this.#keyBias = keyBias;
    this.#biases = new Array(layers * kvHeads);
    this.#squares = new Float64Array(layers * kvHeads * headDim);
  }

  async pass(
    tokens: readonly number[],
    position: number,
    attend: (layer: number, qkv: Float32Array, output: Float32Array) => Promise<void>,
    onRow: (row: number, distribution: Distribution) => void,
  ): Promise<void> {
    const rows = tokens.length;
    const { layers } = this.#geometry;
    const batch = this.#batch;
    await batch.begin({
      tokenIds: Uint32Array.from(tokens),
      positions: Uint32Array.from(tokens, (_, i) => position + i),
      headRows: Uint32Array.from(tokens, (_, i) => i),
      inverseTemperatures: new Float32Array(rows).fill(1),
    });
    for (let layer = 0; layer < layers; layer++) {
      const qkv = batch.qkv.slice(0, rows * qkvRowFloats(this.#geometry));
      if (this.#keyBias !== 0) this.#biasKeys(layer, qkv);
      await attend(layer, qkv, batch.attended.subarray(0, rows * outputRowFloats(this.#geometry)));
      if (layer < layers - 1) await batch.advance(layer);
    }
    const heads = await batch.finish();
    for (const [row, { logSumExp }] of heads.entries()) onRow(row, { logits: await batch.logits(row), logSumExp });
  }

  watchKeys(layer: number, qkv: Float32Array): void {
    this.#eachKey(layer, qkv, (key, head) => {
      const at = head * key.length;
      for (let i = 0; i < key.length; i++)
        this.#squares[at + i] = (this.#squares[at + i] as number) + (key[i] as number) ** 2;
    });
  }

  keyOutliers(): readonly number[] {
    const { layers, kvHeads, headDim } = this.#geometry;
    return Array.from({ length: layers }, (_, layer) => {
      const ofHeads = Array.from({ length: kvHeads }, (_, head) => {
        const at = (layer * kvHeads + head) * headDim;
        const channels = this.#squares.subarray(at, at + headDim);
        const sorted = channels.toSorted();
        return (sorted.at(-1) as number) / (sorted[headDim >> 1] as number);
      });
      return Math.max(...ofHeads);
    });
  }

  /** The first rows that come say how large a head's keys are. The last channels turn slowest, so what is added stands still there. */
  #biasKeys(layer: number, qkv: Float32Array): void {
    const { headDim } = this.#geometry;
    this.#eachKey(layer, qkv, (key, head) => {
      const bias = this.#biases[head] ?? this.#keyBias * Math.sqrt(key.reduce((sum, x) => sum + x * x, 0) / headDim);
      this.#biases[head] = bias;
      for (const channel of [headDim / 2 - 1, headDim - 1]) key[channel] = (key[channel] as number) + bias;
    });
  }

  #eachKey(layer: number, qkv: Float32Array, visit: (key: Float32Array, head: number) => void): void {
    const { kvHeads, groupSize, headDim } = this.#geometry;
    const width = qkvRowFloats(this.#geometry);
    for (let row = 0; row < qkv.length; row += width) {
      for (let head = 0; head < kvHeads; head++) {
        const at = row + (groupSize * kvHeads + head) * headDim;
        visit(qkv.subarray(at, at + headDim), layer * kvHeads + head);
      }
    }
  }
}
