/**
 * The patterns of tokenizer.json (`{"String": …}` or `{"Regex": …}`), validated before the library sees them: one that it
 * doesn't know it would leave out with a mere warning.
 */
import { UnsupportedError } from '@glinthawk/core';
import type { Fields } from './config-fields.ts';

/** OpenAI's GPT-2 pattern (gpt-2, `encoder.py`). */
export const GPT2_PATTERN = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** How deep sequences of normalizers and the like may nest; published files have one level. */
const MAX_NESTING = 16;

/** The pattern as a regular expression in Oniguruma's syntax. @throws ModelFormatError */
export function readPattern(part: Fields): string {
  const pattern = part.section('pattern');
  const regex = pattern?.text('Regex');
  const plain = pattern?.text('String');
  if ((regex === undefined) === (plain === undefined) || regex === '' || plain === '') {
    throw part.wrong('pattern', 'an object with a String or a Regex that is not empty');
  }
  return regex ?? (plain ?? '').replace(/[.*+?^${}()|[\]\\/]/g, '\\$&');
}

/** A Split for the library that does what `behavior` and `invert` mean to Hugging Face. @throws UnsupportedError */
export function splitOf(part: Fields, pattern: string, behavior: string, invert: boolean): object {
  const split = (regex: string, how: string, inverted: boolean) => ({
    type: 'Split',
    pattern: { Regex: regex },
    behavior: how,
    invert: inverted,
  });
  // The library knows two behaviours; a split by captures would keep what should go.
  if (behavior === 'Isolated') return split(pattern, 'Isolated', false);
  if (behavior === 'Contiguous' && !invert) return split(`(?:${pattern})+`, 'Isolated', false);
  if (behavior === 'Removed' && (invert || !/(^|[^\\])\((?!\?)/.test(pattern)))
    return split(pattern, 'Removed', invert);
  throw new UnsupportedError(
    'UNSUPPORTED_TOKENIZER',
    `${part.where}: behavior ${JSON.stringify(behavior)}${invert ? ', inverted,' : ''} is not supported with this pattern`,
  );
}

export function unknownType(part: Fields, what: string): UnsupportedError {
  return new UnsupportedError(
    'UNSUPPORTED_TOKENIZER',
    `${part.where}: a ${what} of type ${JSON.stringify(part.text('type') ?? null)} is not supported`,
  );
}

/** Parts of a Sequence. @throws ModelFormatError */
export function sequenceParts(part: Fields, key: string, depth: number): readonly unknown[] {
  const parts = part.list(key, 100);
  if (parts === undefined || depth >= MAX_NESTING) {
    throw part.wrong(key, `an array, nested at most ${MAX_NESTING} deep`);
  }
  return parts;
}
