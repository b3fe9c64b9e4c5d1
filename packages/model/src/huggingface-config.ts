/**
 * `config.json` and `generation_config.json` of a Hugging Face folder as ModelConfig and GenerationDefaults, in the layout
 * before transformers 5 (`rope_theta`, `rope_scaling`, `torch_dtype`) and the one since (`rope_parameters`, `dtype`). What
 * would change the computation and isn't supported is an error that names it, never ignored.
 */
import { type ModelConfig, UnsupportedError } from '@glinthawk/core';
import { Fields, quote } from './config-fields.ts';
import { type Family, familyOf } from './families.ts';
import type { GenerationDefaults } from './model.ts';
import * as limits from './model-limits.ts';
import { readRope } from './rope-scaling.ts';

/** How many end-of-text tokens a model may have. */
const MAX_EOS_TOKENS = 256;

/** Keys that other families give the same layer, and the value at which they do nothing. */
const NEUTRAL_VALUES: ReadonlyMap<string, unknown> = new Map<string, unknown>([
  ['attn_logit_softcapping', undefined],
  ['final_logit_softcapping', undefined],
  ['clip_qkv', undefined],
  ['no_rope_layers', undefined],
  ['embedding_multiplier', 1],
  ['residual_multiplier', 1],
  ['logits_scaling', 1],
  ['attention_multiplier', undefined],
  ['logit_scale', 1],
  ['num_experts', 0],
  ['num_local_experts', 0],
  ['use_qk_norm', false],
  ['is_encoder_decoder', false],
  ['llama_4_scaling_beta', undefined],
  ['bias', false],
]);

/** Told, in a sentence, of what a user should know. */
type Note = (text: string) => void;

/**
 * @param config content of config.json
 * @param generation content of generation_config.json, undefined when there is none
 * @throws ModelFormatError, UnsupportedError
 */
export function readHuggingFaceConfig(config: unknown, generation: unknown, note: Note = () => {}): ModelConfig {
  const fields = Fields.of('config.json', config);
  const type = fields.text('model_type');
  if (type === undefined) throw fields.wrong('model_type', 'a string');
  const family = familyOf(type, fields.where);
  refuseUnsupported(fields, family);

  const hiddenSize = fields.count('hidden_size', limits.MAX_HIDDEN);
  const layers = fields.count('num_hidden_layers', limits.MAX_LAYERS);
  const heads = fields.count('num_attention_heads', limits.MAX_HEADS);
  const unsaid = <T>(key: string, value: T): T | undefined => (fields.absent(key) ? value : undefined);
  const defaultKvHeads = unsaid('num_key_value_heads', family.absent.kvHeads) ?? heads;
  const kvHeads = fields.count('num_key_value_heads', limits.MAX_HEADS, defaultKvHeads);
  if (heads % kvHeads !== 0) {
    throw fields.wrong('num_key_value_heads', `a divisor of num_attention_heads ${heads} (it is ${kvHeads})`);
  }
  const defaultHeadDim = unsaid('head_dim', family.absent.headDim) ?? hiddenSize / heads;
  if (!fields.has('head_dim') && !Number.isInteger(defaultHeadDim)) {
    throw fields.wrong('num_attention_heads', `a divisor of hidden_size ${hiddenSize}, as there is no head_dim`);
  }
  const headDim = fields.count('head_dim', limits.MAX_HEAD_DIM, defaultHeadDim);
  if (headDim % 2 !== 0) throw fields.wrong('head_dim', `even, as RoPE turns pairs (it is ${headDim})`);
  const vocabSize = fields.count('vocab_size', limits.MAX_VOCAB);
  const maxPositions = fields.count('max_position_embeddings', limits.MAX_CONTEXT_TOKENS);
  const rope = readRope(fields, maxPositions);
  const attentionBias = family.attentionBias === 'configured' && fields.flag('attention_bias', false);
  return {
    family: family.name,
    vocabSize,
    hiddenSize,
    intermediateSize: fields.count('intermediate_size', limits.MAX_INTERMEDIATE),
    layers,
    heads,
    kvHeads,
    headDim,
    contextTokens: extendedContext(maxPositions, rope.scaling),
    rmsNormEps: fields.positive('rms_norm_eps', 1e-6),
    rope,
    tiedEmbeddings: fields.flag('tie_word_embeddings', false),
    qkvBias: family.attentionBias === 'qkv' || attentionBias,
    outputBias: attentionBias,
    mlpBias: family.mlpBias && fields.flag('mlp_bias', false),
    qkNorm: family.qkNorm,
    windows: readWindows(fields, family, layers, note),
    bosTokenId: readBosToken(fields, vocabSize, note),
    eosTokenIds: readEosTokens(eosTokensOf(fields, vocabSize, note), generation, vocabSize, note),
  };
}

/** YaRN's configurations often keep the original context in `max_position_embeddings`, and the extension in its factor. */
function extendedContext(maxPositions: number, scaling: ModelConfig['rope']['scaling']): number {
  if (scaling.type !== 'yarn') return maxPositions;
  return Math.max(
    maxPositions,
    Math.min(Math.round(scaling.originalContextTokens * scaling.factor), limits.MAX_CONTEXT_TOKENS),
  );
}

function refuseUnsupported(fields: Fields, family: Family): void {
  const refuse = (key: string, why: string) =>
    new UnsupportedError(
      'UNSUPPORTED_CONFIG',
      `${fields.where}: ${key} ${quote(fields.raw(key))} is not supported${why}`,
    );
  const activation = fields.text('hidden_act') ?? fields.text('hidden_activation') ?? 'silu';
  if (activation !== 'silu' && activation !== 'swish') {
    throw refuse(fields.has('hidden_act') ? 'hidden_act' : 'hidden_activation', '; the MLP is SwiGLU (silu)');
  }
  if (fields.has('quantization_config')) {
    throw new UnsupportedError(
      'UNSUPPORTED_QUANTIZATION',
      `${fields.where}: quantization_config ${quote(fields.section('quantization_config')?.raw('quant_method'))} is not supported`,
      { hint: 'Use the unquantised checkpoint (f32, f16, bf16) or a GGUF file.' },
    );
  }
  if (family.attentionBias === 'none' && fields.flag('attention_bias', false))
    throw refuse('attention_bias', ` for ${family.name}`);
  if (family.attentionBias === 'qkv' && !fields.flag('attention_bias', true))
    throw refuse('attention_bias', ` for ${family.name}`);
  if (!family.mlpBias && fields.flag('mlp_bias', false)) throw refuse('mlp_bias', ` for ${family.name}`);
  for (const [key, neutral] of NEUTRAL_VALUES) {
    const value = fields.raw(key);
    if (value !== undefined && value !== neutral) throw refuse(key, '');
  }
}

function readWindows(fields: Fields, family: Family, layers: number, note: Note): readonly number[] {
  const unlessSaid = fields.absent('sliding_window') ? (family.absent.slidingWindow ?? 0) : 0;
  const sliding = fields.count('sliding_window', limits.MAX_CONTEXT_TOKENS, unlessSaid);
  switch (family.windows) {
    case 'none':
      // transformers' Llama takes no window; a checkpoint that asks for one would be computed otherwise than it says.
      if (sliding !== 0) {
        throw new UnsupportedError(
          'UNSUPPORTED_CONFIG',
          `${fields.where}: sliding_window ${sliding} is not supported for ${family.name}`,
        );
      }
      return new Array<number>(layers).fill(0);
    case 'all': {
      // transformers' Mistral asks for the window and for nothing else.
      const windows = new Array<number>(layers).fill(sliding);
      if (fields.has('layer_types') && readLayerTypes(fields, layers, sliding)?.some((window) => window !== sliding)) {
        note(
          `${fields.where}: layer_types is not heeded: ${family.name} has its sliding_window ${sliding} in every layer`,
        );
      }
      return windows;
    }
    case 'listed': {
      const window = fields.flag('use_sliding_window', false) ? sliding : 0;
      const first = fields.integer('max_window_layers', 0, limits.MAX_LAYERS * 1024) ?? 28;
      return (
        readLayerTypes(fields, layers, window) ?? Array.from({ length: layers }, (_, i) => (i >= first ? window : 0))
      );
    }
    default:
      return family.windows satisfies never;
  }
}

function readLayerTypes(fields: Fields, layers: number, window: number): readonly number[] | undefined {
  const types = fields.list('layer_types', limits.MAX_LAYERS);
  if (types === undefined) return undefined;
  if (types.length !== layers) throw fields.wrong('layer_types', `one entry for each of the ${layers} layers`);
  return types.map((type) => {
    if (type === 'full_attention') return 0;
    if (type !== 'sliding_attention') {
      throw new UnsupportedError('UNSUPPORTED_CONFIG', `${fields.where}: layer type ${quote(type)} is not supported`);
    }
    if (window === 0) throw fields.wrong('sliding_window', 'set and in use, as layer_types has sliding_attention');
    return window;
  });
}

/** An id that no token has is as good as none; transformers takes such configurations too. */
function readBosToken(fields: Fields, vocabSize: number, note: Note): number | null {
  const id = fields.integer('bos_token_id', Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER);
  if (id === undefined) return null;
  if (id >= 0 && id < vocabSize) return id;
  note(noSuchToken(fields, 'bos_token_id', id, vocabSize));
  return null;
}

function noSuchToken(fields: Fields, key: string, id: number, vocabSize: number): string {
  return `${fields.where}: ${key} ${id} is not a token of a vocabulary of ${vocabSize}, so it counts as absent`;
}

/**
 * End-of-text ids that either file names, ascending.
 * @param configured those of the model's own configuration
 * @throws ModelFormatError
 */
export function readEosTokens(
  configured: readonly number[],
  generation: unknown,
  vocabSize: number,
  note: Note = () => {},
): readonly number[] {
  const more =
    generation === undefined ? [] : eosTokensOf(Fields.of('generation_config.json', generation), vocabSize, note);
  return [...new Set([...configured, ...more])].sort((a, b) => a - b);
}

function eosTokensOf(fields: Fields, vocabSize: number, note: Note): readonly number[] {
  const value = fields.raw('eos_token_id');
  if (value === undefined) return [];
  const list: readonly unknown[] = Array.isArray(value) ? value : [value];
  if (list.length > MAX_EOS_TOKENS) throw fields.wrong('eos_token_id', `at most ${MAX_EOS_TOKENS} ids`);
  const ids: number[] = [];
  for (const id of list) {
    if (!Number.isSafeInteger(id)) throw fields.wrong('eos_token_id', 'a token id, or a list of them');
    if ((id as number) >= 0 && (id as number) < vocabSize) ids.push(id as number);
    else note(noSuchToken(fields, 'eos_token_id', id as number, vocabSize));
  }
  return ids;
}

/**
 * Sampling defaults. `do_sample: false` is greedy whatever the temperature beside it says.
 * @throws ModelFormatError
 */
export function readGenerationDefaults(generation: unknown): GenerationDefaults {
  if (generation === undefined) return {};
  const fields = Fields.of('generation_config.json', generation);
  const temperature =
    fields.has('do_sample') && !fields.flag('do_sample', true) ? 0 : fields.number('temperature', 0, 1e6);
  const topP = fields.number('top_p', 0, 1);
  const topK = fields.integer('top_k', 0, limits.MAX_VOCAB);
  const repetitionPenalty = fields.has('repetition_penalty') ? fields.positive('repetition_penalty') : undefined;
  return {
    ...(temperature === undefined ? {} : { temperature }),
    ...(topP === undefined ? {} : { topP }),
    ...(topK === undefined ? {} : { topK }),
    ...(repetitionPenalty === undefined ? {} : { repetitionPenalty }),
  };
}
