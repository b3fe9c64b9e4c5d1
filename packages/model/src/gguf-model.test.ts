import { GlinthawkError, ModelFormatError, ropeFrequencies, UnsupportedError } from '@glinthawk/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type MetadataEntry, writeGguf } from '../testing/gguf-writer.ts';
import { filesOf, TINY, tinyFolder, tinyGguf, tinyGgufMetadata, tinyGgufTensors } from '../testing/tiny-model.ts';
import { openModelFiles } from './open-model.ts';
import { weightShapes } from './weight-shapes.ts';

const u32 = (value: number): MetadataEntry => ({ type: 'u32', value });
const f32 = (value: number): MetadataEntry => ({ type: 'f32', value });
const text = (value: string): MetadataEntry => ({ type: 'string', value });

function withMetadata(...changes: readonly [string, MetadataEntry | undefined][]) {
  const metadata = tinyGgufMetadata();
  for (const [key, entry] of changes) {
    if (entry === undefined) metadata.delete(key);
    else metadata.set(key, entry);
  }
  return metadata;
}

describe('a GGUF file', () => {
  it('gives the weights and configuration of the folder that it was made from', async () => {
    const gguf = await openModelFiles(tinyGguf());
    const folder = await openModelFiles(tinyFolder());
    expect(gguf.format).toBe('gguf');
    expect({ ...gguf.config, rmsNormEps: 0 }).toEqual({ ...folder.config, rmsNormEps: 0 });
    expect(gguf.config.rmsNormEps).toBeCloseTo(1e-5, 10);
    for (const name of weightShapes(gguf.config).keys()) {
      expect(await gguf.weights.read(name)).toEqual(await folder.weights.read(name));
    }
    expect(gguf.tokenizer).toBeNull();
    expect(gguf.chatTemplate).toBeNull();
    await gguf.close();
    await folder.close();
  });

  it('reads any rows of reordered weights', async () => {
    const model = await openModelFiles(tinyGguf());
    const q = await model.weights.read('layers.1.q');
    const rows = TINY.heads * TINY.headDim;
    for (const [start, end] of [
      [0, 0],
      [0, 1],
      [3, 4],
      [5, 19],
      [8, 16],
      [rows - 1, rows],
      [0, rows],
    ] as const) {
      const part = await model.weights.read('layers.1.q', { start, end });
      expect(part).toEqual(q.slice(start * TINY.hidden, end * TINY.hidden));
    }
    await expect(model.weights.read('layers.1.q', { start: 0, end: rows + 1 })).rejects.toThrow(RangeError);
    await model.close();
  });

  it('leaves q and k of Qwen as they are', async () => {
    const tensors = tinyGgufTensors(false);
    for (const layer of [0, 1]) {
      for (const [name, length] of [
        ['attn_q', TINY.heads * TINY.headDim],
        ['attn_k', TINY.kvHeads * TINY.headDim],
        ['attn_v', TINY.kvHeads * TINY.headDim],
      ] as const) {
        const values = Float32Array.from({ length }, (_, i) => i);
        tensors.set(`blk.${layer}.${name}.bias`, { shape: [length], kind: 0, bytes: new Uint8Array(values.buffer) });
      }
    }
    const qwen = await openModelFiles(tinyGguf(tinyGgufMetadata('qwen2'), tensors));
    const folder = await openModelFiles(tinyFolder());
    expect(qwen.config).toMatchObject({ family: 'qwen2', qkvBias: true, outputBias: false });
    expect(await qwen.weights.read('layers.0.k')).toEqual(await folder.weights.read('layers.0.k'));
    expect([...(await qwen.weights.read('layers.0.kBias'))]).toEqual(Array.from({ length: 16 }, (_, i) => i));
    await qwen.close();
    await folder.close();
  });

  it('reorders the biases of q and k too', async () => {
    const tensors = tinyGgufTensors();
    for (const layer of [0, 1]) {
      for (const name of ['attn_q', 'attn_k', 'attn_v'] as const) {
        const values = Float32Array.from({ length: name === 'attn_q' ? 32 : 16 }, (_, i) => i);
        tensors.set(`blk.${layer}.${name}.bias`, {
          shape: [values.length],
          kind: 0,
          bytes: new Uint8Array(values.buffer),
        });
      }
    }
    const model = await openModelFiles(tinyGguf(tinyGgufMetadata(), tensors));
    expect(model.config.qkvBias).toBe(true);
    const k = await model.weights.read('layers.0.kBias');
    expect([...k]).toEqual([0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]);
    expect([...(await model.weights.read('layers.0.kBias', { start: 6, end: 11 }))]).toEqual([5, 7, 8, 10, 12]);
    expect([...(await model.weights.read('layers.0.vBias', { start: 6, end: 8 }))]).toEqual([6, 7]);
    await model.close();
  });

  it('takes rope_freqs.weight for per-frequency factors', async () => {
    const factors = Float32Array.of(1, 1, 2.5, 8);
    const tensors = tinyGgufTensors().set('rope_freqs.weight', {
      shape: [4],
      kind: 0,
      bytes: new Uint8Array(factors.buffer),
    });
    const model = await openModelFiles(tinyGguf(tinyGgufMetadata(), tensors));
    expect(model.config.rope.scaling).toEqual({ type: 'factors', factors: [1, 1, 2.5, 8] });
    const { inverse } = ropeFrequencies(model.config);
    expect([...inverse]).toEqual([1, 0.1, 0.01 / 2.5, 10000 ** -0.75 / 8].map((x) => expect.closeTo(x, 12)));
    await model.close();
    const bad = tinyGgufTensors().set('rope_freqs.weight', { shape: [3], kind: 0, bytes: new Uint8Array(12) });
    await expect(openModelFiles(tinyGguf(tinyGgufMetadata(), bad))).rejects.toThrow(/rope_freqs.weight/);
  });

  it.each<[string, [string, MetadataEntry][], object]>([
    ['linear', [['llama.rope.scaling.factor', f32(4)]], { type: 'linear', factor: 4 }],
    [
      'yarn',
      [
        ['llama.rope.scaling.factor', f32(4)],
        ['llama.rope.scaling.original_context_length', u32(32)],
      ],
      { type: 'yarn', factor: 4, originalContextTokens: 32, attentionFactor: 0.1 * Math.log(4) + 1 },
    ],
    ['none', [], { type: 'none' }],
  ])('reads rope scaling %s', async (type, entries, expected) => {
    const model = await openModelFiles(tinyGguf(withMetadata(['llama.rope.scaling.type', text(type)], ...entries)));
    expect(model.config.rope.scaling).toMatchObject(expected);
    await model.close();
  });

  it('reads a sliding window, other end tokens and a separate head', async () => {
    const embedding = tinyGgufTensors().get('token_embd.weight');
    if (embedding === undefined) throw new Error('no embedding');
    const metadata = withMetadata(['llama.attention.sliding_window', u32(24)], ['tokenizer.ggml.eot_token_id', u32(5)]);
    const model = await openModelFiles(tinyGguf(metadata, tinyGgufTensors().set('output.weight', embedding)));
    expect(model.config).toMatchObject({ windows: [24, 24], eosTokenIds: [1, 5], tiedEmbeddings: false });
    expect(model.weights.has('head')).toBe(true);
    await model.close();
  });

  it('finds the ends of turns by their texts among the control tokens of a chat model', async () => {
    const tokens = Array.from({ length: TINY.vocab }, (_, i) => `t${i}`);
    [tokens[7], tokens[8], tokens[9], tokens[10]] = ['<|eot_id|>', '<|im_end|>', '<|im_start|>', '<|end|>'];
    const vocabulary: [string, MetadataEntry][] = [
      ['tokenizer.ggml.tokens', { type: 'strings', value: tokens }],
      ['tokenizer.ggml.token_type', { type: 'i32s', value: tokens.map((_, i) => (i >= 7 && i < 10 ? 3 : 1)) }],
    ];
    const endsOf = async (...changes: [string, MetadataEntry][]) => {
      const model = await openModelFiles(tinyGguf(withMetadata(...vocabulary, ...changes)));
      await model.close();
      return model.config.eosTokenIds;
    };
    expect(await endsOf(['tokenizer.chat_template', text('{{ messages }}')])).toEqual([1, 7, 8]);
    expect(await endsOf()).toEqual([1]);
  });

  it.each<[string, [string, MetadataEntry | undefined], RegExp]>([
    ['an unknown architecture', ['general.architecture', text('mamba')], /"mamba"/],
    ['experts', ['llama.expert_count', u32(8)], /expert_count 8/],
    ['partial rotation', ['llama.rope.dimension_count', u32(4)], /rope.dimension_count 4/],
    ['v of another length', ['llama.attention.value_length', u32(4)], /value_length 4/],
    ['another rope scaling', ['llama.rope.scaling.type', text('longrope')], /longrope/],
    ['soft caps', ['llama.attn_logit_softcapping', f32(50)], /attn_logit_softcapping/],
    ['a file in parts', ['split.count', { type: 'u64', value: 3 }], /one of 3 parts/],
    ['another tokenizer', ['tokenizer.ggml.model', text('rwkv')], /rwkv/],
  ])('does not support %s, and says so', async (_, change, message) => {
    const error = await openModelFiles(tinyGguf(withMetadata(change))).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UnsupportedError);
    expect((error as Error).message).toMatch(message);
  });

  it.each<[string, [string, MetadataEntry | undefined], RegExp]>([
    ['no architecture', ['general.architecture', undefined], /general.architecture/],
    ['no layers', ['llama.block_count', undefined], /block_count is missing/],
    ['a text for a number', ['llama.block_count', text('2')], /block_count must be a number, found "2"/],
    ['a list for a number', ['llama.feed_forward_length', { type: 'i32s', value: [64, 64] }], /feed_forward_length/],
    ['more layers than weights', ['llama.block_count', u32(3)], /no tensor blk.2.attn_norm.weight/],
    ['another width', ['llama.feed_forward_length', u32(65)], /tensor blk.0.ffn_gate.weight has shape \[64, 32\]/],
    ['heads that do not divide', ['llama.attention.head_count_kv', u32(3)], /head_count_kv/],
    ['an end token outside the vocabulary', ['tokenizer.ggml.eos_token_id', u32(40)], /eos_token_id/],
  ])('refuses %s', async (_, change, message) => {
    const error = await openModelFiles(tinyGguf(withMetadata(change))).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ModelFormatError);
    expect((error as Error).message).toMatch(message);
  });

  it('names kind and tensor of what it can not dequantise yet', async () => {
    const tensors = tinyGgufTensors();
    tensors.set('blk.0.ffn_up.weight', { shape: [64, 32], kind: 12, bytes: new Uint8Array(144 * 8) });
    const error = await openModelFiles(tinyGguf(tinyGgufMetadata(), tensors)).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UnsupportedError);
    expect((error as Error).message).toMatch(/tensor blk.0.ffn_up.weight is stored as Q4_K/);
  });

  it('refuses tensors that the file cuts off, that overlap, or that do not fill blocks', async () => {
    const whole = writeGguf(tinyGgufMetadata(), tinyGgufTensors());
    await expect(openModelFiles(filesOf('t.gguf', { 't.gguf': whole.slice(0, -40) }))).rejects.toThrow(
      /output_norm.weight/,
    );
    const odd = tinyGgufTensors().set('blk.0.attn_norm.weight', { shape: [33], kind: 8, bytes: new Uint8Array(64) });
    await expect(openModelFiles(tinyGguf(tinyGgufMetadata(), odd))).rejects.toThrow(ModelFormatError);
    // A tensor that claims more than it has reaches into the next.
    const long = tinyGgufTensors();
    const first = long.get('token_embd.weight');
    if (first === undefined) throw new Error('no embedding');
    long
      .set('extra', { shape: [200, 32], kind: 0, bytes: first.bytes })
      .set('tail', { shape: [800], kind: 0, bytes: new Uint8Array(102_400) });
    await expect(openModelFiles(tinyGguf(tinyGgufMetadata(), long))).rejects.toThrow(
      /tensor tail overlaps tensor extra/,
    );
  });

  it('opens after any mutation of its header, or fails with a proper error', async () => {
    const tokens = [
      ...Array.from({ length: 38 }, (_, i) => String.fromCharCode(97 + (i % 26), 97 + i / 26)),
      '<a>',
      '<b>',
    ];
    const metadata = withMetadata(
      ['tokenizer.ggml.model', text('gpt2')],
      ['tokenizer.ggml.pre', text('smollm')],
      ['tokenizer.ggml.tokens', { type: 'strings', value: tokens }],
      ['tokenizer.ggml.token_type', { type: 'i32s', value: tokens.map((_, i) => (i < 38 ? 1 : 3)) }],
      ['tokenizer.ggml.merges', { type: 'strings', value: ['a b', 'b c'] }],
      ['tokenizer.chat_template', text('{{ messages }}')],
    );
    const good = writeGguf(metadata, tinyGgufTensors());
    const end = good.length - [...tinyGgufTensors().values()].reduce((sum, { bytes }) => sum + bytes.length, 0);
    const edit = fc.tuple(fc.nat({ max: end - 1 }), fc.nat({ max: 255 }));
    let opened = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(edit, { minLength: 1, maxLength: 3 }), async (edits) => {
        const bytes = good.slice();
        for (const [at, value] of edits) bytes[at] = value;
        try {
          await (await openModelFiles(filesOf('t.gguf', { 't.gguf': bytes }))).close();
          opened++;
        } catch (error) {
          expect(error).toBeInstanceOf(GlinthawkError);
        }
      }),
      { numRuns: 400 },
    );
    expect(opened).toBeGreaterThan(0);
  });

  it('refuses a layer tensor that it would leave out', async () => {
    const tensors = tinyGgufTensors().set('blk.1.attn_q_norm.weight', {
      shape: [8],
      kind: 0,
      bytes: new Uint8Array(32),
    });
    await expect(openModelFiles(tinyGguf(tinyGgufMetadata(), tensors))).rejects.toThrow(
      /blk.1.attn_q_norm.weight has no place/,
    );
  });
});
