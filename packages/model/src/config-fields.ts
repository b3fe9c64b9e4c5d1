/**
 * Typed reading of a JSON object or of GGUF metadata whose every value is a stranger's. Null counts as absent, as it does
 * for transformers, but where `absent` is asked. Each complaint names the place, the key and what was found.
 */
import { ModelFormatError } from '@glinthawk/core';

/** How much of a wrong value an error message quotes. */
const QUOTE_CHARACTERS = 80;

export function quote(value: unknown): string {
  if (value === undefined) return 'nothing';
  let text: string | undefined;
  try {
    text = JSON.stringify(value, (_, part) => (typeof part === 'bigint' ? `${part}n` : part));
  } catch {
    text = undefined;
  }
  text ??= String(value);
  return text.length > QUOTE_CHARACTERS ? `${text.slice(0, QUOTE_CHARACTERS)}…` : text;
}

export class Fields {
  /** File name or section, as errors show it. */
  readonly where: string;
  readonly #value: (key: string) => unknown;

  constructor(where: string, value: (key: string) => unknown) {
    this.where = where;
    this.#value = value;
  }

  /** @throws ModelFormatError when `value` isn't an object. */
  static of(where: string, value: unknown): Fields {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw new ModelFormatError('MODEL_CONFIG', `${where} must be a JSON object, found ${quote(value)}`);
    }
    return new Fields(where, (key) =>
      Object.hasOwn(value, key) ? (value as Record<string, unknown>)[key] : undefined,
    );
  }

  /** The value as it is; undefined when absent or null. */
  raw(key: string): unknown {
    return this.#value(key) ?? undefined;
  }

  has(key: string): boolean {
    return this.raw(key) !== undefined;
  }

  /** Whether the key is left out, which some defaults tell from null. */
  absent(key: string): boolean {
    return this.#value(key) === undefined;
  }

  wrong(key: string, expected: string): ModelFormatError {
    return new ModelFormatError(
      'MODEL_CONFIG',
      `${this.where}: ${key} must be ${expected}, found ${quote(this.raw(key))}`,
    );
  }

  /** A positive integer of at most `cap`; required unless `fallback` is given. */
  count(key: string, cap: number, fallback?: number): number {
    if (!this.has(key) && fallback !== undefined) return fallback;
    const value = this.#number(key);
    if (!Number.isSafeInteger(value) || value < 1 || value > cap) throw this.wrong(key, `an integer from 1 to ${cap}`);
    return value;
  }

  /** A finite number above zero; required unless `fallback` is given. */
  positive(key: string, fallback?: number): number {
    if (!this.has(key) && fallback !== undefined) return fallback;
    const value = this.#number(key);
    if (!Number.isFinite(value) || value <= 0) throw this.wrong(key, 'a finite number above 0');
    return value;
  }

  /** An integer from `low` to `high`, or undefined when absent. */
  integer(key: string, low: number, high: number): number | undefined {
    if (!this.has(key)) return undefined;
    const value = this.#number(key);
    if (!Number.isSafeInteger(value) || value < low || value > high) {
      throw this.wrong(key, `an integer from ${low} to ${high}`);
    }
    return value;
  }

  /** A number from `low` to `high`, or undefined when absent. */
  number(key: string, low: number, high: number): number | undefined {
    if (!this.has(key)) return undefined;
    const value = this.#number(key);
    if (!(value >= low && value <= high)) throw this.wrong(key, `a number from ${low} to ${high}`);
    return value;
  }

  flag(key: string, fallback: boolean): boolean {
    const value = this.raw(key);
    if (value === undefined) return fallback;
    if (typeof value !== 'boolean') throw this.wrong(key, 'true or false');
    return value;
  }

  /** A string, or undefined when absent. */
  text(key: string): string | undefined {
    const value = this.raw(key);
    if (value === undefined) return undefined;
    if (typeof value !== 'string') throw this.wrong(key, 'a string');
    return value;
  }

  /** An array of at most `cap` values, or undefined when absent. */
  list(key: string, cap: number): readonly unknown[] | undefined {
    const value = this.raw(key);
    if (value === undefined) return undefined;
    if (!Array.isArray(value) || value.length > cap) throw this.wrong(key, `an array of at most ${cap} values`);
    return value;
  }

  /** An object's fields, or undefined when absent. */
  section(key: string): Fields | undefined {
    const value = this.raw(key);
    if (value === undefined) return undefined;
    if (typeof value !== 'object' || Array.isArray(value)) throw this.wrong(key, 'an object');
    return Fields.of(`${this.where}: ${key}`, value);
  }

  #number(key: string): number {
    const value = this.raw(key);
    if (value === undefined) {
      throw new ModelFormatError('MODEL_CONFIG', `${this.where}: ${key} is missing; a number is expected`);
    }
    // GGUF's 64-bit integers arrive as bigint.
    if (typeof value === 'bigint' && Number.isSafeInteger(Number(value))) return Number(value);
    if (typeof value !== 'number') throw this.wrong(key, 'a number');
    return value;
  }
}
