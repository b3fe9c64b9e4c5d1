import { ModelFormatError, UnsupportedError } from '@glinthawk/core';
import { describe, expect, it } from 'vitest';
import { writeGguf } from '../testing/gguf-writer.ts';
import { f32Tensor, writeSafetensors } from '../testing/safetensors-writer.ts';
import {
  filesOf,
  tinyConfig,
  tinyFolder,
  tinyGgufMetadata,
  tinyGgufTensors,
  tinyTensors,
} from '../testing/tiny-model.ts';
import { checkWeights, type WeightCheck } from './check-weights.ts';
import { describeModel } from './describe-model.ts';
import type { ModelFiles } from './file-source.ts';
import { openModel, openModelFiles } from './open-model.ts';
import { encodeChat, encodePrompt } from './prompts.ts';

/** Counts what is open, so that leaks show. */
function counted(files: ModelFiles): { readonly files: ModelFiles; readonly open: () => number } {
  let open = 0;
  const wrapped: ModelFiles = {
    ...files,
    open: async (entry) => {
      const file = await files.open(entry);
      open++;
      return {
        name: file.name,
        size: file.size,
        read: (offset, length) => file.read(offset, length),
        close: async () => {
          open--;
          await file.close();
        },
      };
    },
  };
  return { files: wrapped, open: () => open };
}

const shards = () => {
  const all = [...tinyTensors()];
  const [one, two] = [new Map(all.slice(0, 7)), new Map(all.slice(7))];
  const weight_map: Record<string, string> = {};
  for (const name of one.keys()) weight_map[name] = 'model-00001-of-00002.safetensors';
  for (const name of two.keys()) weight_map[name] = 'model-00002-of-00002.safetensors';
  return {
    'model.safetensors': undefined,
    'model-00001-of-00002.safetensors': writeSafetensors(one),
    'model-00002-of-00002.safetensors': writeSafetensors(two),
    'model.safetensors.index.json': { metadata: {}, weight_map },
  };
};

describe('a Hugging Face folder', () => {
  it('opens without a tokenizer, and then takes no text', async () => {
    const model = await openModelFiles(tinyFolder());
    expect(model).toMatchObject({ name: 'tiny', format: 'huggingface', tokenizer: null, chatTemplate: null });
    expect(model.fingerprint).toMatch(/^[0-9a-f]{64}$/);
    expect(() => encodePrompt(model, 'x')).toThrow(UnsupportedError);
    expect(() => encodeChat(model, [{ role: 'user', content: 'x' }])).toThrow(/no tokenizer/);
    await model.close();
  });

  it('reads shards as it reads one file', async () => {
    const one = await openModelFiles(tinyFolder());
    const many = await openModelFiles(tinyFolder(shards()));
    expect(many.fingerprint).toBe(one.fingerprint);
    expect(await many.weights.read('layers.1.down')).toEqual(await one.weights.read('layers.1.down'));
    await one.close();
    await many.close();
  });

  it('reads ranges of rows, and of elements of vectors', async () => {
    const model = await openModelFiles(tinyFolder());
    const embed = await model.weights.read('embed');
    expect(await model.weights.read('embed', { start: 3, end: 9 })).toEqual(embed.slice(3 * 32, 9 * 32));
    expect(await model.weights.read('embed', { start: 4, end: 4 })).toEqual(new Float32Array(0));
    const norm = await model.weights.read('finalNorm');
    expect(await model.weights.read('finalNorm', { start: 5, end: 7 })).toEqual(norm.slice(5, 7));
    expect(model.weights.info('embed')).toEqual({ shape: [40, 32], stored: 'F32', storedBytes: 40 * 32 * 4 });
    expect(model.weights.has('head')).toBe(false);
    expect(() => model.weights.info('head')).toThrow(ModelFormatError);
    await expect(model.weights.read('layers.0.qBias')).rejects.toThrow(ModelFormatError);
    await model.close();
  });

  it('closes every file, once, and reads nothing afterwards', async () => {
    const { files, open } = counted(tinyFolder(shards()));
    const model = await openModelFiles(files);
    expect(open()).toBe(2);
    await model.close();
    await model.close();
    expect(open()).toBe(0);
    await expect(model.weights.read('embed')).rejects.toThrow(/has been closed/);
  });

  it.each<[string, Record<string, unknown>, RegExp]>([
    ['no config.json', { 'config.json': undefined }, /no config.json/],
    ['a config.json that is not JSON', { 'config.json': '{' }, /config.json is not valid JSON/],
    ['no weights', { 'model.safetensors': undefined }, /no model.safetensors/],
    ['an index that is a list', { 'model.safetensors.index.json': [] }, /index.json must be/],
    ['an index without a map', { 'model.safetensors.index.json': { weight_map: 3 } }, /weight_map/],
    [
      'an index that names a missing file',
      { ...shards(), 'model-00002-of-00002.safetensors': undefined },
      /names "model-00002-of-00002.safetensors", which is not in the folder/,
    ],
    [
      'an index that names a file elsewhere',
      { 'model.safetensors.index.json': { weight_map: { x: '../../etc/passwd' } } },
      /not in the folder/,
    ],
    [
      'an index that names a missing tensor',
      {
        'model.safetensors.index.json': {
          weight_map: { 'model.norm.weight': 'model.safetensors', nothing: 'model.safetensors' },
        },
      },
      /tensor nothing is missing/,
    ],
    [
      'shards without an index',
      { ...shards(), 'model.safetensors.index.json': undefined },
      /2 safetensors files but no/,
    ],
    [
      'a tensor missing',
      { 'model.safetensors': changed((map) => map.delete('model.norm.weight')) },
      /no tensor model.norm.weight/,
    ],
    [
      'a tensor of another shape',
      { 'model.safetensors': changed((map) => map.set('model.norm.weight', f32Tensor([31], new Float32Array(31)))) },
      /model.norm.weight has shape \[31\]; the configuration calls for \[32\]/,
    ],
    [
      'a tensor transposed',
      {
        'model.safetensors': changed((map) =>
          map.set('model.embed_tokens.weight', f32Tensor([32, 40], new Float32Array(1280))),
        ),
      },
      /has shape \[32, 40\]/,
    ],
    [
      'no head, though embeddings are not tied',
      { 'config.json': { ...tinyConfig(), tie_word_embeddings: false } },
      /lm_head.weight/,
    ],
    [
      'weights of fewer layers',
      { 'config.json': { ...tinyConfig(), num_hidden_layers: 3 } },
      /model.layers.2.input_layernorm/,
    ],
    [
      'weights cut off',
      { 'model.safetensors': writeSafetensors(tinyTensors()).slice(0, -1) },
      /tensor .* the file has/,
    ],
    ['a generation_config.json that is a list', { 'generation_config.json': [] }, /generation_config.json must be/],
    ['a tokenizer.json that is not JSON', { 'tokenizer.json': 'x' }, /tokenizer.json is not valid JSON/],
    ['a tokenizer.json without a model', { 'tokenizer.json': {} }, /tokenizer.json: model/],
    ['a template that is not Jinja', { 'chat_template.jinja': '{% for %}' }, /chat_template.jinja: .* parsed/],
  ])('refuses one with %s, and leaves nothing open', async (_, changes, message) => {
    const { files, open } = counted(tinyFolder(changes));
    const error = await openModelFiles(files).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ModelFormatError);
    expect((error as Error).message).toMatch(message);
    expect(open()).toBe(0);
  });

  it('does not support a layer tensor that it would leave out', async () => {
    const bias = changed((map) =>
      map.set('model.layers.0.self_attn.q_proj.bias', f32Tensor([32], new Float32Array(32))),
    );
    await expect(openModelFiles(tinyFolder({ 'model.safetensors': bias }))).rejects.toThrow(/q_proj.bias has no place/);
  });

  it('leaves out a head that is tied, stored RoPE frequencies and tensors of other parts', async () => {
    const more = changed((map) => {
      map.set('lm_head.weight', f32Tensor([1], [0]));
      map.set('model.layers.0.self_attn.rotary_emb.inv_freq', f32Tensor([4], [1, 2, 3, 4]));
      map.set('vision.weight', f32Tensor([1], [0]));
    });
    const model = await openModelFiles(tinyFolder({ 'model.safetensors': more }));
    expect(model.weights.has('head')).toBe(false);
    await model.close();
  });

  it('takes the chat template of its own file before that of tokenizer_config.json', async () => {
    const config = { chat_template: 'config', bos_token: { content: '<s>' } };
    const files = {
      'tokenizer_config.json': config,
      'chat_template.jinja': '{{ bos_token }}{{ messages[0].content }}',
    };
    const model = await openModelFiles(tinyFolder(files));
    expect(model.chatTemplate?.render([{ role: 'user', content: 'hi' }])).toBe('<s>hi');
    await model.close();
  });
});

describe('the fingerprint', () => {
  const of = async (files: ModelFiles) => {
    const model = await openModelFiles(files);
    await model.close();
    return model.fingerprint;
  };

  it('changes with the configuration, the weights, the tokenizer and the template, and with nothing else', async () => {
    const base = await of(tinyFolder());
    expect(await of(tinyFolder({ 'README.md': 'x' }))).toBe(base);
    const others = [
      tinyFolder({ 'config.json': { ...tinyConfig(), rms_norm_eps: 1e-6 } }),
      tinyFolder({ 'generation_config.json': { eos_token_id: 3 } }),
      tinyFolder({ 'chat_template.jinja': 'x' }),
      tinyFolder({ 'tokenizer_config.json': { bos_token: 'x' } }),
      tinyFolder({
        'model.safetensors': changed((map) => map.set('model.norm.weight', f32Tensor([32], new Float32Array(32)))),
      }),
    ];
    const prints = await Promise.all(others.map(of));
    expect(new Set([base, ...prints]).size).toBe(others.length + 1);
  });
});

describe('what a path may be', () => {
  const gguf = writeGguf(tinyGgufMetadata(), tinyGgufTensors());

  it('is a folder with one GGUF file and no safetensors, which it says', async () => {
    const model = await openModelFiles(
      filesOf('folder', { 'a.gguf': gguf, 'generation_config.json': { eos_token_id: [4] } }),
    );
    expect(model).toMatchObject({ format: 'gguf', name: 'folder' });
    expect(model.config.eosTokenIds).toEqual([1, 4]);
    expect(model.notes?.join()).toContain('a.gguf');
    await model.close();
  });

  it('is not a folder with several GGUF files', async () => {
    await expect(openModelFiles(filesOf('folder', { 'a.gguf': gguf, 'b.gguf': gguf }))).rejects.toThrow(/2 GGUF files/);
  });

  it('is the safetensors of a folder that has both', async () => {
    const model = await openModelFiles(tinyFolder({ 'a.gguf': gguf }));
    expect(model.format).toBe('huggingface');
    await model.close();
  });

  it('is not another file, nor nothing', async () => {
    await expect(openModel(new URL(import.meta.url).pathname)).rejects.toThrow(/is not a .gguf file/);
    const error = await openModel('/no/such/model').catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ModelFormatError);
    expect((error as Error).message).toContain('/no/such/model');
  });
});

describe('inspection', () => {
  it('describes a model as plain data', async () => {
    const model = await openModelFiles(tinyFolder());
    const description = describeModel(model);
    const parameters = 40 * 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32 + 2 * 32) + 32;
    expect(description).toMatchObject({
      family: 'llama',
      parameters,
      weightBytes: parameters * 4,
      tensorKinds: [{ stored: 'F32', tensors: 20, parameters, bytes: parameters * 4 }],
      features: [],
      tokenizer: null,
      chatTemplate: false,
      kvBytesPerToken: {
        f32: 2 * 2 * 2 * 8 * 4,
        f16: 2 * 2 * 2 * 8 * 2,
        bf16: 2 * 2 * 2 * 8 * 2,
        int8: 2 * 2 * 2 * (8 + 4),
      },
    });
    expect(JSON.parse(JSON.stringify(description))).toEqual(description);
    await model.close();
  });

  it('reads headers only when asked to, with a fingerprint of its own', async () => {
    const tensorBytes = [...tinyTensors().values()].reduce((sum, { bytes }) => sum + bytes.byteLength, 0);
    const fingerprints: string[] = [];
    for (const headersOnly of [true, false]) {
      let bytesRead = 0;
      const folder = tinyFolder();
      const files: ModelFiles = {
        ...folder,
        open: async (entry) => {
          const file = await folder.open(entry);
          const read = (offset: number, length: number) => {
            if (entry.endsWith('.safetensors') && offset + length > file.size - tensorBytes) bytesRead += length;
            return file.read(offset, length);
          };
          return { name: file.name, size: file.size, read, close: () => file.close() };
        },
      };
      const model = await openModelFiles(files, { headersOnly });
      expect(bytesRead > 0).toBe(!headersOnly);
      fingerprints.push(model.fingerprint);
      await model.close();
    }
    expect(new Set(fingerprints).size).toBe(2);
  });

  it('finds weights that are not numbers', async () => {
    const values = new Float32Array(32).fill(0.5);
    values[7] = Number.NaN;
    values[20] = Number.NEGATIVE_INFINITY;
    values[21] = -3;
    const bytes = changed((map) => map.set('model.norm.weight', f32Tensor([32], values)));
    const model = await openModelFiles(tinyFolder({ 'model.safetensors': bytes }));
    const reports: WeightCheck[] = [];
    for await (const report of checkWeights(model)) reports.push(report);
    expect(reports).toHaveLength(20);
    expect(reports.filter(({ firstBad }) => firstBad !== null)).toEqual([
      { name: 'finalNorm', stored: 'F32', elements: 32, nan: 1, infinite: 1, firstBad: 7, maxAbs: 3 },
    ]);
    await model.close();
  });
});

function changed(change: (tensors: ReturnType<typeof tinyTensors>) => unknown): Uint8Array {
  const tensors = tinyTensors();
  change(tensors);
  return writeSafetensors(tensors);
}
