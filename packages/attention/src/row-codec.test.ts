/** Rows by the kernels against core's plain loops, bit for bit, on both builds. */
import { decodeRows, encodeRows, f16BitsToF32, InputError, rowBytes } from '@glinthawk/core';
import { describe, expect, it } from 'vitest';
import { RowCodec } from './row-codec.ts';

const shapes = [
  [1, 2],
  [3, 6],
  [5, 10],
  [2, 8],
  [12, 80],
  [40, 128],
] as const;

/** Index of the first byte that differs, or -1: on long arrays toEqual takes seconds. */
function difference(actual: Float32Array | Uint8Array, expected: Float32Array | Uint8Array): number {
  expect(actual.byteLength).toBe(expected.byteLength);
  const [a, b] = [actual, expected].map((x) => new Uint8Array(x.buffer, x.byteOffset, x.byteLength));
  return a?.findIndex((byte, i) => byte !== b?.[i]) ?? 0;
}

describe.each(['relaxed', 'plain'] as const)('%s', (build) => {
  it.each(['f32', 'f16', 'int8'] as const)('%s rows there and back', async (dtype) => {
    for (const [heads, headDim] of shapes) {
      const codec = await RowCodec.create(dtype, heads, headDim, build);
      const width = heads * headDim;
      const bytes = rowBytes(dtype, heads, headDim);
      expect(codec).toMatchObject({ dtype, heads, headDim, rowBytes: bytes });
      for (const rows of [0, 1, 3, 70]) {
        const floats = new Float32Array(rows * width).map((_, i) => Math.sin(i * 1.7 + rows) * 10 ** (i % 5));
        const expected = new Uint8Array(rows * bytes);
        encodeRows(dtype, heads, headDim, floats, expected);
        // Somewhere in larger arrays, at odd places for the bytes, as they lie in a frame.
        const encoded = new Uint8Array(rows * bytes + 7).fill(0xaa);
        codec.encode(floats, rows, encoded.subarray(3));
        const margins = [...encoded.subarray(0, 3), ...encoded.subarray(3 + rows * bytes)];
        expect(margins).toEqual(Array(7).fill(0xaa));
        expect(difference(encoded.subarray(3, 3 + rows * bytes), expected)).toBe(-1);

        const decoded = new Float32Array(rows * width + 2).fill(-1);
        codec.decode(encoded.subarray(3), rows, decoded);
        expect([...decoded.subarray(rows * width)]).toEqual([-1, -1]);
        const widened = new Float32Array(rows * width);
        decodeRows(dtype, heads, headDim, expected, widened);
        expect(difference(decoded.subarray(0, rows * width), widened)).toBe(-1);
      }
      codec.close();
    }
  });

  it('f16 keeps infinities, NaN and subnormals, and overflows to infinity', async () => {
    const codec = await RowCodec.create('f16', 1, 8, build);
    const halves = Uint16Array.of(0x7c00, 0xfc00, 0x0001, 0x83ff, 0x7bff, 0x8000, 0x0400, 0x7e00);
    const decoded = new Float32Array(8);
    codec.decode(new Uint8Array(halves.buffer), 1, decoded);
    expect([...decoded]).toEqual([...halves].map(f16BitsToF32));
    for (const values of [
      [65504, 65519, 65520, 1e6, -1e6, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN],
      [2 ** -25, 2 ** -24, -(2 ** -25 * 1.01), 6.1e-5, -0, 1 / 3, 1 + 2 ** -11, 1 + 3 * 2 ** -11],
    ]) {
      const floats = Float32Array.from(values);
      const [encoded, expected] = [new Uint16Array(8), new Uint16Array(8)];
      codec.encode(floats, 1, new Uint8Array(encoded.buffer));
      encodeRows('f16', 1, 8, floats, new Uint8Array(expected.buffer));
      expect([...encoded].map(f16BitsToF32)).toEqual([...expected].map(f16BitsToF32));
    }
  });

  it('int8 reads back as NaN where a head had NaN or an infinity, and tiny heads as zeros', async () => {
    const codec = await RowCodec.create('int8', 4, 10, build);
    const floats = new Float32Array(40).map((_, i) => Math.cos(i));
    floats[3] = Number.NaN;
    floats[19] = Number.NEGATIVE_INFINITY;
    floats.subarray(20, 30).fill(2 ** -130);
    const encoded = new Uint8Array(codec.rowBytes);
    codec.encode(floats, 1, encoded);
    const expected = new Uint8Array(codec.rowBytes);
    encodeRows('int8', 4, 10, floats, expected);
    expect(encoded.subarray(0, 40)).toEqual(expected.subarray(0, 40));
    const decoded = new Float32Array(40);
    codec.decode(encoded, 1, decoded);
    expect(decoded.subarray(0, 20).every(Number.isNaN)).toBe(true);
    expect(decoded.subarray(20, 30).every((x) => x === 0)).toBe(true);
    expect(decoded.subarray(30).every((x, i) => Math.abs(x - Math.cos(30 + i)) < 0.005)).toBe(true);
  });
});

it('a closed codec, and arrays that are too short, are errors', async () => {
  const codec = await RowCodec.create('int8', 2, 4);
  expect(() => codec.encode(new Float32Array(7), 1, new Uint8Array(16))).toThrow(InputError);
  expect(() => codec.decode(new Uint8Array(15), 1, new Float32Array(8))).toThrow(
    /8 floats and 16 bytes, found 8 and 15/,
  );
  codec.close();
  expect(() => codec.encode(new Float32Array(8), 1, new Uint8Array(16))).toThrow(/closed/);
});
