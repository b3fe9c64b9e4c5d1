/** Rows by the kernels against the definition in plain numbers, on both builds. */
import { f16BitsToF32, f32ToF16Bits, InputError, type RowDtype, rowBytes } from '@glinthawk/core';
import { describe, expect, it } from 'vitest';
import { RowCodec } from './row-codec.ts';

/** rows.ts in plain loops. */
function decodeByDefinition(dtype: RowDtype, heads: number, headDim: number, row: Uint8Array): number[] {
  const view = new DataView(row.buffer, row.byteOffset, row.byteLength);
  const scales = 4 * Math.ceil((heads * headDim) / 4);
  return Array.from({ length: heads * headDim }, (_, i) => {
    if (dtype === 'f32') return view.getFloat32(4 * i, true);
    if (dtype === 'f16') return f16BitsToF32(view.getUint16(2 * i, true));
    return Math.fround(view.getInt8(i) * view.getFloat32(scales + 4 * Math.floor(i / headDim), true));
  });
}

const shapes = [
  [1, 2],
  [3, 6],
  [5, 10],
  [2, 8],
  [12, 80],
  [40, 128],
] as const;

describe.each(['relaxed', 'plain'] as const)('%s', (build) => {
  it.each(['f32', 'f16', 'int8'] as const)('%s rows there and back', async (dtype) => {
    for (const [heads, headDim] of shapes) {
      const codec = await RowCodec.create(dtype, heads, headDim, build);
      const width = heads * headDim;
      const bytes = rowBytes(dtype, heads, headDim);
      expect(codec).toMatchObject({ dtype, heads, headDim, rowBytes: bytes });
      for (const rows of [0, 1, 3, 70]) {
        const floats = new Float32Array(rows * width).map((_, i) => Math.sin(i * 1.7 + rows) * 10 ** (i % 5));
        // Somewhere in larger arrays, at odd places for the bytes, as they lie in a frame.
        const encoded = new Uint8Array(rows * bytes + 7).fill(0xaa);
        codec.encode(floats, rows, encoded.subarray(3));
        expect([...encoded.subarray(0, 3), ...encoded.subarray(3 + rows * bytes)]).toEqual(Array(7).fill(0xaa));
        const decoded = new Float32Array(rows * width + 2).fill(-1);
        codec.decode(encoded.subarray(3), rows, decoded);
        expect([...decoded.subarray(rows * width)]).toEqual([-1, -1]);
        for (let row = 0; row < rows; row++) {
          const of = floats.subarray(row * width, (row + 1) * width);
          const own = encoded.subarray(3 + row * bytes, 3 + (row + 1) * bytes);
          const byDefinition = Float32Array.from(decodeByDefinition(dtype, heads, headDim, own));
          expect(decoded.subarray(row * width, (row + 1) * width)).toEqual(byDefinition);
          if (dtype === 'f32') expect(decoded.subarray(row * width, (row + 1) * width)).toEqual(of);
          if (dtype === 'f16') {
            expect(new Uint16Array(own.slice().buffer)).toEqual(Uint16Array.from(of, f32ToF16Bits));
          }
          if (dtype === 'int8') {
            for (let i = width; i % 4 !== 0; i++) expect(own[i]).toBe(0);
            const steps = Array.from({ length: heads }, (_, head) => {
              const all = of.subarray(head * headDim, (head + 1) * headDim);
              return Math.max(...all.map(Math.abs)) / 127;
            });
            const errors = Array.from(of, (x, i) => {
              const error = Math.abs((decoded[row * width + i] as number) - x);
              return error / (steps[Math.floor(i / headDim)] as number);
            });
            expect(Math.max(...errors)).toBeLessThanOrEqual(0.5001);
          }
        }
      }
      codec.close();
    }
  });

  it('keeps what only f16 has, and what it has not', async () => {
    const codec = await RowCodec.create('f16', 1, 8, build);
    const bits = Uint16Array.of(0x7c00, 0xfc00, 0x0001, 0x83ff, 0x7bff, 0x8000, 0x0400, 0);
    const decoded = new Float32Array(8);
    codec.decode(new Uint8Array(bits.buffer), 1, decoded);
    expect([...decoded]).toEqual([...bits].map(f16BitsToF32));
    const encoded = new Uint16Array(8);
    codec.encode(
      Float32Array.of(1e6, -1e6, 2 ** -25, 65519, 2 ** -24, -0, 1 / 3, 0),
      1,
      new Uint8Array(encoded.buffer),
    );
    expect([...encoded]).toEqual([0x7bff, 0xfbff, 0, 0x7bff, 1, 0x8000, f32ToF16Bits(1 / 3), 0]);
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
