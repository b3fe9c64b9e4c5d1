/**
 * What a decoder-only Transformer looks like, after every file format's own words have been translated. Tiers read this
 * and nothing else of a model but its weights. A family is a declaration of these values, never a fork of the layer code.
 */
export type RopeScaling =
  | { readonly type: 'none' }
  | { readonly type: 'linear'; readonly factor: number }
  | {
      readonly type: 'llama3';
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalContextTokens: number;
    }
  | {
      readonly type: 'yarn';
      readonly factor: number;
      readonly originalContextTokens: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      /** Multiplies cos and sin; transformers' default is 0.1 ln(factor) + 1. */
      readonly attentionFactor: number;
      readonly truncate: boolean;
    }
  /** Each frequency is divided by its own factor, as GGUF files store `llama3` scaling. [headDim / 2] */
  | { readonly type: 'factors'; readonly factors: readonly number[] };

export interface RopeConfig {
  readonly theta: number;
  readonly scaling: RopeScaling;
}

export interface ModelConfig {
  /** The `model_type` or GGUF architecture it came from, e.g. `llama`, `mistral`, `qwen2`, `qwen3`. */
  readonly family: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** The longest sequence (prompt and generated tokens together) that the model was made for. */
  readonly contextTokens: number;
  readonly rmsNormEps: number;
  readonly rope: RopeConfig;
  readonly tiedEmbeddings: boolean;
  /** Biases of q, k and v; of the attention output projection; of gate, up and down. */
  readonly qkvBias: boolean;
  readonly outputBias: boolean;
  readonly mlpBias: boolean;
  /** RMSNorm over each head of q and k, before RoPE. */
  readonly qkNorm: boolean;
  /** Per layer: how many latest tokens a token attends to, itself included; 0 is all of them. */
  readonly windows: readonly number[];
  readonly bosTokenId: number | null;
  readonly eosTokenIds: readonly number[];
}

/** What the attention tier knows of a model: nothing but this. */
export interface AttentionGeometry {
  readonly layers: number;
  readonly kvHeads: number;
  /** Query heads per KV head. */
  readonly groupSize: number;
  readonly headDim: number;
  /** Multiplies q·k before softmax: 1/sqrt(headDim) unless the model says otherwise. */
  readonly softmaxScale: number;
  /** Per layer, as in ModelConfig.windows. */
  readonly windows: readonly number[];
  readonly maxContextTokens: number;
}

export function attentionGeometry(config: ModelConfig, contextTokens = config.contextTokens): AttentionGeometry {
  return {
    layers: config.layers,
    kvHeads: config.kvHeads,
    groupSize: config.heads / config.kvHeads,
    headDim: config.headDim,
    softmaxScale: 1 / Math.sqrt(config.headDim),
    windows: config.windows,
    maxContextTokens: contextTokens,
  };
}

/** Floats of one row that go to the attention tier: q of all heads, then k, then v. */
export function qkvRowFloats(geometry: AttentionGeometry): number {
  return (geometry.groupSize + 2) * geometry.kvHeads * geometry.headDim;
}

/** Floats of one row that come back. */
export function outputRowFloats(geometry: AttentionGeometry): number {
  return geometry.groupSize * geometry.kvHeads * geometry.headDim;
}
