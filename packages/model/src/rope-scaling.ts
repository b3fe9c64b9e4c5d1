/** RoPE scaling out of `config.json`, in either of its layouts. GGUF's words for the same are in gguf-config.ts. */
import { type RopeConfig, type RopeScaling, UnsupportedError } from '@glinthawk/core';
import { type Fields, quote } from './config-fields.ts';
import { MAX_CONTEXT_TOKENS } from './model-limits.ts';

/** What transformers takes for `rope_theta` when a Llama configuration doesn't say. */
const DEFAULT_THETA = 10_000;
export const YARN_BETA_FAST = 32;
export const YARN_BETA_SLOW = 1;

/** Keys of a scaling that changes the computation in ways that aren't supported, whatever its type. */
const UNSUPPORTED_KEYS = ['llama_4_scaling_beta', 'mrope_section'];
/** Keys that only mean something with a type. */
const TYPED_KEYS = ['factor', 'low_freq_factor', 'high_freq_factor', 'beta_fast', 'beta_slow', 'attention_factor'];

/**
 * @throws ModelFormatError when a number is missing or impossible
 * @throws UnsupportedError for a scaling that isn't `default`, `linear`, `llama3` or `yarn`
 */
export function readRope(config: Fields, contextTokens: number): RopeConfig {
  const parameters = config.section('rope_parameters');
  const older = config.section('rope_scaling');
  const [said, saidBefore] = ['rope_parameters', 'rope_scaling'].map((key) => JSON.stringify(config.raw(key) ?? {}));
  if (said !== '{}' && saidBefore !== '{}' && said !== saidBefore) {
    throw new UnsupportedError(
      'UNSUPPORTED_ROPE',
      `${config.where}: rope_parameters and rope_scaling that differ are not supported: which of them counts is a guess`,
    );
  }
  const scaling = said === '{}' ? older : parameters;
  for (const key of UNSUPPORTED_KEYS) {
    if (!scaling?.has(key)) continue;
    throw new UnsupportedError(
      'UNSUPPORTED_ROPE',
      `${scaling.where}: ${key} ${quote(scaling.raw(key))} is not supported`,
    );
  }
  for (const layerType of ['full_attention', 'sliding_attention']) {
    if (parameters?.has(layerType)) {
      throw new UnsupportedError('UNSUPPORTED_ROPE', `${parameters.where}: one RoPE per layer type is not supported`);
    }
  }
  for (const place of [config, ...(scaling === undefined ? [] : [scaling])]) {
    const share = place.number('partial_rotary_factor', 0, 1) ?? 1;
    if (share !== 1) {
      throw new UnsupportedError(
        'UNSUPPORTED_ROPE',
        `${place.where}: partial_rotary_factor ${share} is not supported; whole heads are rotated`,
      );
    }
  }
  const theta = (scaling?.has('rope_theta') ? scaling : config).positive('rope_theta', DEFAULT_THETA);
  return { theta, scaling: scaling === undefined ? { type: 'none' } : readScaling(scaling, contextTokens) };
}

function readScaling(scaling: Fields, contextTokens: number): RopeScaling {
  // `type` is the older word; transformers prefers the newer where both stand.
  const type = scaling.text('rope_type') ?? scaling.text('type');
  switch (type) {
    case undefined:
      // Without a type, transformers takes it for `default`, and so it is where nothing speaks of another.
      if (TYPED_KEYS.some((key) => scaling.has(key))) throw scaling.wrong('rope_type', 'a string');
      return { type: 'none' };
    case 'default':
      return { type: 'none' };
    case 'linear':
      return { type: 'linear', factor: scaling.positive('factor') };
    case 'llama3': {
      const lowFreqFactor = scaling.positive('low_freq_factor');
      const highFreqFactor = scaling.positive('high_freq_factor');
      if (highFreqFactor <= lowFreqFactor)
        throw scaling.wrong('high_freq_factor', `above low_freq_factor ${lowFreqFactor}`);
      return {
        type: 'llama3',
        factor: scaling.positive('factor'),
        lowFreqFactor,
        highFreqFactor,
        originalContextTokens: scaling.count('original_max_position_embeddings', MAX_CONTEXT_TOKENS),
      };
    }
    case 'yarn': {
      const originalContextTokens = scaling.count(
        'original_max_position_embeddings',
        MAX_CONTEXT_TOKENS,
        contextTokens,
      );
      const factor = scaling.positive('factor', contextTokens / originalContextTokens);
      return {
        type: 'yarn',
        factor,
        originalContextTokens,
        betaFast: scaling.positive('beta_fast', YARN_BETA_FAST),
        betaSlow: scaling.positive('beta_slow', YARN_BETA_SLOW),
        attentionFactor: scaling.positive('attention_factor', attentionFactor(scaling, factor)),
        truncate: scaling.flag('truncate', true),
      };
    }
    default:
      throw new UnsupportedError(
        'UNSUPPORTED_ROPE',
        `${scaling.where}: rope_type ${JSON.stringify(type)} is not supported`,
        {
          hint: 'Supported: default, linear, llama3, yarn.',
        },
      );
  }
}

/** YaRN (arXiv 2309.00071) section 3.4, with DeepSeek's two weights of it as transformers reads them. */
function attentionFactor(scaling: Fields, factor: number): number {
  const mscale = scaling.number('mscale', 0, 1000) ?? 0;
  const mscaleAllDim = scaling.number('mscale_all_dim', 0, 1000) ?? 0;
  if (mscale > 0 && mscaleAllDim > 0) return yarnMagnitude(factor, mscale) / yarnMagnitude(factor, mscaleAllDim);
  return yarnMagnitude(factor, 1);
}

export function yarnMagnitude(factor: number, weight: number): number {
  return factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1;
}
