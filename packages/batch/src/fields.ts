/**
 * Reads the fields of one JSON object, each by its type and range, and knows which were never asked for. Every complaint says
 * what was expected and quotes what stands there. `null` counts as absent, as it does for OpenAI's servers.
 */
import { LineError, type LineErrorCode } from './line-error.ts';

export type JsonObject = Readonly<Record<string, unknown>>;

const QUOTED_CHARACTERS = 60;

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A value as an error message quotes it: JSON, cut short. */
export function quote(value: unknown): string {
  if (value === undefined) return 'nothing';
  // JSON has no infinity: the text had a number that is too large for a double, as 1e999.
  if (value === Number.POSITIVE_INFINITY) return 'a number too large (infinity)';
  if (value === Number.NEGATIVE_INFINITY) return 'a number too large (minus infinity)';
  let text: string;
  try {
    text = JSON.stringify(value);
  } catch {
    return 'a value nested too deeply to show';
  }
  return shortened(text);
}

export function shortened(text: string): string {
  return text.length <= QUOTED_CHARACTERS ? text : `${text.slice(0, QUOTED_CHARACTERS - 1)}…`;
}

/** The candidate that a misspelt name most probably meant, or null: at most two edits, and fewer than half its letters. */
export function nearest(name: string, candidates: Iterable<string>): string | null {
  let best: string | null = null;
  let bestDistance = Math.min(2, Math.floor((name.length - 1) / 2)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(name, candidate, bestDistance);
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

function editDistance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) >= limit) return limit;
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const substituted = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(substituted, (previous[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1));
    }
    previous = row;
  }
  return previous[b.length] ?? limit;
}

export class Fields {
  readonly line: number;
  readonly customId: string | null;
  readonly #object: JsonObject;
  readonly #path: string;

  /** @param path what stands before a field's name in messages: `body.`, or nothing */
  constructor(line: number, object: JsonObject, path: string, customId: string | null = null) {
    this.line = line;
    this.customId = customId;
    this.#object = object;
    this.#path = path;
  }

  pathOf(name: string): string {
    return `${this.#path}${name}`;
  }

  has(name: string): boolean {
    return this.get(name) !== undefined;
  }

  get(name: string): unknown {
    if (!Object.hasOwn(this.#object, name)) return undefined;
    return this.#object[name] ?? undefined;
  }

  names(): string[] {
    return Object.keys(this.#object);
  }

  fail(name: string, detail: string, code: LineErrorCode = 'invalid_request', cause?: unknown): never {
    throw new LineError(this.line, code, `${this.pathOf(name)} ${detail}`, {
      param: this.pathOf(name),
      customId: this.customId,
      cause,
    });
  }

  /** Fails for a value that isn't what `expected` says. */
  mismatch(name: string, expected: string, value: unknown = this.get(name)): never {
    return this.fail(name, `must be ${expected}, found ${quote(value)}`);
  }

  number(name: string, low: number, high: number, expected: string): number | undefined {
    const value = this.get(name);
    if (value === undefined) return undefined;
    if (typeof value !== 'number' || !(value >= low && value <= high)) return this.mismatch(name, expected);
    return value;
  }

  integer(name: string, low: number, high: number, expected: string): number | undefined {
    const value = this.number(name, low, high, expected);
    if (value !== undefined && !Number.isSafeInteger(value)) return this.mismatch(name, expected);
    return value;
  }

  boolean(name: string): boolean | undefined {
    const value = this.get(name);
    if (value === undefined || typeof value === 'boolean') return value;
    return this.mismatch(name, 'true or false');
  }

  string(name: string, expected = 'a string'): string | undefined {
    const value = this.get(name);
    if (value === undefined) return undefined;
    if (typeof value !== 'string') return this.mismatch(name, expected);
    return this.wellFormed(name, value);
  }

  /** UTF-8 has no half of a surrogate pair; a tokenizer would silently see another character. */
  wellFormed(name: string, text: string): string {
    if (!text.isWellFormed()) return this.fail(name, 'holds half of a surrogate pair (\\ud800 to \\udfff alone)');
    return text;
  }

  tokenIds(name: string, vocabSize: number): number[] | undefined {
    const value = this.get(name);
    if (value === undefined) return undefined;
    if (!Array.isArray(value)) return this.mismatch(name, 'an array of token ids');
    for (const [i, id] of value.entries()) {
      if (!Number.isSafeInteger(id) || id < 0 || id >= vocabSize) {
        return this.mismatch(`${name}[${i}]`, `a token id from 0 to ${vocabSize - 1}`, id);
      }
    }
    return value as number[];
  }
}
