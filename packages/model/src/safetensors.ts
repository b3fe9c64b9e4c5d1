/**
 * The safetensors format (https://github.com/huggingface/safetensors, "Format"): a 64-bit length, a JSON header with each
 * tensor's dtype, shape and byte range, then the bytes. Here the header is read and held against the file; nothing else is.
 */
import { ModelFormatError, UnsupportedError } from '@glinthawk/core';
import { Fields, quote } from './config-fields.ts';
import { decodeUtf8, type FileSource, parseJson } from './file-source.ts';
import { duplicateKey } from './json-keys.ts';
import { BF16, F16, F32, type TensorKind } from './tensor-kinds.ts';
import type { StoredTensor } from './weight-table.ts';

/** The format's own limit. */
const MAX_HEADER_BYTES = 100_000_000;
const MAX_TENSORS = 1_000_000;
const MAX_DIMENSIONS = 8;
const LENGTH_BYTES = 8;

/** Bytes of an element by dtype; only the kinds below are read, the others may stand in a file unused. */
const ELEMENT_BYTES: ReadonlyMap<string, number> = new Map([
  ...(['BOOL', 'U8', 'I8', 'F8_E4M3', 'F8_E5M2', 'F8_E8M0'] as const).map((name) => [name, 1] as const),
  ...(['U16', 'I16', 'F16', 'BF16'] as const).map((name) => [name, 2] as const),
  ...(['U32', 'I32', 'F32'] as const).map((name) => [name, 4] as const),
  ...(['U64', 'I64', 'F64', 'C64'] as const).map((name) => [name, 8] as const),
]);
const KINDS: ReadonlyMap<string, TensorKind> = new Map([F32, F16, BF16].map((kind) => [kind.name, kind]));

export interface SafetensorsEntry {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Of its first byte in the file. */
  readonly offset: number;
  readonly bytes: number;
}

/**
 * The tensors of one file by name.
 * @throws ModelFormatError naming the file and, where there is one, the tensor
 */
export async function readSafetensorsHeader(file: FileSource): Promise<Map<string, SafetensorsEntry>> {
  const damaged = (message: string) =>
    new ModelFormatError('MODEL_SAFETENSORS', `${file.name}: ${message}`, {
      hint: 'The file is damaged or was not downloaded completely; fetch it again.',
    });
  if (file.size < LENGTH_BYTES) throw damaged(`a safetensors file has at least 8 bytes, this one ${file.size}`);
  const lengthBytes = await file.read(0, LENGTH_BYTES);
  const headerBytes = new DataView(lengthBytes.buffer).getBigUint64(0, true);
  if (headerBytes > MAX_HEADER_BYTES) {
    throw damaged(`the header claims ${headerBytes} bytes; the format allows ${MAX_HEADER_BYTES}`);
  }
  const dataStart = LENGTH_BYTES + Number(headerBytes);
  if (dataStart > file.size) throw damaged(`the header claims ${headerBytes} bytes, the file has ${file.size} in all`);
  const where = `${file.name}: header`;
  const text = decodeUtf8(await file.read(LENGTH_BYTES, Number(headerBytes)), where);
  const header = parseJson(text, where);
  if (typeof header !== 'object' || header === null || Array.isArray(header)) {
    throw damaged(`the header must be a JSON object, found ${quote(header)}`);
  }
  const twice = duplicateKey(text);
  if (twice !== undefined) throw damaged(`tensor ${quote(twice)} stands twice in the header`);
  const entries: SafetensorsEntry[] = [];
  for (const [name, value] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    if (entries.length === MAX_TENSORS) throw damaged(`more than ${MAX_TENSORS} tensors`);
    entries.push(readEntry(file, name, value, dataStart));
  }
  entries.sort((a, b) => a.offset - b.offset);
  let end = dataStart;
  let before = '';
  for (const entry of entries) {
    if (entry.bytes === 0) continue;
    if (entry.offset < end) throw damaged(`tensor ${entry.name} overlaps tensor ${before}`);
    end = entry.offset + entry.bytes;
    before = entry.name;
  }
  return new Map(entries.map((entry) => [entry.name, entry]));
}

function readEntry(file: FileSource, name: string, value: unknown, dataStart: number): SafetensorsEntry {
  const fields = Fields.of(`${file.name}: tensor ${name}`, value);
  const dtype = fields.text('dtype');
  if (dtype === undefined) throw fields.wrong('dtype', 'a string');
  const shape = fields.list('shape', MAX_DIMENSIONS);
  if (shape === undefined || !shape.every(isSize)) throw fields.wrong('shape', `at most ${MAX_DIMENSIONS} sizes`);
  const offsets = fields.list('data_offsets', 2);
  const [begin, end] = offsets ?? [];
  if (!isSize(begin) || !isSize(end) || begin > end) throw fields.wrong('data_offsets', 'two ascending byte offsets');
  if (dataStart + end > file.size) {
    throw new ModelFormatError(
      'MODEL_TRUNCATED',
      `${fields.where}: its bytes end at ${dataStart + end}, but the file has ${file.size} bytes`,
      { hint: 'The file is damaged or was not downloaded completely; fetch it again.' },
    );
  }
  const elementBytes = ELEMENT_BYTES.get(dtype);
  if (elementBytes !== undefined) {
    // In bigint: eight sizes of 2^53 multiply far beyond what a double counts.
    const expected = shape.reduce((product, length) => product * BigInt(length), BigInt(elementBytes));
    if (expected !== BigInt(end - begin)) {
      throw new ModelFormatError(
        'MODEL_SAFETENSORS',
        `${fields.where}: shape [${shape.join(', ')}] of ${dtype} takes ${expected} bytes, data_offsets give ${end - begin}`,
      );
    }
  }
  return { name, dtype, shape, offset: dataStart + begin, bytes: end - begin };
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** @throws UnsupportedError when weights can't be read of this dtype. */
export function storedTensor(file: FileSource, entry: SafetensorsEntry): StoredTensor {
  const kind = KINDS.get(entry.dtype);
  if (kind === undefined) {
    throw new UnsupportedError(
      'UNSUPPORTED_DTYPE',
      `${file.name}: tensor ${entry.name} is stored as ${entry.dtype}, which is not supported`,
      { hint: `Supported in safetensors: ${[...KINDS.keys()].join(', ')}.` },
    );
  }
  return { storedName: entry.name, file, offset: entry.offset, kind, shape: entry.shape };
}
