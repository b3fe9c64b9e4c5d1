/** The normalizer of a tokenizer.json, validated, and mended where the library's differs from Hugging Face's. */
import { Fields } from './config-fields.ts';
import { readPattern, sequenceParts, unknownType } from './split-pattern.ts';

/**
 * What the library shall be given for `json`, the value of `normalizer`.
 * @throws ModelFormatError, UnsupportedError
 */
export function readNormalizer(where: string, json: unknown, depth = 0): object | null {
  if (json === undefined || json === null) return null;
  const part = Fields.of(where, json);
  const type = part.text('type');
  switch (type) {
    case 'Sequence':
      return {
        type,
        normalizers: sequenceParts(part, 'normalizers', depth).map((inner, i) =>
          readNormalizer(`${where}[${i}]`, inner, depth + 1),
        ),
      };
    case 'NFC':
    case 'NFD':
    case 'NFKC':
    case 'NFKD':
    case 'Lowercase':
    case 'StripAccents':
      return { type };
    case 'Prepend': {
      const prepend = part.text('prepend');
      if (prepend === undefined) throw part.wrong('prepend', 'a string');
      return { type, prepend };
    }
    case 'Replace': {
      const content = part.text('content');
      if (content === undefined) throw part.wrong('content', 'a string');
      return replace(readPattern(part), content);
    }
    case 'Strip':
      // The library's strips what JavaScript takes for white space, U+FEFF too.
      return {
        type: 'Sequence',
        normalizers: [
          ...(part.flag('strip_left', true) ? [replace('\\A\\s+', '')] : []),
          ...(part.flag('strip_right', true) ? [replace('\\s+\\z', '')] : []),
        ],
      };
    default:
      throw unknownType(part, 'normalizer');
  }
}

function replace(pattern: string, content: string): object {
  // `$` has a meaning in JavaScript's replacements, and none in Hugging Face's.
  return { type: 'Replace', pattern: { Regex: pattern }, content: content.replaceAll('$', '$$$$') };
}
