/** The post-processor of a tokenizer.json as what it is for single texts: ids before and after. */
import { Fields, quote } from './config-fields.ts';
import { sequenceParts, unknownType } from './split-pattern.ts';

/** What stands before and after each text. */
export interface SpecialIds {
  readonly before: readonly number[];
  readonly after: readonly number[];
}

const NOTHING: SpecialIds = { before: [], after: [] };

/** Ids that one special token of a template may stand for, and pieces of a template. */
const MAX_PIECES = 256;

/**
 * @param json the value of `post_processor`
 * @param vocabSize ids are below it
 * @throws ModelFormatError, UnsupportedError
 */
export function readPostProcessor(where: string, json: unknown, vocabSize: number, depth = 0): SpecialIds {
  if (json === undefined || json === null) return NOTHING;
  const part = Fields.of(where, json);
  switch (part.text('type')) {
    case 'ByteLevel':
      return NOTHING;
    case 'Sequence':
      return sequenceParts(part, 'processors', depth)
        .map((inner, i) => readPostProcessor(`${where}[${i}]`, inner, vocabSize, depth + 1))
        .reduce(
          (inside, { before, after }) => ({
            before: [...before, ...inside.before],
            after: [...inside.after, ...after],
          }),
          NOTHING,
        );
    case 'BertProcessing':
    case 'RobertaProcessing':
      return { before: [pairId(part, 'cls', vocabSize)], after: [pairId(part, 'sep', vocabSize)] };
    case 'TemplateProcessing':
      return readTemplate(part, vocabSize);
    default:
      throw unknownType(part, 'post-processor');
  }
}

function pairId(part: Fields, key: string, vocabSize: number): number {
  const pair = part.list(key, 2);
  if (pair?.length === 2 && isIdBelow(vocabSize, pair[1])) return pair[1];
  throw part.wrong(key, `a token and its id below ${vocabSize}`);
}

function readTemplate(part: Fields, vocabSize: number): SpecialIds {
  const before: number[] = [];
  const after: number[] = [];
  let texts = 0;
  for (const piece of part.list('single', MAX_PIECES) ?? []) {
    const fields = Fields.of(`${part.where}: single`, piece);
    const token = fields.section('SpecialToken')?.text('id');
    if (token !== undefined) (texts === 0 ? before : after).push(...templateIds(part, token, vocabSize));
    else if (fields.section('Sequence')?.text('id') === 'A') texts++;
    else throw part.wrong('single', 'special tokens and one Sequence A');
  }
  if (texts !== 1) throw part.wrong('single', 'special tokens and one Sequence A');
  return { before, after };
}

function templateIds(part: Fields, token: string, vocabSize: number): readonly number[] {
  const ids = part.section('special_tokens')?.section(token)?.list('ids', MAX_PIECES);
  if (ids?.every((id) => isIdBelow(vocabSize, id))) return ids as readonly number[];
  throw part.wrong('special_tokens', `given ids below ${vocabSize} for ${quote(token)}`);
}

function isIdBelow(vocabSize: number, id: unknown): id is number {
  return Number.isSafeInteger(id) && (id as number) >= 0 && (id as number) < vocabSize;
}
