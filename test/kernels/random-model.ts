/** Tiny models with seeded random weights in memory: for comparing dense backends on shapes that no real model has. */
import type { LayerWeight, ModelConfig, RowRange, WeightInfo, WeightName, WeightSource } from '@glinthawk/core';
import { ModelFormatError } from '@glinthawk/core';

export interface RandomModel {
  readonly config: ModelConfig;
  readonly weights: WeightSource;
}

/** What most cases have, to be varied: two layers, every bias, q/k norms, an untied head, no dimension a power of two but one. */
export const baseConfig: ModelConfig = {
  family: 'llama',
  vocabSize: 257,
  hiddenSize: 64,
  intermediateSize: 172,
  layers: 2,
  heads: 8,
  kvHeads: 4,
  headDim: 8,
  contextTokens: 512,
  rmsNormEps: 1e-5,
  rope: { theta: 10000, scaling: { type: 'none' } },
  tiedEmbeddings: false,
  qkvBias: true,
  outputBias: true,
  mlpBias: true,
  qkNorm: true,
  windows: [0, 0],
  bosTokenId: 1,
  eosTokenIds: [2],
};

/** Uniform in [0, 1), the same everywhere (mulberry32). */
export function randomSource(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Standard normal numbers (Box–Muller), times `scale`, plus `offset`. */
export function randomNormal(random: () => number, count: number, scale = 1, offset = 0): Float32Array<ArrayBuffer> {
  return Float32Array.from(
    { length: count },
    () => offset + scale * Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()),
  );
}

/** Matrices scaled so that activations keep their size through the layers. */
export function randomModel(changes: Partial<ModelConfig> = {}, seed = 1): RandomModel {
  const merged = { ...baseConfig, ...changes };
  const config = { ...merged, windows: merged.windows.slice(0, merged.layers) };
  const { vocabSize, hiddenSize, intermediateSize, layers, heads, kvHeads, headDim } = config;
  const random = randomSource(seed);
  const tensors = new Map<WeightName, { readonly shape: readonly number[]; readonly values: Float32Array }>();
  const matrix = (name: WeightName, outputs: number, inputs: number) =>
    tensors.set(name, {
      shape: [outputs, inputs],
      values: randomNormal(random, outputs * inputs, 1 / Math.sqrt(inputs)),
    });
  const vector = (name: WeightName, count: number, scale: number, offset: number) =>
    tensors.set(name, { shape: [count], values: randomNormal(random, count, scale, offset) });

  tensors.set('embed', { shape: [vocabSize, hiddenSize], values: randomNormal(random, vocabSize * hiddenSize) });
  vector('finalNorm', hiddenSize, 0.1, 1);
  if (!config.tiedEmbeddings) matrix('head', vocabSize, hiddenSize);
  for (let layer = 0; layer < layers; layer++) {
    const name = (weight: LayerWeight): WeightName => `layers.${layer}.${weight}`;
    vector(name('attnNorm'), hiddenSize, 0.1, 1);
    vector(name('mlpNorm'), hiddenSize, 0.1, 1);
    matrix(name('q'), heads * headDim, hiddenSize);
    matrix(name('k'), kvHeads * headDim, hiddenSize);
    matrix(name('v'), kvHeads * headDim, hiddenSize);
    matrix(name('o'), hiddenSize, heads * headDim);
    matrix(name('gate'), intermediateSize, hiddenSize);
    matrix(name('up'), intermediateSize, hiddenSize);
    matrix(name('down'), hiddenSize, intermediateSize);
    if (config.qkvBias) {
      vector(name('qBias'), heads * headDim, 0.2, 0);
      vector(name('kBias'), kvHeads * headDim, 0.2, 0);
      vector(name('vBias'), kvHeads * headDim, 0.2, 0);
    }
    if (config.outputBias) vector(name('oBias'), hiddenSize, 0.2, 0);
    if (config.mlpBias) {
      vector(name('gateBias'), intermediateSize, 0.2, 0);
      vector(name('upBias'), intermediateSize, 0.2, 0);
      vector(name('downBias'), hiddenSize, 0.2, 0);
    }
    if (config.qkNorm) {
      vector(name('qNorm'), headDim, 0.1, 1);
      vector(name('kNorm'), headDim, 0.1, 1);
    }
  }

  const tensor = (name: WeightName) => {
    const found = tensors.get(name);
    if (found === undefined) throw new ModelFormatError('TENSOR_MISSING', `no tensor ${name}`);
    return found;
  };
  const weights: WeightSource = {
    has: (name) => tensors.has(name),
    info(name): WeightInfo {
      const { shape, values } = tensor(name);
      return { shape, stored: 'F32', storedBytes: values.byteLength };
    },
    async read(name, rows?: RowRange) {
      const { shape, values } = tensor(name);
      const width = shape.length === 1 ? 1 : (shape[1] as number);
      return rows === undefined ? values.slice() : values.slice(rows.start * width, rows.end * width);
    },
    async close() {},
  };
  return { config, weights };
}
