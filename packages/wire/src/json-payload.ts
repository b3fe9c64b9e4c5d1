/**
 * JSON in control frames: a size cap before it is parsed, then every field read by name, with its type and range. Unknown
 * fields are ignored, so that later versions may add some.
 */
import { ProtocolError } from '@glinthawk/core';
import { MAX_CONTROL_BYTES } from './limits.ts';

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true });

/** @throws ProtocolError when the text is longer than MAX_CONTROL_BYTES. */
export function encodeJson(what: string, value: object): Uint8Array {
  const bytes = encoder.encode(JSON.stringify(value));
  if (bytes.byteLength > MAX_CONTROL_BYTES) {
    throw new ProtocolError(
      'CONTROL_TOO_LONG',
      `${what} is ${bytes.byteLength} bytes; the cap is ${MAX_CONTROL_BYTES}`,
    );
  }
  return bytes;
}

/** @throws ProtocolError when the payload is no JSON object. */
export function decodeJson(what: string, payload: Uint8Array): JsonFields {
  let value: unknown;
  try {
    if (payload.byteLength > MAX_CONTROL_BYTES) throw new RangeError('too long');
    value = JSON.parse(decoder.decode(payload));
  } catch (cause) {
    throw new ProtocolError('BAD_JSON', `${what}: the payload is no JSON`, { cause });
  }
  return new JsonFields(what, value);
}

/** Reads checked fields of a JSON object. */
export class JsonFields {
  readonly #what: string;
  readonly #fields: Readonly<Record<string, unknown>>;

  constructor(what: string, value: unknown) {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw new ProtocolError('BAD_JSON', `${what}: expected a JSON object`);
    }
    this.#what = what;
    this.#fields = value as Readonly<Record<string, unknown>>;
  }

  #fail(name: string, expected: string): ProtocolError {
    return new ProtocolError('BAD_FIELD', `${this.#what}: ${name} must be ${expected}`);
  }

  #get(name: string): unknown {
    return Object.hasOwn(this.#fields, name) ? this.#fields[name] : undefined;
  }

  has(name: string): boolean {
    return this.#get(name) !== undefined;
  }

  integer(name: string, min: number, max: number): number {
    const value = this.#get(name);
    if (!Number.isSafeInteger(value) || (value as number) < min || (value as number) > max) {
      throw this.#fail(name, `an integer from ${min} to ${max}`);
    }
    return value as number;
  }

  /** A finite number within [min, max]. */
  number(name: string, min: number, max: number): number {
    const value = this.#get(name);
    if (typeof value !== 'number' || !(value >= min && value <= max)) {
      throw this.#fail(name, `a number from ${min} to ${max}`);
    }
    return value;
  }

  string(name: string, maxChars: number): string {
    const value = this.#get(name);
    if (typeof value !== 'string' || value.length > maxChars) {
      throw this.#fail(name, `a string of at most ${maxChars} characters`);
    }
    return value;
  }

  hexBytes(name: string, bytes: number): Uint8Array {
    const value = this.#get(name);
    if (typeof value !== 'string' || value.length !== bytes * 2 || !/^[0-9a-f]*$/.test(value)) {
      throw this.#fail(name, `${bytes} bytes in lower-case hexadecimal`);
    }
    return hexToBytes(value);
  }

  oneOf<const T extends string>(name: string, values: readonly T[]): T {
    const value = this.#get(name);
    if (!values.includes(value as T)) throw this.#fail(name, `one of ${values.join(', ')}`);
    return value as T;
  }

  integers(name: string, maxCount: number, min: number, max: number): readonly number[] {
    const value = this.#get(name);
    if (!Array.isArray(value) || value.length > maxCount)
      throw this.#fail(name, `a list of at most ${maxCount} integers`);
    for (const item of value) {
      if (!Number.isSafeInteger(item) || item < min || item > max) {
        throw this.#fail(name, `a list of integers from ${min} to ${max}`);
      }
    }
    return value as readonly number[];
  }

  object(name: string): JsonFields {
    const value = this.#get(name);
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw this.#fail(name, 'an object');
    return new JsonFields(`${this.#what}.${name}`, value);
  }
}

export function bytesToHex(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += byte.toString(16).padStart(2, '0');
  return text;
}

/** Of an even number of hexadecimal digits. */
export function hexToBytes(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length / 2);
  for (let i = 0; i < bytes.length; i++) bytes[i] = Number.parseInt(text.slice(i * 2, i * 2 + 2), 16);
  return bytes;
}
