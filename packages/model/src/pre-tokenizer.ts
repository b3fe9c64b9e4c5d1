/**
 * The pre-tokenizer of a tokenizer.json, validated, and told to the library as Splits wherever its own part differs from
 * Hugging Face's: its `\s` outside Splits is JavaScript's (which counts U+FEFF and leaves out U+0085), its digits are only
 * the decimal ones, and its punctuation comes in runs.
 */
import { Fields } from './config-fields.ts';
import { GPT2_PATTERN, readPattern, sequenceParts, splitOf, unknownType } from './split-pattern.ts';

/** ASCII punctuation, which has symbols too, and Unicode's. */
const PUNCTUATION = '[\\p{P}\\x21-\\x2F\\x3A-\\x40\\x5B-\\x60\\x7B-\\x7E]';
/** Rust's `\w+|[^\w\s]+`: in a class, the library's `\w` is Rust's but for the joiners. */
const WORDS_AND_MARKS = '[\\w\\u200C\\u200D]+|[^\\w\\s\\u200C\\u200D]+';

/**
 * What the library shall be given for `json`, the value of `pre_tokenizer`.
 * @throws ModelFormatError, UnsupportedError
 */
export function readPreTokenizer(where: string, json: unknown, depth = 0): object | null {
  if (json === undefined || json === null) return null;
  const part = Fields.of(where, json);
  switch (part.text('type')) {
    case 'Sequence':
      return sequence(
        ...sequenceParts(part, 'pretokenizers', depth).map((inner, i) =>
          readPreTokenizer(`${where}[${i}]`, inner, depth + 1),
        ),
      );
    case 'ByteLevel':
      return byteLevel(part.flag('add_prefix_space', true), part.flag('use_regex', true));
    case 'Split': {
      const behavior = part.text('behavior');
      if (behavior === undefined) throw part.wrong('behavior', 'a string');
      return splitOf(part, readPattern(part), behavior, part.flag('invert', false));
    }
    case 'Digits':
      return splitOf(part, '\\p{N}', part.flag('individual_digits', false) ? 'Isolated' : 'Contiguous', false);
    case 'Punctuation':
      return splitOf(part, PUNCTUATION, part.text('behavior') ?? 'Isolated', false);
    case 'Whitespace':
      return splitOf(part, WORDS_AND_MARKS, 'Removed', true);
    case 'WhitespaceSplit':
      return splitOf(part, '\\s+', 'Removed', false);
    case 'Metaspace':
      return metaspace(part);
    default:
      throw unknownType(part, 'pre-tokenizer');
  }
}

function sequence(...pretokenizers: readonly (object | null)[]): object {
  return { type: 'Sequence', pretokenizers };
}

function byteLevel(prefixSpace: boolean, gpt2: boolean): object {
  const bytes = (add_prefix_space: boolean) => ({ type: 'ByteLevel', add_prefix_space, use_regex: false });
  if (!gpt2) return bytes(prefixSpace);
  // The space comes before the text, not before each of its pieces.
  const space = { type: 'Replace', pattern: { Regex: '\\A(?! )' }, content: ' ' };
  const split = { type: 'Split', pattern: { Regex: GPT2_PATTERN }, behavior: 'Isolated', invert: false };
  return sequence(...(prefixSpace ? [space] : []), split, bytes(false));
}

function metaspace(part: Fields): object {
  const replacement = part.text('replacement') ?? '▁';
  if ([...replacement].length !== 1) throw part.wrong('replacement', 'one character');
  // Before `prepend_scheme` there was a flag.
  const scheme = part.text('prepend_scheme') ?? (part.flag('add_prefix_space', true) ? 'always' : 'never');
  if (!['always', 'first', 'never'].includes(scheme))
    throw part.wrong('prepend_scheme', '"always", "first" or "never"');
  const whole = { type: 'Metaspace', replacement, prepend_scheme: scheme };
  if (!part.flag('split', true)) return whole;
  const mark = `\\u{${replacement.codePointAt(0)?.toString(16)}}`;
  return sequence(whole, splitOf(part, `${mark}[^${mark}]*`, 'Isolated', false));
}
