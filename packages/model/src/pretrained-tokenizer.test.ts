import { GlinthawkError, ModelFormatError, UnsupportedError } from '@glinthawk/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BYTE_CHARACTERS, byteLevelBytes } from './byte-level-alphabet.ts';
import { readHuggingFaceText } from './huggingface-text.ts';
import { PretrainedTokenizer } from './pretrained-tokenizer.ts';

const byteVocabulary = Object.fromEntries(BYTE_CHARACTERS.map((character, byte) => [character, byte]));

/** A byte-level tokenizer: 256 bytes, a few merges, two added tokens. */
function byteLevel(changes: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    added_tokens: [
      { id: 260, content: '<|end|>', special: true },
      { id: 261, content: '<tool>', special: false },
    ],
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: true },
    post_processor: null,
    decoder: { type: 'ByteLevel' },
    model: { type: 'BPE', vocab: { ...byteVocabulary, ab: 256, Ġc: 257 }, merges: ['a b', ['Ġ', 'c']] },
    ...changes,
  };
}

const model = (changes: Record<string, unknown>) =>
  byteLevel({ model: { ...(byteLevel().model as object), ...changes } });
const create = (json: unknown) => new PretrainedTokenizer(json, { where: 'tokenizer.json' });

describe('tokenizer.json, byte-level', () => {
  const tokenizer = create(byteLevel());

  it('encodes with merges and added tokens, and gives their bytes back', () => {
    const ids = tokenizer.encode('abc c<|end|><tool>é', { addSpecial: false });
    expect(ids).toEqual([256, 99, 257, 260, 261, 0xc3, 0xa9]);
    expect(ids.map((id) => Buffer.from(tokenizer.tokenBytes(id)).toString('latin1'))).toEqual([
      'ab',
      'c',
      ' c',
      '',
      '<tool>',
      '\xc3',
      '\xa9',
    ]);
    expect([260, 261, 0].map((id) => tokenizer.isSpecial(id))).toEqual([true, false, false]);
    expect(tokenizer.vocabSize).toBe(262);
    expect(tokenizer.tokenBytes(258)).toHaveLength(0);
    expect(tokenizer.tokenBytes(-1)).toHaveLength(0);
  });

  it('loses no byte of any text', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', maxLength: 60 }), (text) => {
        const ids = tokenizer.encode(text, { addSpecial: false });
        expect(Buffer.concat(ids.map((id) => tokenizer.tokenBytes(id))).toString()).toBe(text);
      }),
      { numRuns: 500 },
    );
  });

  it('splits at every number, not only at decimal digits', () => {
    const vocab = { ...byteVocabulary, 'Â½': 256, 'Â½x': 257 };
    const merges = ['Â ½', 'Â½ x'];
    const sequence = (individual_digits: boolean) => ({
      type: 'Sequence',
      pretokenizers: [
        { type: 'Digits', individual_digits },
        { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
      ],
    });
    const json = (individual: boolean) =>
      byteLevel({ pre_tokenizer: sequence(individual), model: { type: 'BPE', vocab, merges } });
    expect(create(json(true)).encode('½x', { addSpecial: false })).toEqual([256, 0x78]);
    expect(create(json(false)).encode('½x', { addSpecial: false })).toEqual([256, 0x78]);
  });
});

describe('white space', () => {
  /** Texts of the pieces: a vocabulary without merges but with these words tells them apart. */
  const pieces = (pre_tokenizer: unknown, text: string, words: readonly string[]) => {
    const written = words.map((word) => [...Buffer.from(word)].map((byte) => BYTE_CHARACTERS[byte]).join(''));
    const vocab = Object.fromEntries([...BYTE_CHARACTERS, ...written].map((token, id) => [token, id]));
    const tokenizer = create(
      byteLevel({ pre_tokenizer, added_tokens: [], model: { type: 'BPE', vocab, merges: [], ignore_merges: true } }),
    );
    return tokenizer.encode(text, { addSpecial: false }).map((id) => Buffer.from(tokenizer.tokenBytes(id)).toString());
  };
  const bytes = { type: 'ByteLevel', add_prefix_space: false, use_regex: false };
  const then = (...parts: object[]) => ({ type: 'Sequence', pretokenizers: [...parts, bytes] });

  // What Python's tokenizers 0.23 gives for each.
  it.each<[string, unknown, string, string[]]>([
    ['ByteLevel', byteLevel().pre_tokenizer, 'hi\r\n\ufeff', ['hi', '\r', '\n', '\ufeff']],
    [
      'ByteLevel',
      byteLevel().pre_tokenizer,
      'x\u0085y  \u0085\u0085z',
      ['x', '\u0085', 'y', '  \u0085', '\u0085', 'z'],
    ],
    ['ByteLevel with a space before', { type: 'ByteLevel', add_prefix_space: true }, 'a\n  b', [' a', '\n ', ' b']],
    [
      'Split',
      then({ type: 'Split', pattern: { Regex: '\\s' }, behavior: 'Isolated' }),
      'x\u0085\ufeffy',
      ['x', '\u0085', '\ufeffy'],
    ],
    ['WhitespaceSplit', then({ type: 'WhitespaceSplit' }), '\ufeff \u0085 x', ['\ufeff', 'x']],
    ['Whitespace', then({ type: 'Whitespace' }), 'x\u0085é!?\ufeff', ['x', 'é', '!?\ufeff']],
    [
      'Contiguous',
      then({ type: 'Split', pattern: { Regex: '\\s|a' }, behavior: 'Contiguous' }),
      'ba \u0085c',
      ['b', 'a \u0085', 'c'],
    ],
    ['Punctuation', then({ type: 'Punctuation' }), 'x..$y', ['x', '.', '.', '$', 'y']],
  ])("of %s is Unicode's, not JavaScript's", (_, preTokenizer, text, expected) => {
    expect(pieces(preTokenizer, text, expected)).toEqual(expected);
  });

  it('is stripped as Unicode has it', () => {
    const tokenizer = create(byteLevel({ normalizer: { type: 'Strip', strip_left: true, strip_right: true } }));
    expect(tokenizer.encode('\u0085 x\ufeff\u0085', { addSpecial: false })).toEqual([0x78, 0xef, 0xbb, 0xbf]);
  });
});

describe('a post-processor', () => {
  const template = (changes: Record<string, unknown> = {}) => ({
    type: 'TemplateProcessing',
    single: [{ SpecialToken: { id: '<|end|>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
    special_tokens: { '<|end|>': { id: '<|end|>', ids: [260], tokens: ['<|end|>'] } },
    ...changes,
  });
  const ids = (post_processor: unknown) => create(byteLevel({ post_processor })).encode('ab', { addSpecial: true });

  it('adds ids before and after, if asked', () => {
    expect(ids(template())).toEqual([260, 256]);
    expect(create(byteLevel({ post_processor: template() })).encode('ab', { addSpecial: false })).toEqual([256]);
    const roberta = { type: 'RobertaProcessing', cls: ['<|end|>', 260], sep: ['<tool>', 261] };
    expect(ids(roberta)).toEqual([260, 256, 261]);
    expect(ids({ type: 'Sequence', processors: [{ type: 'ByteLevel' }, roberta, template()] })).toEqual([
      260, 260, 256, 261,
    ]);
  });

  it.each<[string, unknown]>([
    ['whose template is a text', template({ single: 'A' })],
    ['whose template is missing', template({ single: undefined })],
    ['without the text', template({ single: [] })],
    ['with a null piece', template({ single: [null] })],
    ['with an unknown piece', template({ single: [{ Sequence: { id: 'B' } }] })],
    ['without ids', template({ special_tokens: {} })],
    ['with ids outside the vocabulary', template({ special_tokens: { '<|end|>': { ids: [262] } } })],
    ['of half a pair', { type: 'BertProcessing', cls: ['<|end|>'], sep: ['<tool>', 261] }],
  ])('%s is refused when it is opened', (_, damaged) => {
    expect(() => ids(damaged)).toThrow(ModelFormatError);
  });
});

describe('tokenizer.json with byte fallback', () => {
  const bytes = Object.fromEntries(
    Array.from({ length: 256 }, (_, i) => [`<0x${i.toString(16).toUpperCase().padStart(2, '0')}>`, 3 + i]),
  );
  const vocab = { '<unk>': 0, '<s>': 1, '</s>': 2, ...bytes, '▁': 259, a: 260, '▁a': 261, b: 262 };
  const json = {
    added_tokens: [0, 1, 2].map((id) => ({ id, content: Object.keys(vocab)[id], special: true })),
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Prepend', prepend: '▁' },
        { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
      ],
    },
    pre_tokenizer: null,
    post_processor: null,
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        { type: 'Strip', content: ' ', start: 1, stop: 0 },
      ],
    },
    model: { type: 'BPE', unk_token: '<unk>', byte_fallback: true, fuse_unk: true, vocab, merges: ['▁ a'] },
  };

  it('gives spaces and single bytes', () => {
    const tokenizer = create(json);
    const ids = tokenizer.encode('ab é', { addSpecial: true });
    expect(ids).toEqual([261, 262, 259, 3 + 0xc3, 3 + 0xa9]);
    expect(Buffer.concat(ids.map((id) => tokenizer.tokenBytes(id))).toString()).toBe(' ab é');
    expect(tokenizer.tokenBytes(1)).toHaveLength(0);
  });

  it('adds what the Llama tokenizer class is told to add', () => {
    const text = (config: object) => {
      const contents = { 'tokenizer.json': json, 'tokenizer_config.json': config };
      const files = Object.entries(contents).map(
        ([name, value]) => [name, new TextEncoder().encode(JSON.stringify(value))] as const,
      );
      return readHuggingFaceText(new Map(files)).tokenizer?.encode('a', { addSpecial: true });
    };
    const tokens = { bos_token: '<s>', eos_token: { content: '</s>' } };
    expect(text({ ...tokens, tokenizer_class: 'LlamaTokenizer', add_bos_token: true })).toEqual([1, 261]);
    expect(
      text({ ...tokens, tokenizer_class: 'LlamaTokenizerFast', add_bos_token: true, add_eos_token: true }),
    ).toEqual([1, 261, 2]);
    expect(text({ ...tokens, tokenizer_class: 'PreTrainedTokenizerFast', add_bos_token: true })).toEqual([261]);
    expect(() => text({ tokenizer_class: 'LlamaTokenizer', add_bos_token: true })).toThrow(ModelFormatError);
  });
});

describe('a damaged tokenizer.json', () => {
  it.each<[string, unknown]>([
    ['that is a list', []],
    ['without a model', byteLevel({ model: undefined })],
    ['whose vocabulary is a list', model({ vocab: ['a'] })],
    ['with an id that is a text', model({ vocab: { a: '1' } })],
    ['with an enormous id', model({ vocab: { a: 2 ** 40 } })],
    ['with a negative id', model({ vocab: { a: -1 } })],
    ['without merges', model({ merges: undefined })],
    ['with a merge of three', model({ merges: [['a', 'b', 'c']] })],
    ['with a merge that is a number', model({ merges: [3] })],
    ['with an added token without content', byteLevel({ added_tokens: [{ id: 3 }] })],
    ['with an added token of an enormous id', byteLevel({ added_tokens: [{ id: 2 ** 31, content: 'x' }] })],
    [
      'with a pre-tokenizer whose pattern does not parse',
      byteLevel({ pre_tokenizer: { type: 'Split', pattern: { Regex: '(' }, behavior: 'Isolated' } }),
    ],
    [
      'with an unknown pattern',
      byteLevel({ pre_tokenizer: { type: 'Split', pattern: { Glob: '*' }, behavior: 'Isolated' } }),
    ],
    ['with a Split without a pattern', byteLevel({ pre_tokenizer: { type: 'Split', behavior: 'Isolated' } })],
    [
      'with a normalizer of an unknown pattern',
      byteLevel({ normalizer: { type: 'Replace', pattern: {}, content: '' } }),
    ],
    ['with a Metaspace of two characters', byteLevel({ pre_tokenizer: { type: 'Metaspace', replacement: '__' } })],
  ])('%s is refused', (_, json) => {
    expect(() => create(json)).toThrow(ModelFormatError);
  });

  it.each<[string, unknown, RegExp]>([
    ['a Unigram model', model({ type: 'Unigram' }), /Unigram/],
    ['an unknown pre-tokenizer', byteLevel({ pre_tokenizer: { type: 'Telepathy' } }), /Telepathy/],
    ['an unknown normalizer', byteLevel({ normalizer: { type: 'Telepathy' } }), /Telepathy/],
    ['an unknown post-processor', byteLevel({ post_processor: { type: 'Telepathy' } }), /Telepathy/],
    [
      'another way to split',
      byteLevel({ pre_tokenizer: { type: 'Split', pattern: { String: ' ' }, behavior: 'MergedWithPrevious' } }),
      /MergedWithPrevious/,
    ],
    [
      'an added token that must be a word of its own',
      byteLevel({ added_tokens: [{ id: 260, content: 'end', single_word: true }] }),
      /single_word .* "end"/,
    ],
    ['an unknown decoder', byteLevel({ decoder: { type: 'WordPiece' } }), /WordPiece/],
    ['suffixes of words', model({ end_of_word_suffix: '</w>' }), /end_of_word_suffix/],
  ])('%s is not supported, by name', (_, json, message) => {
    expect(() => create(json)).toThrow(UnsupportedError);
    expect(() => create(json)).toThrow(message);
  });

  it('never throws anything else', () => {
    const parts = ['added_tokens', 'normalizer', 'pre_tokenizer', 'post_processor', 'decoder', 'model'];
    fc.assert(
      fc.property(fc.constantFrom(...parts), fc.jsonValue(), (part, value) => {
        try {
          create(byteLevel({ [part]: value })).encode('a b', { addSpecial: true });
        } catch (error) {
          expect(error).toBeInstanceOf(GlinthawkError);
        }
      }),
      { numRuns: 300 },
    );
  });
});

it('the byte-level alphabet is one-to-one', () => {
  expect(new Set(BYTE_CHARACTERS).size).toBe(256);
  expect([...byteLevelBytes(BYTE_CHARACTERS.join(''))]).toEqual(Array.from({ length: 256 }, (_, i) => i));
  expect(byteLevelBytes('Ġ日')).toEqual(Uint8Array.of(0x20, ...Buffer.from('日')));
});
