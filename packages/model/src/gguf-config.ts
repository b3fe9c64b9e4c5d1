/**
 * A GGUF file's metadata as ModelConfig (key names: ggml's docs/gguf.md and llama.cpp's `llama-arch.cpp`). Mistral models call
 * themselves `llama` there. What GGUF doesn't say but shows by its tensors (biases, tied embeddings, per-frequency RoPE
 * factors) is read off the tensor table.
 */
import { type ModelConfig, type RopeConfig, type RopeScaling, UnsupportedError } from '@glinthawk/core';
import { Fields, quote } from './config-fields.ts';
import { type Family, familyOf } from './families.ts';
import type { GgufHeader } from './gguf-header.ts';
import * as limits from './model-limits.ts';
import { YARN_BETA_FAST, YARN_BETA_SLOW, yarnMagnitude } from './rope-scaling.ts';
import { TOKEN_TYPE } from './sentencepiece-tokenizer.ts';

const DEFAULT_THETA = 10_000;
/** Each ends a text; which of them a model has differs. */
const END_TOKEN_KEYS = ['eos_token_id', 'eot_token_id', 'eom_token_id'];
/**
 * Tokens that end a turn, or a text, whatever the keys say: older files of chat models name only the end of a text there, and
 * such a model would never be seen to end. llama.cpp knows them by their texts too (`llama-vocab.cpp`, its EOG tokens).
 */
const END_TOKENS: ReadonlySet<unknown> = new Set([
  '<|eot_id|>',
  '<|eom_id|>',
  '<|im_end|>',
  '<|end|>',
  '<|end_of_text|>',
  '<|endoftext|>',
  '<end_of_turn>',
  '<end_of_utterance>',
  '<EOT>',
  '_<EOT>',
  '[EOT]',
  '[EOS]',
]);
/** Keys under the architecture's name that change the computation, and the value at which they do nothing. */
const NEUTRAL_VALUES: ReadonlyMap<string, number> = new Map([
  ['expert_count', 0],
  ['logit_scale', 1],
  ['residual_scale', 1],
  ['embedding_scale', 1],
  ['attn_logit_softcapping', 0],
  ['final_logit_softcapping', 0],
  ['attention.scale', 0],
  ['attention.clamp_kqv', 0],
]);

export interface GgufModelConfig {
  readonly config: ModelConfig;
  readonly family: Family;
}

/**
 * @param ropeFactors content of `rope_freqs.weight`, when the file has it
 * @throws ModelFormatError, UnsupportedError
 */
export function readGgufConfig(
  header: GgufHeader,
  file: string,
  ropeFactors: Float32Array | undefined,
): GgufModelConfig {
  const general = new Fields(`${file}: metadata`, (key) => header.metadata.get(key));
  const architecture = general.text('general.architecture');
  if (architecture === undefined) throw general.wrong('general.architecture', 'a string');
  const family = familyOf(architecture, general.where);
  const fields = new Fields(`${file}: metadata ${architecture}.`, (key) =>
    header.metadata.get(`${architecture}.${key}`),
  );
  const tokens = new Fields(`${file}: metadata tokenizer.ggml.`, (key) => header.metadata.get(`tokenizer.ggml.${key}`));
  for (const [key, neutral] of NEUTRAL_VALUES) {
    const value = fields.raw(key);
    if (value === undefined || Number(value) === neutral) continue;
    throw new UnsupportedError('UNSUPPORTED_CONFIG', `${fields.where}${key} ${quote(value)} is not supported`);
  }

  const hiddenSize = fields.count('embedding_length', limits.MAX_HIDDEN);
  const layers = fields.count('block_count', limits.MAX_LAYERS);
  const heads = fields.count('attention.head_count', limits.MAX_HEADS);
  const kvHeads = fields.count('attention.head_count_kv', limits.MAX_HEADS, heads);
  if (heads % kvHeads !== 0)
    throw fields.wrong('attention.head_count_kv', `a divisor of attention.head_count ${heads}`);
  if (!fields.has('attention.key_length') && hiddenSize % heads !== 0) {
    throw fields.wrong(
      'attention.head_count',
      `a divisor of embedding_length ${hiddenSize}, as there is no attention.key_length`,
    );
  }
  const headDim = fields.count('attention.key_length', limits.MAX_HEAD_DIM, hiddenSize / heads);
  if (headDim % 2 !== 0) throw fields.wrong('attention.key_length', `even, as RoPE turns pairs (it is ${headDim})`);
  for (const [key, why] of [
    ['attention.value_length', 'k and v have one length'],
    ['rope.dimension_count', 'whole heads are rotated'],
  ] as const) {
    const value = fields.count(key, limits.MAX_HEAD_DIM, headDim);
    if (value === headDim) continue;
    throw new UnsupportedError(
      'UNSUPPORTED_CONFIG',
      `${fields.where}${key} ${value} is not supported with a head of ${headDim}; ${why}`,
    );
  }
  const vocabSize = header.tensors.get('token_embd.weight')?.shape[0] ?? fields.count('vocab_size', limits.MAX_VOCAB);
  const contextTokens = fields.count('context_length', limits.MAX_CONTEXT_TOKENS);
  const has = (tensor: string) => header.tensors.has(tensor);
  const window = fields.integer('attention.sliding_window', 0, limits.MAX_CONTEXT_TOKENS) ?? 0;
  const config: ModelConfig = {
    family: family.name,
    vocabSize,
    hiddenSize,
    intermediateSize: fields.count('feed_forward_length', limits.MAX_INTERMEDIATE),
    layers,
    heads,
    kvHeads,
    headDim,
    contextTokens,
    rmsNormEps: fields.positive('attention.layer_norm_rms_epsilon'),
    rope: readRope(fields, contextTokens, headDim, ropeFactors),
    tiedEmbeddings: !has('output.weight'),
    qkvBias: family.attentionBias === 'qkv' || has('blk.0.attn_q.bias'),
    outputBias: has('blk.0.attn_output.bias'),
    mlpBias: has('blk.0.ffn_gate.bias'),
    qkNorm: family.qkNorm,
    windows: new Array<number>(layers).fill(window),
    bosTokenId: tokens.integer('bos_token_id', 0, vocabSize - 1) ?? null,
    eosTokenIds: readEndTokens(tokens, vocabSize, general.has('tokenizer.chat_template')),
  };
  return { config, family };
}

function readEndTokens(tokens: Fields, vocabSize: number, chat: boolean): readonly number[] {
  const ids = END_TOKEN_KEYS.map((key) => tokens.integer(key, 0, vocabSize - 1)).filter((id) => id !== undefined);
  return [...new Set([...ids, ...(chat ? endTokensByText(tokens, vocabSize) : [])])].sort((a, b) => a - b);
}

function endTokensByText(tokens: Fields, vocabSize: number): readonly number[] {
  const types = tokens.list('token_type', limits.MAX_VOCAB) ?? [];
  const ids: number[] = [];
  for (const [id, text] of (tokens.list('tokens', limits.MAX_VOCAB) ?? []).entries()) {
    const marked = types[id] === TOKEN_TYPE.control || types[id] === TOKEN_TYPE.userDefined;
    if (marked && id < vocabSize && END_TOKENS.has(text)) ids.push(id);
  }
  return ids;
}

function readRope(
  fields: Fields,
  contextTokens: number,
  headDim: number,
  factors: Float32Array | undefined,
): RopeConfig {
  const theta = fields.positive('rope.freq_base', DEFAULT_THETA);
  const scaling = readScaling(fields, contextTokens);
  if (factors === undefined) return { theta, scaling };
  if (scaling.type !== 'none') {
    throw new UnsupportedError(
      'UNSUPPORTED_ROPE',
      `${fields.where}rope.scaling.type ${scaling.type} beside rope_freqs.weight is not supported`,
    );
  }
  if (factors.length !== headDim / 2 || !factors.every((factor) => Number.isFinite(factor) && factor > 0)) {
    throw fields.wrong('rope_freqs.weight', `${headDim / 2} positive factors`);
  }
  return { theta, scaling: { type: 'factors', factors: [...factors] } };
}

function readScaling(fields: Fields, contextTokens: number): RopeScaling {
  // Before the scaling.* keys there was only a linear factor.
  if (!fields.has('rope.scaling.type')) {
    const factor = fields.positive('rope.scale_linear', 1);
    return factor === 1 ? { type: 'none' } : { type: 'linear', factor };
  }
  const type = fields.text('rope.scaling.type');
  switch (type) {
    case 'none':
      return { type: 'none' };
    case 'linear':
      return { type: 'linear', factor: fields.positive('rope.scaling.factor') };
    case 'yarn': {
      const factor = fields.positive('rope.scaling.factor');
      return {
        type: 'yarn',
        factor,
        originalContextTokens: fields.count(
          'rope.scaling.original_context_length',
          limits.MAX_CONTEXT_TOKENS,
          contextTokens,
        ),
        betaFast: fields.positive('rope.scaling.yarn_beta_fast', YARN_BETA_FAST),
        betaSlow: fields.positive('rope.scaling.yarn_beta_slow', YARN_BETA_SLOW),
        attentionFactor: fields.positive('rope.scaling.attn_factor', 1) * yarnMagnitude(factor, 1),
        truncate: true,
      };
    }
    default:
      throw new UnsupportedError(
        'UNSUPPORTED_ROPE',
        `${fields.where}rope.scaling.type ${quote(type)} is not supported`,
        {
          hint: 'Supported: none, linear, yarn, and per-frequency factors in rope_freqs.weight.',
        },
      );
  }
}
