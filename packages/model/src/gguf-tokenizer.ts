/**
 * The tokenizer in a GGUF file's metadata: `gpt2` (byte-level BPE with merges, its pre-tokenizer known by name) and `llama`
 * (SentencePiece BPE with scores).
 */
import { ModelFormatError, UnsupportedError } from '@glinthawk/core';
import type { TemplateTokenName, TemplateTokens } from './chat-template.ts';
import { Fields, quote } from './config-fields.ts';
import type { GgufHeader } from './gguf-header.ts';
import { MAX_VOCAB } from './model-limits.ts';
import type { ModelTokenizer } from './model-tokenizer.ts';
import type { SpecialIds } from './post-processor.ts';
import { PretrainedTokenizer } from './pretrained-tokenizer.ts';
import { SentencePieceTokenizer, TOKEN_TYPE } from './sentencepiece-tokenizer.ts';
import { GPT2_PATTERN } from './split-pattern.ts';

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const WORDS = '[^\\r\\n\\p{L}\\p{N}]?\\p{L}+';
const TAIL = ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';
/** Llama 3's pattern, which is cl100k's (tokenizer.json of the published models). */
const LLAMA3 = `${CONTRACTIONS}|${WORDS}|\\p{N}{1,3}|${TAIL}`;
const QWEN2 = `${CONTRACTIONS}|${WORDS}|\\p{N}|${TAIL}`;
const UPPER = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]';
const LOWER = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]';
/** Mistral's Tekken (tokenizer.json of Mistral-Nemo). */
const TEKKEN = `[^\\r\\n\\p{L}\\p{N}]?${UPPER}*${LOWER}+|[^\\r\\n\\p{L}\\p{N}]?${UPPER}+${LOWER}*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;

interface PreTokenizer {
  /** Applied one after the other, each splitting what the one before left. */
  readonly patterns: readonly string[];
  /** A piece that is a token is taken whole, whatever its merges would make of it. */
  readonly ignoreMerges: boolean;
  /** Whether BOS is added when the file doesn't say. */
  readonly addBos: boolean;
}

const plain = (...patterns: string[]): PreTokenizer => ({ patterns, ignoreMerges: false, addBos: false });
const LLAMA3_LIKE: PreTokenizer = { patterns: [LLAMA3], ignoreMerges: true, addBos: true };
const DIGITS_THEN_GPT2 = plain('\\p{N}', GPT2_PATTERN);

/** llama.cpp's names (`tokenizer.ggml.pre`) for the pre-tokenizers of the families that run here. */
const PRE_TOKENIZERS: ReadonlyMap<string, PreTokenizer> = new Map([
  ['default', plain('[\\p{P}\\$\\+<=>\\^~\\|]+', GPT2_PATTERN, '\\p{N}+', '[0-9][0-9][0-9]')],
  ['gpt-2', plain(GPT2_PATTERN)],
  ['llama-bpe', LLAMA3_LIKE],
  ['llama3', LLAMA3_LIKE],
  ['llama-v3', LLAMA3_LIKE],
  ['smollm', DIGITS_THEN_GPT2],
  ['starcoder', DIGITS_THEN_GPT2],
  ['refact', DIGITS_THEN_GPT2],
  ['command-r', DIGITS_THEN_GPT2],
  ['qwen2', plain(QWEN2)],
  ['deepseek-r1-qwen', plain(QWEN2)],
  ['tekken', { patterns: [TEKKEN], ignoreMerges: true, addBos: true }],
]);

const MAX_MERGES = 2 * MAX_VOCAB;

/**
 * null when the file has no tokenizer (`tokenizer.ggml.model` absent, or `none`).
 * @throws ModelFormatError, UnsupportedError
 */
export function readGgufTokenizer(header: GgufHeader, file: string): ModelTokenizer | null {
  const fields = new Fields(`${file}: metadata tokenizer.ggml.`, (key) => header.metadata.get(`tokenizer.ggml.${key}`));
  const model = fields.text('model');
  switch (model) {
    case undefined:
    case 'none':
    case 'no_vocab':
      return null;
    case 'gpt2':
      return readByteLevel(fields);
    case 'llama':
      return readSentencePiece(fields);
    default:
      throw new UnsupportedError('UNSUPPORTED_TOKENIZER', `${fields.where}model ${quote(model)} is not supported`, {
        hint: 'Supported: gpt2 (byte-level BPE) and llama (SentencePiece BPE).',
      });
  }
}

const TOKEN_KEYS = {
  bos_token: 'bos_token_id',
  eos_token: 'eos_token_id',
  unk_token: 'unknown_token_id',
  sep_token: 'seperator_token_id', // sic
  pad_token: 'padding_token_id',
  cls_token: 'cls_token_id',
  mask_token: 'mask_token_id',
} as const satisfies Record<TemplateTokenName, string>;

/** The tokens that the metadata names by id, as texts for chat templates. */
export function ggufTemplateTokens(header: GgufHeader): TemplateTokens {
  const tokens = header.metadata.get('tokenizer.ggml.tokens');
  const textOf = (key: string) => {
    const id = header.metadata.get(`tokenizer.ggml.${key}`);
    const token = typeof id === 'number' && Array.isArray(tokens) ? (tokens[id] as unknown) : undefined;
    return typeof token === 'string' ? token : undefined;
  };
  return Object.fromEntries(Object.entries(TOKEN_KEYS).map(([name, key]) => [name, textOf(key)]));
}

function readByteLevel(fields: Fields): ModelTokenizer {
  const name = fields.text('pre') ?? 'default';
  const pre = PRE_TOKENIZERS.get(name);
  if (pre === undefined) {
    throw new UnsupportedError('UNSUPPORTED_TOKENIZER', `${fields.where}pre ${quote(name)} is not supported`, {
      hint: `Supported: ${[...PRE_TOKENIZERS.keys()].join(', ')}. A tokenizer.json beside the file, in a folder, is used instead.`,
    });
  }
  const tokens = readTokens(fields);
  const types = readTypes(fields, tokens.length);
  const merges = fields.list('merges', MAX_MERGES);
  if (merges === undefined) throw fields.wrong('merges', 'an array of strings');
  const added = tokens
    .map((content, id) => ({ id, content, special: types[id] !== TOKEN_TYPE.userDefined, normalized: false }))
    .filter(({ id, content }) => content !== '' && isAdded(types[id]));
  const json = {
    model: {
      type: 'BPE',
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
      ignore_merges: pre.ignoreMerges,
    },
    added_tokens: added,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        ...pre.patterns.map((pattern) => ({
          type: 'Split',
          pattern: { Regex: pattern },
          behavior: 'Isolated',
          invert: false,
        })),
        {
          type: 'ByteLevel',
          add_prefix_space: fields.flag('add_space_prefix', false),
          trim_offsets: true,
          use_regex: false,
        },
      ],
    },
    decoder: { type: 'ByteLevel' },
  };
  const special = readSpecial(fields, tokens.length, pre.addBos);
  return new PretrainedTokenizer(json, { where: `GGUF metadata, ${name}`, special: () => special });
}

function isAdded(type: number | undefined): boolean {
  return type === TOKEN_TYPE.control || type === TOKEN_TYPE.userDefined || type === TOKEN_TYPE.unknown;
}

function readSentencePiece(fields: Fields): ModelTokenizer {
  const tokens = readTokens(fields);
  const scores = fields.list('scores', MAX_VOCAB);
  if (scores === undefined || scores.length !== tokens.length || !scores.every((score) => typeof score === 'number')) {
    throw fields.wrong('scores', `${tokens.length} numbers, one for each token`);
  }
  const { before, after } = readSpecial(fields, tokens.length, true);
  return new SentencePieceTokenizer({
    tokens,
    scores: scores as number[],
    types: readTypes(fields, tokens.length),
    unknownId: fields.integer('unknown_token_id', 0, tokens.length - 1),
    before,
    after,
    addSpacePrefix: fields.flag('add_space_prefix', true),
  });
}

function readTokens(fields: Fields): readonly string[] {
  const tokens = fields.list('tokens', MAX_VOCAB);
  if (tokens === undefined || tokens.length === 0 || !tokens.every((token) => typeof token === 'string')) {
    throw fields.wrong('tokens', 'an array of strings');
  }
  return tokens as string[];
}

function readTypes(fields: Fields, count: number): readonly number[] {
  const types = fields.list('token_type', MAX_VOCAB);
  if (types === undefined) return new Array<number>(count).fill(TOKEN_TYPE.normal);
  if (types.length !== count || !types.every((type) => typeof type === 'number')) {
    throw fields.wrong('token_type', `${count} numbers, one for each token`);
  }
  return types as number[];
}

function readSpecial(fields: Fields, vocabSize: number, addBosUnlessSaid: boolean): SpecialIds {
  const ids = (flag: string, unlessSaid: boolean, key: string) => {
    const id = fields.integer(key, 0, vocabSize - 1);
    if (!fields.flag(flag, unlessSaid && id !== undefined)) return [];
    if (id === undefined)
      throw new ModelFormatError('MODEL_TOKENIZER', `${fields.where}${flag} is true, but ${key} is missing`);
    return [id];
  };
  return {
    before: ids('add_bos_token', addBosUnlessSaid, 'bos_token_id'),
    after: ids('add_eos_token', false, 'eos_token_id'),
  };
}
