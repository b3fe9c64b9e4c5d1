import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ModelFormatError, UnsupportedError } from '@glinthawk/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { describeWithModel } from '../../../test/models.ts';
import { BYTE_CHARACTERS } from './byte-level-alphabet.ts';
import type { GgufHeader, GgufValue } from './gguf-header.ts';
import { ggufTemplateTokens, readGgufTokenizer } from './gguf-tokenizer.ts';
import { PretrainedTokenizer } from './pretrained-tokenizer.ts';

function headerOf(metadata: Readonly<Record<string, GgufValue | undefined>>): GgufHeader {
  const entries = Object.entries(metadata).filter((entry): entry is [string, GgufValue] => entry[1] !== undefined);
  return {
    version: 3,
    metadata: new Map(entries.map(([key, value]) => [`tokenizer.ggml.${key}`, value])),
    tensors: new Map(),
  };
}

const read = (metadata: Readonly<Record<string, GgufValue | undefined>>) => {
  const tokenizer = readGgufTokenizer(headerOf(metadata), 't.gguf');
  if (tokenizer === null) throw new Error('no tokenizer');
  return tokenizer;
};
const ids = (metadata: Readonly<Record<string, GgufValue | undefined>>, text: string, addSpecial = false) =>
  read(metadata).encode(text, { addSpecial });

describe('a gpt2 tokenizer', () => {
  const tokens = [...BYTE_CHARACTERS, '12', '123', 'he', '<|begin|>', '<|end|>', '<tool>'];
  const base = {
    model: 'gpt2',
    pre: 'gpt-2',
    tokens,
    token_type: tokens.map((token) => (token.startsWith('<|') ? 3 : token === '<tool>' ? 4 : 1)),
    merges: ['1 2', '12 3', 'h e'],
    bos_token_id: 259,
    eos_token_id: 260,
  };

  it('splits as its pre-tokenizer does', () => {
    expect(ids(base, 'he 123')).toEqual([258, 32, 257]);
    expect(ids({ ...base, pre: 'smollm' }, '123')).toEqual([49, 50, 51]);
    expect(ids({ ...base, pre: 'qwen2' }, '123')).toEqual([49, 50, 51]);
    expect(ids({ ...base, pre: 'llama-bpe' }, '1234')).toEqual([257, 52]);
    expect(ids({ ...base, pre: undefined }, '123')).toEqual([257]);
    expect(ids({ ...base, pre: 'tekken' }, '12he')).toEqual([49, 50, 258]);
  });

  it('takes whole tokens without merges only where llama.cpp does', () => {
    const metadata = { ...base, merges: ['h e'] };
    expect(ids({ ...metadata, pre: 'llama-bpe' }, '123')).toEqual([257]);
    expect(ids({ ...metadata, pre: 'gpt-2' }, '123')).toEqual([49, 50, 51]);
  });

  it('knows control and user-defined tokens', () => {
    const tokenizer = read(base);
    expect(tokenizer.encode('he<|end|><tool>', { addSpecial: false })).toEqual([258, 260, 261]);
    expect([258, 259, 260, 261].map((id) => tokenizer.isSpecial(id))).toEqual([false, true, true, false]);
    expect(Buffer.from(tokenizer.tokenBytes(261)).toString()).toBe('<tool>');
    expect(tokenizer.tokenBytes(260)).toHaveLength(0);
  });

  it('adds BOS and EOS as the file says, or as its pre-tokenizer is wont to', () => {
    expect(ids(base, 'he', true)).toEqual([258]);
    expect(ids({ ...base, add_bos_token: true, add_eos_token: true }, 'he', true)).toEqual([259, 258, 260]);
    expect(ids({ ...base, pre: 'llama-bpe' }, 'he', true)).toEqual([259, 258]);
    expect(ids({ ...base, pre: 'llama-bpe', add_bos_token: false }, 'he', true)).toEqual([258]);
  });

  it.each<[string, Record<string, GgufValue | undefined>]>([
    ['no tokens', { tokens: undefined }],
    ['tokens that are numbers', { tokens: [1, 2] }],
    ['too few types', { token_type: [1] }],
    ['no merges', { merges: undefined }],
    ['a merge of one part', { merges: ['ab'] }],
    ['a BOS that is missing', { add_bos_token: true, bos_token_id: undefined }],
    ['an EOS outside', { eos_token_id: 1e6 }],
  ])('with %s is refused', (_, changes) => {
    expect(() => read({ ...base, ...changes })).toThrow(ModelFormatError);
  });

  it('with an unknown pre-tokenizer is not supported, by name', () => {
    expect(() => read({ ...base, pre: 'klingon' })).toThrow(UnsupportedError);
    expect(() => read({ ...base, pre: 'klingon' })).toThrow(/"klingon"/);
  });
});

describe('a SentencePiece tokenizer', () => {
  const bytes = Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, '0')}>`);
  const words: [string, number][] = [
    ['▁', -1],
    ['a', -2],
    ['b', -3],
    ['▁a', -4],
    ['ab', -5],
    ['▁ab', -6],
    ['bb', -4],
  ];
  const tokens = ['<unk>', '<s>', '</s>', ...bytes, ...words.map(([word]) => word), '<tool>'];
  const base = {
    model: 'llama',
    tokens,
    scores: [0, 0, 0, ...bytes.map(() => 0), ...words.map(([, score]) => score), 0],
    token_type: [2, 3, 3, ...bytes.map(() => 6), ...words.map(() => 1), 4],
    bos_token_id: 1,
    eos_token_id: 2,
    unknown_token_id: 0,
  };
  const at = (word: string) => tokens.indexOf(word);

  it('merges by score, the leftmost first among equals', () => {
    expect(ids(base, 'ab')).toEqual([at('▁ab')]);
    expect(ids({ ...base, add_space_prefix: false }, 'bbb')).toEqual([at('bb'), at('b')]);
    // ▁a scores above ab, so it comes first and leaves b alone with the next b.
    expect(ids(base, 'abb')).toEqual([at('▁a'), at('bb')]);
  });

  it('falls back to bytes', () => {
    const tokenizer = read(base);
    const encoded = tokenizer.encode('aé', { addSpecial: true });
    expect(encoded).toEqual([1, at('▁a'), 3 + 0xc3, 3 + 0xa9]);
    expect(Buffer.concat(encoded.map((id) => tokenizer.tokenBytes(id))).toString()).toBe(' aé');
  });

  it('finds special tokens in the text, and puts a space after them', () => {
    expect(ids(base, 'a</s>a<tool>b')).toEqual([at('▁a'), 2, at('▁a'), at('<tool>'), at('▁'), at('b')]);
    expect(read(base).isSpecial(at('<tool>'))).toBe(false);
    expect(Buffer.from(read(base).tokenBytes(at('<tool>'))).toString()).toBe('<tool>');
  });

  it('of nothing is nothing', () => {
    expect(ids(base, '')).toEqual([]);
    expect(ids(base, '', true)).toEqual([1]);
  });

  it('equals merging by looking at all neighbours each time', () => {
    const naive = (text: string): number[] => {
      const parts = [...` ${text}`.replaceAll(' ', '▁')];
      for (;;) {
        let best = -1;
        let bestScore = Number.NEGATIVE_INFINITY;
        for (let i = 0; i + 1 < parts.length; i++) {
          const id = at(`${parts[i]}${parts[i + 1]}`);
          const score = id < 0 ? Number.NEGATIVE_INFINITY : (base.scores[id] ?? 0);
          if (score > bestScore) [best, bestScore] = [i, score];
        }
        if (best < 0) return parts.map(at);
        parts.splice(best, 2, `${parts[best]}${parts[best + 1]}`);
      }
    };
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom('a', 'b', ' '), minLength: 1, maxLength: 40 }), (text) => {
        expect(ids(base, text)).toEqual(naive(text));
      }),
      { numRuns: 500 },
    );
  });

  it('takes 200 KB in time', () => {
    for (const unit of ['a', 'ab ', 'é']) {
      const started = performance.now();
      ids(base, unit.repeat(200_000 / unit.length));
      // Some 0.3 s here; quadratic merging would take minutes.
      expect(performance.now() - started).toBeLessThan(60_000);
    }
  });

  it.each<[string, Record<string, GgufValue | undefined>]>([
    ['no scores', { scores: undefined }],
    ['too few scores', { scores: [0] }],
    ['scores that are texts', { scores: tokens }],
  ])('with %s is refused', (_, changes) => {
    expect(() => read({ ...base, ...changes })).toThrow(ModelFormatError);
  });
});

describeWithModel('SentencePiece beside tokenizer.json', 'stories260K', (path) => {
  it('gives the same ids for the same vocabulary', () => {
    const json = JSON.parse(readFileSync(join(path, 'tokenizer.json'), 'utf8'));
    const tokens: string[] = [];
    for (const [token, id] of Object.entries(json.model.vocab as Record<string, number>)) tokens[id] = token;
    // A merge's rank is the only order that a score has to keep.
    const ranks = new Map((json.model.merges as string[]).map((merge, rank) => [merge.replace(' ', ''), rank]));
    const metadata = {
      model: 'llama',
      tokens,
      scores: tokens.map((token) => -(ranks.get(token) ?? 1e6)),
      token_type: tokens.map((token, id) => (id === 0 ? 2 : id < 3 ? 3 : /^<0x..>$/.test(token) ? 6 : 1)),
      bos_token_id: 1,
      eos_token_id: 2,
      unknown_token_id: 0,
    };
    const ours = read(metadata);
    const theirs = new PretrainedTokenizer(json, { where: 'tokenizer.json' });
    const cases = JSON.parse(readFileSync(join(path, 'golden.json'), 'utf8')).cases as {
      prompt: string;
      text: string;
    }[];
    for (const { prompt, text } of cases) {
      for (const sample of [prompt, text, `${prompt}${text}`]) {
        if (sample === '') continue;
        expect(ours.encode(sample, { addSpecial: true })).toEqual(theirs.encode(sample, { addSpecial: true }));
      }
    }
  });
});

it('templates see the tokens that the metadata names', () => {
  const header = headerOf({ tokens: ['<s>', '</s>', '<unk>'], bos_token_id: 0, eos_token_id: 7, unknown_token_id: 2 });
  expect(ggufTemplateTokens(header)).toMatchObject({ bos_token: '<s>', eos_token: undefined, unk_token: '<unk>' });
});

it('no tokenizer is null', () => {
  expect(readGgufTokenizer(headerOf({}), 't.gguf')).toBeNull();
  expect(readGgufTokenizer(headerOf({ model: 'none' }), 't.gguf')).toBeNull();
});
