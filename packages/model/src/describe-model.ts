/** A model in figures, as plain data for people and programs (`glinthawk models inspect`). Reads no weights. */
import type { KvDtype, RopeConfig, WeightName } from '@glinthawk/core';
import type { GenerationDefaults, Model } from './model.ts';
import { elementCount, weightShapes } from './weight-shapes.ts';

export interface TensorKindTotal {
  /** The file's own word: `BF16`, `Q4_1` … */
  readonly stored: string;
  readonly tensors: number;
  readonly parameters: number;
  readonly bytes: number;
}

export interface ModelDescription {
  readonly name: string;
  readonly format: Model['format'];
  readonly family: string;
  readonly fingerprint: string;
  /** Weights that files hold; tied embeddings count once. */
  readonly parameters: number;
  /** As stored. */
  readonly weightBytes: number;
  /** By how they are stored, the most bytes first. */
  readonly tensorKinds: readonly TensorKindTotal[];
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly contextTokens: number;
  readonly tiedEmbeddings: boolean;
  /** What it has beyond the plain layer: `qkv bias`, `q/k norm`, `sliding window 4096 (16 of 32 layers)` … */
  readonly features: readonly string[];
  readonly rope: RopeConfig;
  readonly bosTokenId: number | null;
  readonly eosTokenIds: readonly number[];
  /** null without a tokenizer. */
  readonly tokenizer: { readonly kind: string; readonly vocabSize: number } | null;
  readonly chatTemplate: boolean;
  readonly generationDefaults: GenerationDefaults;
  /** Over all layers. */
  readonly kvBytesPerToken: Readonly<Record<KvDtype, number>>;
  readonly notes: readonly string[];
}

export function describeModel(model: Model): ModelDescription {
  const { config, tokenizer } = model;
  const kinds = totalsByKind(model);
  return {
    name: model.name,
    format: model.format,
    family: config.family,
    fingerprint: model.fingerprint,
    parameters: kinds.reduce((sum, kind) => sum + kind.parameters, 0),
    weightBytes: kinds.reduce((sum, kind) => sum + kind.bytes, 0),
    tensorKinds: kinds,
    vocabSize: config.vocabSize,
    hiddenSize: config.hiddenSize,
    intermediateSize: config.intermediateSize,
    layers: config.layers,
    heads: config.heads,
    kvHeads: config.kvHeads,
    headDim: config.headDim,
    contextTokens: config.contextTokens,
    tiedEmbeddings: config.tiedEmbeddings,
    features: featuresOf(model),
    rope: config.rope,
    bosTokenId: config.bosTokenId,
    eosTokenIds: config.eosTokenIds,
    tokenizer: tokenizer === null ? null : { kind: kindOf(tokenizer), vocabSize: tokenizer.vocabSize },
    chatTemplate: model.chatTemplate !== null,
    generationDefaults: model.generationDefaults,
    kvBytesPerToken: kvBytesPerToken(config),
    notes: model.notes ?? [],
  };
}

/** Bytes that one token's K and V take over all layers; int8 has an f32 scale for K and one for V per KV head. */
export function kvBytesPerToken(config: Model['config']): Readonly<Record<KvDtype, number>> {
  const perByte = 2 * config.layers * config.kvHeads;
  return {
    f32: perByte * config.headDim * 4,
    f16: perByte * config.headDim * 2,
    bf16: perByte * config.headDim * 2,
    int8: perByte * (config.headDim + 4),
  };
}

function totalsByKind(model: Model): readonly TensorKindTotal[] {
  const totals = new Map<string, TensorKindTotal>();
  for (const name of weightShapes(model.config).keys()) addTensor(totals, model, name);
  return [...totals.values()].sort((a, b) => b.bytes - a.bytes);
}

function addTensor(totals: Map<string, TensorKindTotal>, model: Model, name: WeightName): void {
  const { stored, shape, storedBytes } = model.weights.info(name);
  const sofar = totals.get(stored) ?? { stored, tensors: 0, parameters: 0, bytes: 0 };
  totals.set(stored, {
    stored,
    tensors: sofar.tensors + 1,
    parameters: sofar.parameters + elementCount(shape),
    bytes: sofar.bytes + storedBytes,
  });
}

function featuresOf({ config }: Model): readonly string[] {
  const windowed = config.windows.filter((window) => window > 0);
  return [
    ...(config.qkvBias ? ['qkv bias'] : []),
    ...(config.outputBias ? ['output bias'] : []),
    ...(config.mlpBias ? ['mlp bias'] : []),
    ...(config.qkNorm ? ['q/k norm'] : []),
    ...(windowed.length > 0 ? [`sliding window ${windowed[0]} (${windowed.length} of ${config.layers} layers)`] : []),
  ];
}

function kindOf(tokenizer: object): string {
  return 'kind' in tokenizer && typeof tokenizer.kind === 'string' ? tokenizer.kind : 'custom';
}
