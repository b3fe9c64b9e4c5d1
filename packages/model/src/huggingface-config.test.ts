import { GlinthawkError, ModelFormatError, UnsupportedError } from '@glinthawk/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { tinyConfig } from '../testing/tiny-model.ts';
import { readGenerationDefaults, readHuggingFaceConfig } from './huggingface-config.ts';

const read = (changes: Record<string, unknown>, generation?: unknown) =>
  readHuggingFaceConfig({ ...tinyConfig(), ...changes }, generation);

describe('config.json', () => {
  it('reads the layout before transformers 5', () => {
    const config = read({ torch_dtype: 'bfloat16', rope_theta: 5e5, rope_scaling: null, head_dim: null });
    expect(config).toMatchObject({
      family: 'llama',
      headDim: 8,
      kvHeads: 2,
      contextTokens: 128,
      rope: { theta: 5e5, scaling: { type: 'none' } },
      windows: [0, 0],
      tiedEmbeddings: true,
      bosTokenId: 0,
      eosTokenIds: [1],
    });
  });

  it('reads the layout since transformers 5', () => {
    const config = read({
      rope_theta: undefined,
      dtype: 'float16',
      rope_parameters: { rope_type: 'linear', rope_theta: 1e6, factor: 4 },
    });
    expect(config.rope).toEqual({ theta: 1e6, scaling: { type: 'linear', factor: 4 } });
  });

  it('treats null as absent', () => {
    const nulls = { num_key_value_heads: null, rope_theta: null, quantization_config: null, sliding_window: null };
    const config = read({
      ...nulls,
      bos_token_id: null,
      attention_bias: null,
      mlp_bias: null,
      tie_word_embeddings: null,
    });
    expect(config).toMatchObject({ kvHeads: 4, bosTokenId: null, tiedEmbeddings: false, qkvBias: false });
    expect(config.rope.theta).toBe(10000);
  });

  it('fills in what YaRN leaves out, and its context', () => {
    const { rope, contextTokens } = read({
      rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: 128 },
    });
    expect(contextTokens).toBe(512);
    expect(rope.scaling).toEqual({
      type: 'yarn',
      factor: 4,
      originalContextTokens: 128,
      betaFast: 32,
      betaSlow: 1,
      attentionFactor: 0.1 * Math.log(4) + 1,
      truncate: true,
    });
  });

  it("weighs YaRN's magnitude by mscale and mscale_all_dim", () => {
    const scaling = {
      rope_type: 'yarn',
      factor: 40,
      mscale: 0.7,
      mscale_all_dim: 1.4,
      original_max_position_embeddings: 64,
    };
    const { rope } = read({ rope_scaling: scaling });
    const expected = (0.07 * Math.log(40) + 1) / (0.14 * Math.log(40) + 1);
    expect(rope.scaling).toMatchObject({ attentionFactor: expected });
  });

  it('reads llama3 scaling', () => {
    const scaling = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 64 };
    expect(read({ rope_scaling: { rope_type: 'llama3', ...scaling } }).rope.scaling).toEqual({
      type: 'llama3',
      factor: 8,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalContextTokens: 64,
    });
  });

  it.each([
    [
      'llama',
      { attention_bias: true, mlp_bias: true },
      { qkvBias: true, outputBias: true, mlpBias: true, qkNorm: false },
    ],
    ['mistral', {}, { qkvBias: false, outputBias: false, mlpBias: false, qkNorm: false }],
    ['qwen2', {}, { qkvBias: true, outputBias: false, mlpBias: false, qkNorm: false }],
    ['qwen3', {}, { qkvBias: false, outputBias: false, mlpBias: false, qkNorm: true }],
    ['qwen3', { attention_bias: true }, { qkvBias: true, outputBias: true, qkNorm: true }],
  ])('declares %s %o', (model_type, changes, expected) => {
    expect(read({ model_type, ...changes })).toMatchObject(expected);
  });

  it.each([
    ['mistral', { sliding_window: 24 }, [24, 24]],
    ['mistral', { sliding_window: null }, [0, 0]],
    ['mistral', {}, [4096, 4096]],
    ['mistral', { sliding_window: 24, layer_types: ['full_attention', 'full_attention'] }, [24, 24]],
    ['qwen2', {}, [0, 0]],
    ['qwen2', { use_sliding_window: true, max_window_layers: 0 }, [4096, 4096]],
    ['qwen2', { use_sliding_window: true, max_window_layers: 0, sliding_window: null }, [0, 0]],
    ['llama', {}, [0, 0]],
    ['qwen2', { sliding_window: 24, use_sliding_window: false, max_window_layers: 0 }, [0, 0]],
    ['qwen2', { sliding_window: 24, use_sliding_window: true, max_window_layers: 1 }, [0, 24]],
    [
      'qwen3',
      { sliding_window: 24, use_sliding_window: true, layer_types: ['sliding_attention', 'full_attention'] },
      [24, 0],
    ],
  ])('windows of %s %o', (model_type, changes, windows) => {
    expect(read({ model_type, ...changes }).windows).toEqual(windows);
  });

  it.each<[string, Record<string, unknown>, object]>([
    ['llama', { num_key_value_heads: undefined }, { kvHeads: 16, headDim: 2 }],
    ['mistral', { num_key_value_heads: undefined }, { kvHeads: 8, headDim: 2 }],
    ['mistral', { num_key_value_heads: null }, { kvHeads: 16 }],
    ['qwen3', {}, { headDim: 128 }],
    ['qwen3', { head_dim: null }, { headDim: 2 }],
    ['qwen3', { head_dim: 16 }, { headDim: 16 }],
  ])('takes for what %s leaves out what transformers does: %o', (model_type, changes, expected) => {
    expect(read({ model_type, num_attention_heads: 16, ...changes })).toMatchObject(expected);
  });

  it.each<[object, object]>([
    [{ rope_parameters: { rope_theta: 1e6 } }, { theta: 1e6, scaling: { type: 'none' } }],
    [{ rope_scaling: {} }, { theta: 10000, scaling: { type: 'none' } }],
    [{ rope_scaling: { rope_type: 'linear', factor: 2, rope_theta: 3e5 } }, { theta: 3e5, scaling: { factor: 2 } }],
    [
      { rope_parameters: {}, rope_scaling: { type: 'linear', factor: 2 } },
      { theta: 10000, scaling: { type: 'linear', factor: 2 } },
    ],
  ])('reads RoPE of %o', (changes, expected) => {
    expect(read({ ...changes }).rope).toMatchObject(expected);
  });

  it('takes ids that are no tokens for absent, and says so', () => {
    const notes: string[] = [];
    const config = readHuggingFaceConfig(
      { ...tinyConfig(), bos_token_id: 40, eos_token_id: [-1, 3] },
      { eos_token_id: 1000 },
      (text) => notes.push(text),
    );
    expect(config).toMatchObject({ bosTokenId: null, eosTokenIds: [3] });
    expect(notes.map((text) => text.slice(0, 42))).toEqual([
      'config.json: bos_token_id 40 is not a toke',
      'config.json: eos_token_id -1 is not a toke',
      'generation_config.json: eos_token_id 1000 ',
    ]);
  });

  it('says when layer_types is not heeded', () => {
    const notes: string[] = [];
    const types = { model_type: 'mistral', sliding_window: 24, layer_types: ['full_attention', 'full_attention'] };
    readHuggingFaceConfig({ ...tinyConfig(), ...types }, undefined, (text) => notes.push(text));
    expect(notes).toEqual([expect.stringMatching(/layer_types is not heeded/)]);
  });

  it('merges the end-of-text ids of both files', () => {
    expect(read({ eos_token_id: [7, 3] }, { eos_token_id: [3, 9] }).eosTokenIds).toEqual([3, 7, 9]);
    expect(read({ eos_token_id: null }, { eos_token_id: 5 }).eosTokenIds).toEqual([5]);
    expect(read({ eos_token_id: null }).eosTokenIds).toEqual([]);
  });

  it.each<[string, unknown]>([
    ['hidden_size', -1],
    ['hidden_size', 32.5],
    ['hidden_size', '32'],
    ['hidden_size', 2 ** 60],
    ['hidden_size', undefined],
    ['intermediate_size', 0],
    ['num_hidden_layers', 1e9],
    ['num_attention_heads', 5],
    ['num_key_value_heads', 3],
    ['head_dim', 7],
    ['vocab_size', Number.NaN],
    ['max_position_embeddings', []],
    ['rms_norm_eps', -1e-5],
    ['rope_theta', 0],
    ['tie_word_embeddings', 'yes'],
    ['eos_token_id', [1, 'x']],
    ['bos_token_id', 'x'],
    ['bos_token_id', 1.5],
    ['model_type', 3],
    ['rope_scaling', 'linear'],
    ['rope_scaling', { factor: 2 }],
    ['rope_scaling', { rope_type: 'linear' }],
    ['rope_scaling', { rope_type: 'llama3', factor: 8, low_freq_factor: 4, high_freq_factor: 4 }],
  ])('refuses %s = %j, naming the key', (key, value) => {
    const error = thrown(() => read({ [key]: value }));
    expect(error).toBeInstanceOf(ModelFormatError);
    expect((error as Error).message).toContain(key);
  });

  it.each<[string, unknown]>([
    ['model_type', 'mixtral'],
    ['hidden_act', 'gelu'],
    ['quantization_config', { quant_method: 'gptq' }],
    ['partial_rotary_factor', 0.5],
    ['rope_scaling', { rope_type: 'dynamic', factor: 2 }],
    ['rope_scaling', { rope_type: 'longrope' }],
    ['rope_parameters', { full_attention: { rope_type: 'default' } }],
    ['rope_parameters', { rope_type: 'default', partial_rotary_factor: 0.25 }],
    ['rope_parameters', { rope_type: 'default', llama_4_scaling_beta: 0.1 }],
    ['rope_scaling', { mrope_section: [1, 1, 2] }],
    ['llama_4_scaling_beta', 0.1],
    ['sliding_window', 64],
    ['attn_logit_softcapping', 50],
    ['residual_multiplier', 0.2],
    ['no_rope_layers', [1, 0]],
  ])('does not support %s = %j, and says so', (key, value) => {
    const error = thrown(() => read({ [key]: value }));
    expect(error).toBeInstanceOf(UnsupportedError);
    expect((error as Error).message).toMatch(/not supported/);
  });

  it('does not guess which of two scalings counts', () => {
    const two = { rope_parameters: { rope_theta: 1e6 }, rope_scaling: { rope_type: 'linear', factor: 2 } };
    expect(() => read(two)).toThrow(UnsupportedError);
    expect(read({ ...two, rope_parameters: two.rope_scaling }).rope.scaling).toEqual({ type: 'linear', factor: 2 });
  });

  it.each([
    ['mistral', { attention_bias: true }],
    ['qwen2', { attention_bias: false }],
    ['qwen2', { mlp_bias: true }],
    ['qwen3', { layer_types: ['chunked_attention', 'full_attention'] }],
  ])('does not support %s with %o', (model_type, changes) => {
    expect(() => read({ model_type, ...changes })).toThrow(UnsupportedError);
  });

  it.each([[null], [[]], ['x'], [1]])('refuses %j in place of an object', (config) => {
    expect(() => readHuggingFaceConfig(config, undefined)).toThrow(ModelFormatError);
  });

  it('refuses layer_types of another length, and windows without a size', () => {
    expect(() => read({ model_type: 'qwen3', layer_types: ['full_attention'] })).toThrow(/layer_types/);
    const types = ['sliding_attention', 'full_attention'];
    expect(() => read({ model_type: 'qwen3', layer_types: types })).toThrow(/sliding_window/);
  });
});

it('takes any value of any key with a proper error or none', () => {
  const keys = [
    ...Object.keys(tinyConfig()),
    'head_dim',
    'rope_scaling',
    'rope_parameters',
    'layer_types',
    'sliding_window',
  ];
  fc.assert(
    fc.property(
      fc.constantFrom(...keys),
      fc.jsonValue(),
      fc.constantFrom('llama', 'mistral', 'qwen2', 'qwen3'),
      (key, value, family) => {
        try {
          readHuggingFaceConfig({ ...tinyConfig(), model_type: family, [key]: value }, { eos_token_id: value });
        } catch (error) {
          expect(error).toBeInstanceOf(GlinthawkError);
        }
      },
    ),
    { numRuns: 2000 },
  );
});

describe('generation_config.json', () => {
  it('gives sampling defaults', () => {
    const defaults = { do_sample: true, temperature: 0.7, top_p: 0.9, top_k: 20, repetition_penalty: 1.05 };
    expect(readGenerationDefaults(defaults)).toEqual({
      temperature: 0.7,
      topP: 0.9,
      topK: 20,
      repetitionPenalty: 1.05,
    });
    expect(readGenerationDefaults({ do_sample: false, temperature: 0.7 })).toEqual({ temperature: 0 });
    expect(readGenerationDefaults({ temperature: null })).toEqual({});
    expect(readGenerationDefaults(undefined)).toEqual({});
  });

  it.each([{ temperature: -1 }, { top_p: 2 }, { top_k: 1.5 }, { repetition_penalty: 0 }, []])('refuses %j', (value) => {
    expect(() => readGenerationDefaults(value)).toThrow(ModelFormatError);
  });
});

function thrown(run: () => unknown): unknown {
  try {
    run();
  } catch (error) {
    return error;
  }
  return undefined;
}
