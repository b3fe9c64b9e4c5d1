/**
 * The GGUF container (ggml's docs/gguf.md), versions 2 and 3, little-endian: metadata and tensor table, read forward through
 * any FileSource. Every length is held against a cap and against what is left of the file before anything is allocated.
 *
 * Not `@huggingface/gguf`, which tests use as an oracle: it reads a file that ends early as if zeros followed, parses a large array again
 * for each 2 MB that it fetches, and takes a path or a URL rather than bytes.
 */
import { ModelFormatError, UnsupportedError } from '@glinthawk/core';
import { quote } from './config-fields.ts';
import { decodeExactUtf8, type FileSource } from './file-source.ts';
import { MAX_VOCAB } from './model-limits.ts';

const MAGIC = 0x46554747; // "GGUF"
const DEFAULT_ALIGNMENT = 32;
const MAX_ALIGNMENT = 1 << 20;
/** Published files have some tens of keys, one file at most a few thousand tensors. */
const MAX_KEYS = 65_536;
const MAX_TENSORS = 1_000_000;
/** ggml's GGML_MAX_DIMS and GGML_MAX_NAME allow 4 and 64. */
const MAX_DIMENSIONS = 4;
const MAX_NAME_BYTES = 4096;
/** A chat template is the longest string. */
const MAX_STRING_BYTES = 16 * 2 ** 20;
/** Tokens and merges are the longest arrays. */
const MAX_ARRAY_LENGTH = 2 * MAX_VOCAB;
/** Of metadata and tensor table together; the largest vocabularies take some 20 MB. */
const MAX_HEADER_BYTES = 512 * 2 ** 20;
const WINDOW_BYTES = 2 ** 20;

export type GgufScalar = string | number | bigint | boolean;
export type GgufValue = GgufScalar | readonly GgufScalar[];

export interface GgufTensor {
  readonly name: string;
  /** Outermost first; GGUF stores it innermost first. */
  readonly shape: readonly number[];
  /** ggml's number of the kind. */
  readonly kind: number;
  /** Of its first byte in the file. */
  readonly offset: number;
}

export interface GgufHeader {
  readonly version: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: ReadonlyMap<string, GgufTensor>;
}

/**
 * @throws ModelFormatError when it is damaged, with the byte where it broke
 * @throws UnsupportedError for other versions, and for big-endian files
 */
export async function readGgufHeader(file: FileSource): Promise<GgufHeader> {
  const reader = new Reader(file);
  if (file.size < 24 || (await reader.u32()) !== MAGIC) {
    throw new ModelFormatError('MODEL_GGUF', `${file.name} is not a GGUF file: it doesn't begin with the letters GGUF`);
  }
  const version = await reader.u32();
  if (version !== 2 && version !== 3) {
    const bigEndian = version !== 0 && (version & 0xffff) === 0;
    throw new UnsupportedError(
      'UNSUPPORTED_GGUF',
      bigEndian
        ? `${file.name} is a big-endian GGUF file, which is not supported`
        : `${file.name} is a GGUF file of version ${version}; versions 2 and 3 are supported`,
    );
  }
  const tensorCount = await reader.size('number of tensors', MAX_TENSORS);
  const keyCount = await reader.size('number of metadata keys', MAX_KEYS);
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < keyCount; i++) {
    const key = await reader.string('a metadata key', MAX_NAME_BYTES);
    if (metadata.has(key)) throw reader.damaged(`metadata key ${quote(key)} stands twice`);
    metadata.set(key, await readValue(reader, key));
  }
  const infos = [];
  for (let i = 0; i < tensorCount; i++) infos.push(await readTensorInfo(reader));
  const alignment = readAlignment(metadata, file.name);
  const dataStart = Math.ceil(reader.position / alignment) * alignment;
  const tensors = new Map<string, GgufTensor>();
  for (const { name, shape, kind, relative } of infos) {
    if (tensors.has(name)) throw new ModelFormatError('MODEL_GGUF', `${file.name}: tensor ${quote(name)} stands twice`);
    if (relative % alignment !== 0) {
      throw new ModelFormatError(
        'MODEL_GGUF',
        `${file.name}: tensor ${name} begins at offset ${relative}, which is not a multiple of the alignment ${alignment}`,
      );
    }
    tensors.set(name, { name, shape, kind, offset: dataStart + relative });
  }
  return { version, metadata, tensors };
}

function readAlignment(metadata: ReadonlyMap<string, GgufValue>, file: string): number {
  const value = metadata.get('general.alignment') ?? DEFAULT_ALIGNMENT;
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 1 || value > MAX_ALIGNMENT) {
    throw new ModelFormatError(
      'MODEL_GGUF',
      `${file}: general.alignment must be an integer from 1 to ${MAX_ALIGNMENT}, found ${quote(value)}`,
    );
  }
  return value;
}

async function readTensorInfo(reader: Reader) {
  const name = await reader.string('a tensor name', MAX_NAME_BYTES);
  const dimensions = await reader.u32();
  if (dimensions > MAX_DIMENSIONS) {
    throw reader.damaged(`tensor ${quote(name)} has ${dimensions} dimensions; at most ${MAX_DIMENSIONS} are possible`);
  }
  const shape: number[] = [];
  let elements = 1;
  for (let i = 0; i < dimensions; i++) {
    const length = await reader.size(`a size of tensor ${quote(name)}`, Number.MAX_SAFE_INTEGER);
    elements *= length;
    // At one bit an element the file can't hold more, and sizes stay far inside what a double counts.
    if (elements > reader.fileBytes * 8) {
      throw reader.damaged(`tensor ${quote(name)} has more elements than the file has bits`);
    }
    shape.unshift(length);
  }
  const kind = await reader.u32();
  const relative = await reader.size(`the offset of tensor ${quote(name)}`, reader.fileBytes);
  return { name, shape, kind, relative };
}

async function readValue(reader: Reader, key: string): Promise<GgufValue> {
  const type = await reader.u32();
  if (type !== ARRAY) return readScalar(reader, type, key);
  const elementType = await reader.u32();
  const length = await reader.size(`the length of ${quote(key)}`, MAX_ARRAY_LENGTH);
  const smallest = SCALAR_BYTES.get(elementType);
  if (smallest === undefined) throw reader.damaged(`${quote(key)} is an array of unknown type ${elementType}`);
  if (length * smallest > reader.remaining)
    throw reader.damaged(`${quote(key)} claims ${length} elements, beyond the file's end`);
  const values: GgufScalar[] = [];
  for (let i = 0; i < length; i++) {
    // Waiting only where a window ends keeps a vocabulary's 100,000 strings quick.
    values.push(reader.readyScalar(elementType) ?? (await readScalar(reader, elementType, key)));
  }
  return values;
}

const STRING = 8;
const ARRAY = 9;

/** Bytes that a scalar of each type takes, a string at least. Types: ggml's `enum gguf_type`. */
const SCALAR_BYTES: ReadonlyMap<number, number> = new Map([
  [0, 1],
  [1, 1],
  [2, 2],
  [3, 2],
  [4, 4],
  [5, 4],
  [6, 4],
  [7, 1],
  [STRING, 8],
  [10, 8],
  [11, 8],
  [12, 8],
]);

async function readScalar(reader: Reader, type: number, key: string): Promise<GgufScalar> {
  if (type === STRING) return reader.string(quote(key), MAX_STRING_BYTES);
  const bytes = SCALAR_BYTES.get(type);
  if (bytes === undefined) throw reader.damaged(`${quote(key)} has unknown type ${type}`);
  await reader.ensure(bytes);
  return reader.fixed(type, bytes);
}

/** Reads forward, a window at a time. */
class Reader {
  readonly #file: FileSource;
  #window = new Uint8Array(0);
  #view = new DataView(this.#window.buffer);
  /** Of the window in the file. */
  #start = 0;
  /** In the window. */
  #at = 0;

  constructor(file: FileSource) {
    this.#file = file;
  }

  get position(): number {
    return this.#start + this.#at;
  }

  get fileBytes(): number {
    return this.#file.size;
  }

  get remaining(): number {
    return this.#file.size - this.position;
  }

  damaged(message: string): ModelFormatError {
    return new ModelFormatError('MODEL_GGUF', `${this.#file.name}, near byte ${this.position}: ${message}`, {
      hint: 'The file is damaged or was not downloaded completely; fetch it again.',
    });
  }

  /** Makes the next `length` bytes part of the window. */
  async ensure(length: number): Promise<void> {
    if (this.#at + length <= this.#window.length) return;
    if (length > this.remaining)
      throw this.damaged(`the file ends within its header (it has ${this.#file.size} bytes)`);
    if (this.position + length > MAX_HEADER_BYTES)
      throw this.damaged(`the header is longer than ${MAX_HEADER_BYTES} bytes`);
    const start = this.position;
    this.#window = await this.#file.read(start, Math.min(Math.max(length, WINDOW_BYTES), this.remaining));
    this.#view = new DataView(this.#window.buffer);
    this.#start = start;
    this.#at = 0;
  }

  async u32(): Promise<number> {
    await this.ensure(4);
    return this.fixed(4, 4) as number;
  }

  /** A 64-bit count of at most `cap`. */
  async size(what: string, cap: number): Promise<number> {
    await this.ensure(8);
    const value = this.fixed(10, 8) as bigint;
    if (value > BigInt(cap)) throw this.damaged(`${what} is ${value}; at most ${cap} is possible`);
    return Number(value);
  }

  async string(what: string, capBytes: number): Promise<string> {
    const length = await this.size(`the length of ${what}`, capBytes);
    await this.ensure(length);
    return this.#text(length);
  }

  /** A scalar if the window holds all of it. */
  readyScalar(type: number): GgufScalar | undefined {
    const left = this.#window.length - this.#at;
    if (type !== STRING) {
      const bytes = SCALAR_BYTES.get(type) ?? Number.POSITIVE_INFINITY;
      return bytes <= left ? this.fixed(type, bytes) : undefined;
    }
    if (left < 8) return undefined;
    const length = this.#view.getBigUint64(this.#at, true);
    if (length > BigInt(left - 8)) return undefined;
    this.#at += 8;
    return this.#text(Number(length));
  }

  /** A scalar of fixed size; the window must hold it. */
  fixed(type: number, bytes: number): GgufScalar {
    const at = this.#at;
    this.#at += bytes;
    switch (type) {
      case 0:
        return this.#view.getUint8(at);
      case 1:
        return this.#view.getInt8(at);
      case 2:
        return this.#view.getUint16(at, true);
      case 3:
        return this.#view.getInt16(at, true);
      case 4:
        return this.#view.getUint32(at, true);
      case 5:
        return this.#view.getInt32(at, true);
      case 6:
        return this.#view.getFloat32(at, true);
      case 7:
        return this.#view.getUint8(at) !== 0;
      case 10:
        return this.#view.getBigUint64(at, true);
      case 11:
        return this.#view.getBigInt64(at, true);
      case 12:
        return this.#view.getFloat64(at, true);
      default:
        throw new RangeError(`no fixed-size type ${type}`);
    }
  }

  #text(length: number): string {
    const bytes = this.#window.subarray(this.#at, this.#at + length);
    this.#at += length;
    return decodeExactUtf8(bytes, `${this.#file.name}: a string near byte ${this.position}`);
  }
}
