/**
 * `tokenizer.json` (Hugging Face tokenizers' format) as a Tokenizer. Encoding is `@huggingface/tokenizers`' work; here the file
 * is validated, the parts that the library does otherwise are mended or done without it, and tokens are turned into bytes,
 * which the library can't do.
 */
import { ModelFormatError, toError, UnsupportedError } from '@glinthawk/core';
import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';
import { byteLevelBytes } from './byte-level-alphabet.ts';
import { Fields, quote } from './config-fields.ts';
import { MAX_VOCAB } from './model-limits.ts';
import { fallbackByte, type ModelTokenizer, NO_BYTES } from './model-tokenizer.ts';
import { readNormalizer } from './normalizer.ts';
import { readPostProcessor, type SpecialIds } from './post-processor.ts';
import { readPreTokenizer } from './pre-tokenizer.ts';

export interface PretrainedTokenizerOptions {
  /** Where it came from, in errors and descriptions. */
  readonly where: string;
  /** When it gives something, `addSpecial` adds that; else it adds what the file's own post-processor adds. */
  readonly special?: (tokenId: (content: string) => number | undefined) => SpecialIds | undefined;
}

export class PretrainedTokenizer implements ModelTokenizer {
  readonly kind: string;
  readonly vocabSize: number;
  readonly #library: LibraryTokenizer;
  readonly #where: string;
  readonly #special: SpecialIds;
  /** By id; holes where the vocabulary has them. */
  readonly #bytes: readonly (Uint8Array | undefined)[];
  readonly #specialIds: ReadonlySet<number>;

  /**
   * @param json content of tokenizer.json
   * @throws ModelFormatError when it is malformed
   * @throws UnsupportedError for a model other than BPE, and for parts that the library or this file doesn't know
   */
  constructor(json: unknown, options: PretrainedTokenizerOptions) {
    const { where } = options;
    const fields = Fields.of(where, json);
    const model = fields.section('model') ?? Fields.of(`${where}: model`, undefined);
    refuseOtherModels(model);
    const vocabulary = readVocabulary(model);
    const added = readAddedTokens(fields);
    const merges = readMerges(model);
    const detokenizer = readDetokenizer(fields);

    const bytes: (Uint8Array | undefined)[] = [];
    for (const [token, id] of vocabulary) bytes[id] = detokenizer.bytes(token);
    const specialIds = new Set<number>();
    for (const { id, content, special } of added) {
      bytes[id] = special ? NO_BYTES : new TextEncoder().encode(content);
      if (special) specialIds.add(id);
    }
    this.kind = `${detokenizer.kind} (${where})`;
    this.vocabSize = bytes.length;
    this.#bytes = bytes;
    this.#specialIds = specialIds;
    this.#where = where;
    this.#library = createLibraryTokenizer(where, {
      added_tokens: fields.raw('added_tokens') ?? [],
      normalizer: readNormalizer(`${where}: normalizer`, fields.raw('normalizer')),
      pre_tokenizer: readPreTokenizer(`${where}: pre_tokenizer`, fields.raw('pre_tokenizer')),
      model: { ...(fields.raw('model') as object), merges },
      // What these two do is done here.
      post_processor: null,
      decoder: null,
    });
    const processed = readPostProcessor(`${where}: post_processor`, fields.raw('post_processor'), this.vocabSize);
    this.#special = options.special?.((content) => this.#library.token_to_id(content)) ?? processed;
  }

  /** @throws ModelFormatError when the library fails, which a file that was opened should not let happen */
  encode(text: string, options: { readonly addSpecial: boolean }): number[] {
    const ids = this.#encodeText(text);
    return options.addSpecial ? this.#special.before.concat(ids, this.#special.after) : ids;
  }

  #encodeText(text: string): number[] {
    try {
      const ids: readonly (number | undefined)[] = this.#library.encode(text, { add_special_tokens: false }).ids;
      // Without an unknown token, Hugging Face drops what the vocabulary lacks; the library gives undefined.
      return ids.filter((id) => id !== undefined);
    } catch (thrown) {
      const cause = toError(thrown);
      throw new ModelFormatError('MODEL_TOKENIZER', `${this.#where}: a text can't be encoded: ${cause.message}`, {
        cause,
      });
    }
  }

  tokenBytes(id: number): Uint8Array {
    return this.#bytes[id] ?? NO_BYTES;
  }

  isSpecial(id: number): boolean {
    return this.#specialIds.has(id);
  }
}

function createLibraryTokenizer(where: string, json: object): LibraryTokenizer {
  try {
    // The second argument is tokenizer_config.json: nothing in it concerns BPE but cleaning up, which is for decoding.
    return new LibraryTokenizer(json, { clean_up_tokenization_spaces: false });
  } catch (thrown) {
    const cause = toError(thrown);
    throw new ModelFormatError('MODEL_TOKENIZER', `${where}: ${cause.message}`, { cause });
  }
}

function refuseOtherModels(model: Fields): void {
  const type = model.text('type') ?? 'BPE'; // files before the key existed are told apart by their merges
  if (type !== 'BPE') {
    throw new UnsupportedError(
      'UNSUPPORTED_TOKENIZER',
      `${model.where}: a tokenizer of type ${quote(type)} is not supported`,
      {
        hint: 'Supported: BPE (byte-level or with byte fallback). Token-id prompts work without a tokenizer.',
      },
    );
  }
  for (const key of ['continuing_subword_prefix', 'end_of_word_suffix']) {
    if ((model.text(key) ?? '') !== '') {
      throw new UnsupportedError(
        'UNSUPPORTED_TOKENIZER',
        `${model.where}: ${key} ${quote(model.raw(key))} is not supported`,
      );
    }
  }
}

function isTokenId(id: unknown): id is number {
  return Number.isSafeInteger(id) && (id as number) >= 0 && (id as number) < MAX_VOCAB;
}

function readVocabulary(model: Fields): readonly (readonly [string, number])[] {
  const vocabulary = model.raw('vocab');
  if (typeof vocabulary !== 'object' || vocabulary === null || Array.isArray(vocabulary)) {
    throw new ModelFormatError(
      'MODEL_TOKENIZER',
      `${model.where}: vocab must be an object, found ${quote(vocabulary)}`,
    );
  }
  const entries = Object.entries(vocabulary);
  for (const [token, id] of entries) {
    if (isTokenId(id)) continue;
    throw new ModelFormatError(
      'MODEL_TOKENIZER',
      `${model.where}: the id of token ${quote(token)} must be an integer from 0 to ${MAX_VOCAB - 1}, found ${quote(id)}`,
    );
  }
  return entries as [string, number][];
}

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

function readAddedTokens(fields: Fields): readonly AddedToken[] {
  return (fields.list('added_tokens', MAX_VOCAB) ?? []).map((value, i) => {
    const token = Fields.of(`${fields.where}: added_tokens[${i}]`, value);
    const id = token.integer('id', 0, MAX_VOCAB - 1);
    const content = token.text('content');
    if (id === undefined) throw token.wrong('id', 'a token id');
    if (content === undefined || content === '') throw token.wrong('content', 'a string that is not empty');
    // The library finds an added token inside a word too.
    if (token.flag('single_word', false)) {
      throw new UnsupportedError(
        'UNSUPPORTED_TOKENIZER',
        `${token.where}: single_word is not supported, and ${quote(content)} has it`,
      );
    }
    return { id, content, special: token.flag('special', false) };
  });
}

/** Each merge as its two parts; older files write them as one string. */
function readMerges(model: Fields): readonly (readonly [string, string])[] {
  const merges = model.list('merges', MAX_VOCAB);
  if (merges === undefined) throw model.wrong('merges', 'an array');
  return merges.map((merge) => {
    const parts = typeof merge === 'string' ? splitMerge(merge) : merge;
    if (Array.isArray(parts) && parts.length === 2 && parts.every((part) => typeof part === 'string')) {
      return parts as [string, string];
    }
    throw new ModelFormatError('MODEL_TOKENIZER', `${model.where}: a merge must be two strings, found ${quote(merge)}`);
  });
}

/** The first part has at least one character, which may be a space itself. */
function splitMerge(merge: string): readonly string[] {
  const space = merge.indexOf(' ', 1);
  return space < 0 ? [merge] : [merge.slice(0, space), merge.slice(space + 1)];
}

interface Detokenizer {
  readonly kind: string;
  readonly bytes: (token: string) => Uint8Array;
}

/**
 * What a token adds to a text, read off the file's decoder: byte-level, or SentencePiece's way (replacements such as ▁ for a
 * space, and byte tokens). What a decoder does at the very start of a text (Strip, Metaspace's first space) doesn't
 * concern tokens that follow a prompt.
 */
function readDetokenizer(fields: Fields): Detokenizer {
  const decoder = fields.section('decoder');
  const parts = decoder === undefined ? [] : decoderParts(decoder);
  const types = parts.map((part) => part.text('type'));
  const unknown = types.find(
    (type) => !['ByteLevel', 'ByteFallback', 'Replace', 'Metaspace', 'Fuse', 'Strip'].includes(type ?? ''),
  );
  if (parts.length > 0 && unknown !== undefined) {
    throw new UnsupportedError(
      'UNSUPPORTED_TOKENIZER',
      `${fields.where}: a decoder of type ${quote(unknown)} is not supported`,
    );
  }
  if (types.includes('ByteLevel')) return { kind: 'byte-level BPE', bytes: byteLevelBytes };
  const withBytes = types.includes('ByteFallback');
  const replacements: (readonly [from: string, to: string])[] = [];
  for (const part of parts) {
    if (part.text('type') === 'Metaspace') replacements.push([part.text('replacement') ?? '▁', ' ']);
    if (part.text('type') !== 'Replace') continue;
    const from = part.section('pattern')?.text('String');
    if (from === undefined) {
      throw new UnsupportedError(
        'UNSUPPORTED_TOKENIZER',
        `${part.where}: only a Replace of a plain string is supported`,
      );
    }
    replacements.push([from, part.text('content') ?? '']);
  }
  return {
    kind: withBytes ? 'BPE with byte fallback' : 'BPE',
    bytes: (token) => {
      const byte = withBytes ? fallbackByte(token) : undefined;
      if (byte !== undefined) return Uint8Array.of(byte);
      return new TextEncoder().encode(replacements.reduce((text, [from, to]) => text.replaceAll(from, to), token));
    },
  };
}

function decoderParts(decoder: Fields): readonly Fields[] {
  if (decoder.text('type') !== 'Sequence') return [decoder];
  return (decoder.list('decoders', 100) ?? []).map((part, i) => Fields.of(`${decoder.where}[${i}]`, part));
}
