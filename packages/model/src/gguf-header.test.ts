import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GlinthawkError, ModelFormatError, UnsupportedError } from '@glinthawk/core';
import { gguf } from '@huggingface/gguf';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type MetadataEntry, writeGguf } from '../testing/gguf-writer.ts';
import { filesOf, tinyGgufMetadata, tinyGgufTensors } from '../testing/tiny-model.ts';
import { readGgufHeader } from './gguf-header.ts';

const header = async (bytes: Uint8Array) => readGgufHeader(await filesOf('t.gguf', { 't.gguf': bytes }).open('t.gguf'));

const everyType = new Map<string, MetadataEntry>([
  ['a.u8', { type: 'u8', value: 200 }],
  ['a.i32', { type: 'i32', value: -7 }],
  ['a.u64', { type: 'u64', value: 2 ** 40 }],
  ['a.f32', { type: 'f32', value: 0.5 }],
  ['a.f64', { type: 'f64', value: 1e300 }],
  ['a.bool', { type: 'bool', value: true }],
  ['a.text', { type: 'string', value: '\ufeffnaïve 日本' }],
  ['a.texts', { type: 'strings', value: ['x', '', '🦙', '\ufeff'] }],
  ['a.numbers', { type: 'i32s', value: [3, -1, 2] }],
  ['a.floats', { type: 'f32s', value: [0.25, -8] }],
]);
const good = writeGguf(new Map([...everyType, ...tinyGgufMetadata()]), tinyGgufTensors());

describe('GGUF header', () => {
  it('reads every type of metadata', async () => {
    const { metadata, version } = await header(good);
    expect(version).toBe(3);
    for (const [key, entry] of everyType) {
      const found = metadata.get(key);
      expect(typeof found === 'bigint' ? Number(found) : found).toEqual(entry.value);
    }
  });

  it('reads version 2 and another alignment', async () => {
    const metadata = new Map<string, MetadataEntry>([['general.alignment', { type: 'u32', value: 64 }]]);
    const { tensors } = await header(writeGguf(metadata, tinyGgufTensors(), { version: 2, alignment: 64 }));
    for (const { offset } of tensors.values()) expect(offset % 64).toBe(0);
  });

  it('agrees with @huggingface/gguf', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'glinthawk-gguf-'));
    try {
      const path = join(folder, 't.gguf');
      await writeFile(path, good);
      const theirs = await gguf(path, { allowLocalFile: true });
      const ours = await header(good);
      const { version, tensor_count, kv_count, ...theirMetadata } = theirs.metadata as Record<string, unknown>;
      // Their decoder drops a leading U+FEFF; these keys hold one on purpose.
      const comparable = ([key]: [string, unknown]) => !key.startsWith('a.text');
      expect(Object.fromEntries([...ours.metadata].filter(comparable))).toEqual(
        Object.fromEntries(Object.entries(theirMetadata).filter(comparable)),
      );
      expect(
        [...ours.tensors.values()].map(({ name, kind, offset, shape }) => ({ name, kind, offset, shape })),
      ).toEqual(
        theirs.tensorInfos.map(({ name, dtype, offset, shape }) => ({
          name,
          kind: dtype,
          offset: Number(offset + theirs.tensorDataOffset),
          shape: shape.map(Number).reverse(),
        })),
      );
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it('reads arrays and strings that cross the window in which it reads', async () => {
    const words = Array.from({ length: 60_000 }, (_, i) => `token ${i} ${'x'.repeat(i % 40)}`);
    const metadata = new Map<string, MetadataEntry>([
      ['w', { type: 'strings', value: words }],
      ['long', { type: 'string', value: 'y'.repeat(3_000_000) }],
    ]);
    const read = (await header(writeGguf(metadata, new Map()))).metadata;
    expect(read.get('w')).toEqual(words);
    expect(read.get('long')).toBe('y'.repeat(3_000_000));
  });

  it.each<[string, () => Uint8Array, RegExp]>([
    ['empty', () => new Uint8Array(0), /doesn't begin with the letters GGUF/],
    ['of another kind', () => patched(good, 0, 0x12345678), /doesn't begin with the letters GGUF/],
    ['that claims 2^60 tensors', () => patched64(good, 8, 2n ** 60n), /number of tensors is 1152921504606846976/],
    ['that claims 2^60 keys', () => patched64(good, 16, 2n ** 60n), /number of metadata keys/],
    ['whose first key has 2^60 bytes', () => patched64(good, 24, 2n ** 60n), /the length of a metadata key/],
    ['that ends in its header', () => good.slice(0, 200), /ends within its header/],
    ['with an unknown type', () => patched(good, 24 + 8 + 4, 77), /unknown type 77/],
    ['with a key twice', () => writeGguf(twice('a.u8', 'a.u9'), new Map()), /"a.u8" stands twice/],
    [
      'with an alignment of 0',
      () => writeGguf(new Map([['general.alignment', { type: 'u32', value: 0 }]]), new Map()),
      /general.alignment/,
    ],
    [
      'with an array longer than the file',
      () => {
        const bytes = writeGguf(new Map([['k', { type: 'i32s', value: [1, 2] }]]), new Map());
        return patched64(bytes, 24 + 8 + 1 + 4 + 4, 1_000_000n);
      },
      /claims 1000000 elements, beyond the file's end/,
    ],
    [
      'with a tensor larger than the file',
      () => writeGguf(new Map(), new Map([['t', { shape: [2 ** 31, 2 ** 20], kind: 0, bytes: new Uint8Array(8) }]])),
      /tensor "t" has more elements/,
    ],
    [
      'with five dimensions',
      () => writeGguf(new Map(), new Map([['t', { shape: [1, 1, 1, 1, 1], kind: 0, bytes: new Uint8Array(4) }]])),
      /tensor "t" has 5 dimensions/,
    ],
  ])('refuses a file %s', async (_, make, message) => {
    const error = await header(make()).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ModelFormatError);
    expect((error as Error).message).toMatch(message);
    expect((error as Error).message).toContain('t.gguf');
  });

  it.each([
    [patched(good, 4, 1), /version 1/],
    [patched(good, 4, 4), /version 4/],
    [patched(good, 4, 3 << 24), /big-endian/],
  ])('says which versions it does not support', async (bytes, message) => {
    const error = await header(bytes).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UnsupportedError);
    expect((error as Error).message).toMatch(message);
  });

  it('takes any mutation of a good file with a proper error or none', async () => {
    // Edits in the header, where they matter: weights are never looked at here.
    const headerBytes = [...(await header(good)).tensors.values()][0]?.offset ?? 0;
    const edit = fc.tuple(fc.nat({ max: headerBytes - 1 }), fc.nat({ max: 255 }));
    await fc.assert(
      fc.asyncProperty(
        fc.array(edit, { minLength: 1, maxLength: 6 }),
        fc.option(fc.nat({ max: headerBytes })),
        async (edits, cut) => {
          const bytes = good.slice(0, cut ?? good.length);
          for (const [at, value] of edits) if (at < bytes.length) bytes[at] = value;
          try {
            await header(bytes);
          } catch (error) {
            expect(error).toBeInstanceOf(GlinthawkError);
          }
        },
      ),
      { numRuns: 2000 },
    );
  });
});

function patched(bytes: Uint8Array<ArrayBuffer>, at: number, value: number): Uint8Array {
  const copy = bytes.slice();
  new DataView(copy.buffer).setUint32(at, value, true);
  return copy;
}

function patched64(bytes: Uint8Array<ArrayBuffer>, at: number, value: bigint): Uint8Array {
  const copy = bytes.slice();
  new DataView(copy.buffer).setBigUint64(at, value, true);
  return copy;
}

/** A Map has no key twice, so the second of two is a Map's own key that reads the same. */
function twice(key: string, other: string): ReadonlyMap<string, MetadataEntry> {
  const entries: [string, MetadataEntry][] = [
    [key, { type: 'u8', value: 1 }],
    [other, { type: 'u8', value: 2 }],
  ];
  const map = new Map(entries);
  return Object.assign(map, { [Symbol.iterator]: () => entries.map(([, entry]) => [key, entry] as const).values() });
}
