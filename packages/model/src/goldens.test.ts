/** Real models: configuration, prompts and text against goldens that other implementations made. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { describeWithModel, exampleModel } from '../../../test/models.ts';
import type { Model } from './model.ts';
import { openModel } from './open-model.ts';
import { encodeChat, encodePrompt } from './prompts.ts';
import { weightShapes } from './weight-shapes.ts';

interface Golden {
  readonly cases: readonly {
    readonly kind?: string;
    readonly prompt: string | null;
    readonly prompt_ids: readonly number[];
    readonly greedy_ids: readonly number[];
    readonly text?: string;
  }[];
}

function readGolden<T = Golden>(folder: string, file = 'golden.json'): T {
  return JSON.parse(readFileSync(join(folder, file), 'utf8'));
}

/** As the engine streams: token by token, characters only when whole. */
function streamed(model: Model, ids: readonly number[]): string {
  const decoder = new TextDecoder();
  let text = '';
  for (const id of ids) text += decoder.decode(model.tokenizer?.tokenBytes(id), { stream: true });
  return text + decoder.decode();
}

describe('tale-1m', () => {
  it('gives the golden prompts and text', async () => {
    const model = await openModel(exampleModel);
    const { cases } = readGolden(exampleModel);
    expect(cases.length).toBeGreaterThan(0);
    for (const { prompt, prompt_ids, greedy_ids, text } of cases) {
      expect(encodePrompt(model, prompt ?? '')).toEqual(prompt_ids);
      expect(streamed(model, greedy_ids)).toBe(text);
    }
    expect(model.generationDefaults).toEqual({ temperature: 0.7, topP: 0.9 });
    await model.close();
  });

  it('begins a chat with one BOS: its template writes it, nothing adds another', async () => {
    const model = await openModel(exampleModel);
    const chat = encodeChat(model, [{ role: 'user', content: 'Once upon a time' }]);
    expect(chat).toEqual(encodePrompt(model, 'Once upon a time'));
    expect(chat[0]).toBe(0);
    expect(model.tokenizer?.isSpecial(0)).toBe(true);
    expect(model.tokenizer?.tokenBytes(0)).toHaveLength(0);
    expect(model.tokenizer?.tokenBytes(1_000_000)).toHaveLength(0);
    await model.close();
  });
});

describeWithModel('stories260K', 'stories260K', (path) => {
  it('gives the golden prompts and text', async () => {
    const model = await openModel(path);
    expect(model.config.eosTokenIds).toEqual([1, 2]);
    for (const { prompt, prompt_ids, greedy_ids, text } of readGolden(path).cases) {
      expect(encodePrompt(model, prompt ?? '')).toEqual(prompt_ids);
      // The golden text was decoded by itself: then the decoder strips one leading space.
      expect(streamed(model, greedy_ids).replace(/^ /, '')).toBe(text);
    }
    await model.close();
  });
});

describe('SmolLM2-135M-Instruct', () => {
  describeWithModel('text', 'smollm2-135m-instruct', (folder) => {
    it.each([
      ['its own GGUF file', join(folder, 'SmolLM2-135M-Instruct.Q4_1.gguf'), /GGUF metadata/],
      ['the folder with tokenizer.json', folder, /tokenizer.json/],
    ])('by %s is exactly the golden one', async (_, path, kind) => {
      const model = await openModel(path);
      expect(model.tokenizer).toMatchObject({ kind: expect.stringMatching(kind) });
      const strings = readGolden<{ text: string; ids: number[] }[]>(folder, 'tokenizer-golden.json');
      for (const { text, ids } of strings) {
        expect(model.tokenizer?.encode(text, { addSpecial: false })).toEqual(ids);
        const special = ids.some((id) => model.tokenizer?.isSpecial(id));
        if (!special) expect(streamed(model, ids)).toBe(text);
      }
      for (const { kind: prompted, prompt, prompt_ids, greedy_ids, text } of readGolden(folder).cases) {
        if (prompt !== null) {
          const ids =
            prompted === 'chat' ? encodeChat(model, [{ role: 'user', content: prompt }]) : encodePrompt(model, prompt);
          expect(ids).toEqual(prompt_ids);
        }
        expect(streamed(model, greedy_ids)).toBe(text);
      }
      await model.close();
    });

    it('takes long and pathological texts in time', async () => {
      const model = await openModel(folder);
      const texts = [
        'The quick brown fox, jumps over 12 lazy dogs. '.repeat(4400),
        'a'.repeat(200_000),
        ' '.repeat(200_000),
      ];
      for (const text of texts) {
        const started = performance.now();
        const ids = model.tokenizer?.encode(text, { addSpecial: false }) ?? [];
        // It takes a second at most here; quadratic merging would take minutes.
        expect(performance.now() - started).toBeLessThan(60_000);
        expect(streamed(model, ids)).toBe(text);
      }
      await model.close();
    });

    it('has weights that are read alike whole and in rows', async () => {
      const model = await openModel(folder);
      const whole = await model.weights.read('layers.17.q');
      const part = await model.weights.read('layers.17.q', { start: 100, end: 333 });
      expect(part).toEqual(whole.slice(100 * 576, 333 * 576));
      expect(model.weights.info('embed')).toEqual({ shape: [49152, 576], stored: 'Q8_0', storedBytes: 30081024 });
      await model.close();
    });
  });
});

const TINY_FAMILIES: readonly [name: string, expected: object][] = [
  ['llama3', { family: 'llama', rope: { theta: 5e5, scaling: { type: 'llama3', factor: 8 } }, tiedEmbeddings: false }],
  ['llama_bias', { qkvBias: true, outputBias: true, mlpBias: true, rope: { scaling: { type: 'linear', factor: 2 } } }],
  ['mistral', { family: 'mistral', headDim: 24, windows: [24, 24, 24] }],
  ['qwen2', { family: 'qwen2', qkvBias: true, outputBias: false, windows: [0, 0, 0] }],
  ['qwen3', { family: 'qwen3', qkNorm: true, headDim: 32, rope: { theta: 1e4, scaling: { type: 'none' } } }],
  ['qwen3_yarn', { contextTokens: 128, rope: { scaling: { type: 'yarn', factor: 4, originalContextTokens: 32 } } }],
];

describe.each(TINY_FAMILIES)('tiny/%s', (name, expected) => {
  describeWithModel('opens', `tiny/${name}`, (path) => {
    it('with its configuration, all weights and no tokenizer', async () => {
      const model = await openModel(path);
      expect(model.config).toMatchObject(expected);
      expect(model.tokenizer).toBeNull();
      for (const [weight, shape] of weightShapes(model.config)) {
        const values = await model.weights.read(weight);
        expect(values).toHaveLength(shape.reduce((a, b) => a * b, 1));
        expect(values.every(Number.isFinite)).toBe(true);
      }
      await model.close();
    });
  });
});

describe.each(['smollm3', 'gemma2', 'gemma3', 'phi3', 'phi4', 'olmo2', 'granite', 'qwen3_moe', 'mixtral'])(
  'tiny/%s',
  (name) => {
    describeWithModel('is not run yet', `tiny/${name}`, (path) => {
      it('and says which family it is', async () => {
        await expect(openModel(path)).rejects.toMatchObject({ code: 'UNSUPPORTED_FAMILY' });
      });
    });
  },
);
