import { GlinthawkError, ModelFormatError, UnsupportedError } from '@glinthawk/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { f32Tensor, safetensorsHeader, type WrittenTensor, writeSafetensors } from '../testing/safetensors-writer.ts';
import { filesOf } from '../testing/tiny-model.ts';
import { duplicateKey } from './json-keys.ts';
import { readSafetensorsHeader, storedTensor } from './safetensors.ts';

const tensors = new Map<string, WrittenTensor>([
  ['a', f32Tensor([2, 3], [1, 2, 3, 4, 5, 6])],
  ['b', f32Tensor([4], [7, 8, 9, 10])],
  ['empty', f32Tensor([0, 5], [])],
]);

const open = (bytes: Uint8Array) => filesOf('t', { 't.safetensors': bytes, other: '' }).open('t.safetensors');
const header = async (bytes: Uint8Array) => readSafetensorsHeader(await open(bytes));

/** The true header with tensor `a` changed. */
function withA(changes: Record<string, unknown>): Uint8Array {
  const whole = safetensorsHeader(tensors);
  return writeSafetensors(tensors, { ...whole, a: { ...(whole.a as object), ...changes } });
}

describe('safetensors', () => {
  it('reads names, shapes and places', async () => {
    const bytes = writeSafetensors(tensors);
    const entries = await header(bytes);
    expect([...entries.keys()].sort()).toEqual(['a', 'b', 'empty']);
    const b = entries.get('b');
    expect(b).toMatchObject({ dtype: 'F32', shape: [4], bytes: 16 });
    expect(new DataView(bytes.buffer).getFloat32(b?.offset ?? 0, true)).toBe(7);
  });

  it.each<[string, () => Uint8Array, RegExp]>([
    ['shorter than its length field', () => new Uint8Array(5), /at least 8 bytes/],
    ['empty', () => new Uint8Array(0), /at least 8 bytes/],
    [
      'with a header of 2^60 bytes',
      () => withLength(writeSafetensors(tensors), 2n ** 60n),
      /claims 1152921504606846976 bytes/,
    ],
    ['with a header past its end', () => withLength(writeSafetensors(tensors), 100_000n), /claims 100000 bytes/],
    ['with a header that is not UTF-8', () => withByte(writeSafetensors(tensors), 12, 0xff), /UTF-8/],
    ['with a header that is not JSON', () => writeSafetensors(tensors, '{"a":'), /not valid JSON/],
    ['with a list for a header', () => writeSafetensors(tensors, '[]'), /must be a JSON object/],
    ['with a tensor that is a number', () => writeSafetensors(tensors, '{"a":3}'), /tensor a must be/],
    ['that was cut off', () => writeSafetensors(tensors).slice(0, -3), /tensor b.*the file has/],
    ['with offsets past the end', () => withA({ data_offsets: [0, 2400], shape: [100, 6] }), /tensor a.*the file has/],
    ['with offsets that overlap', () => withA({ data_offsets: [16, 40] }), /tensor (a|b) overlaps tensor (a|b)/],
    ['with descending offsets', () => withA({ data_offsets: [24, 0] }), /tensor a: data_offsets/],
    ['with negative offsets', () => withA({ data_offsets: [-8, 16] }), /tensor a: data_offsets/],
    ['with fractional offsets', () => withA({ data_offsets: [0.5, 24.5] }), /tensor a: data_offsets/],
    [
      'with a length that is not shape × dtype',
      () => withA({ shape: [2, 4] }),
      /tensor a: shape \[2, 4\] of F32 takes 32 bytes/,
    ],
    ['with an enormous shape', () => withA({ shape: new Array(8).fill(2 ** 52) }), /tensor a: shape/],
    ['with a negative size', () => withA({ shape: [-2, -3] }), /tensor a: shape/],
    ['with too many dimensions', () => withA({ shape: new Array(9).fill(1) }), /tensor a: shape/],
    ['without a dtype', () => withA({ dtype: null }), /tensor a: dtype/],
    ['with a name twice', () => writeSafetensors(tensors, doubled()), /tensor "a" stands twice/],
  ])('refuses a file %s', async (_, make, message) => {
    const error = await header(make()).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ModelFormatError);
    expect((error as Error).message).toMatch(message);
    expect((error as Error).message).toContain('t.safetensors');
  });

  it('names a dtype that it does not read, only when it is wanted', async () => {
    const file = await open(withA({ dtype: 'F8_E4M3', shape: [24] }));
    const a = (await readSafetensorsHeader(file)).get('a');
    if (a === undefined) throw new Error('no tensor a');
    expect(() => storedTensor(file, a)).toThrow(UnsupportedError);
    expect(() => storedTensor(file, a)).toThrow(/tensor a is stored as F8_E4M3/);
  });

  it('takes any mutation of a good file with a proper error or none', async () => {
    const good = writeSafetensors(tensors);
    const edits = fc.array(fc.tuple(fc.nat({ max: good.length - 1 }), fc.nat({ max: 255 })), {
      minLength: 1,
      maxLength: 6,
    });
    await fc.assert(
      fc.asyncProperty(edits, fc.option(fc.nat({ max: good.length })), async (changes, cut) => {
        const bytes = good.slice(0, cut ?? good.length);
        for (const [at, value] of changes) if (at < bytes.length) bytes[at] = value;
        try {
          for (const { offset, bytes: length } of (await header(bytes)).values()) {
            expect(offset + length).toBeLessThanOrEqual(bytes.length);
          }
        } catch (error) {
          expect(error).toBeInstanceOf(GlinthawkError);
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe('duplicate keys', () => {
  it('are found in the outermost object only, however they are spelt', () => {
    expect(duplicateKey('{"a": 1, "b": {"a": 2, "a": 3}, "c": ["a", {"a": "a"}]}')).toBeUndefined();
    expect(duplicateKey('{"a": "}", "b\\"": 1, "\\u0061" : 2}')).toBe('a');
    expect(duplicateKey('{"x": "a\\\\", "x": "x"}')).toBe('x');
    expect(duplicateKey('{}')).toBeUndefined();
  });

  it('agree with JSON.parse on how many keys there are', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.json()), (object) => {
        const text = JSON.stringify(object);
        expect(duplicateKey(text)).toBeUndefined();
        const [key] = Object.keys(object);
        if (key !== undefined) expect(duplicateKey(`{${JSON.stringify(key)}:0,${text.slice(1)}`)).toBe(key);
      }),
    );
  });
});

function doubled(): string {
  const text = JSON.stringify(safetensorsHeader(tensors));
  const a = JSON.stringify((safetensorsHeader(tensors) as { a: unknown }).a);
  return `${text.slice(0, -1)},"a":${a}}`;
}

function withLength(bytes: Uint8Array<ArrayBuffer>, length: bigint): Uint8Array {
  new DataView(bytes.buffer).setBigUint64(0, length, true);
  return bytes;
}

function withByte(bytes: Uint8Array, at: number, value: number): Uint8Array {
  bytes[at] = value;
  return bytes;
}
