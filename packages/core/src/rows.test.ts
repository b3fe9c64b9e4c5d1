/** Rows keep their values as far as their dtype can, and never turn what is no number into one. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decodeRows, encodeRows, outputRowBytes, qkvRowBytes, ROW_DTYPES, type RowDtype, rowBytes } from './rows.ts';

function there(dtype: RowDtype, heads: number, headDim: number, values: Float32Array): Uint8Array {
  const rows = values.length / (heads * headDim);
  const bytes = new Uint8Array(rows * rowBytes(dtype, heads, headDim)).fill(0xaa);
  encodeRows(dtype, heads, headDim, values, bytes);
  return bytes;
}

function back(dtype: RowDtype, heads: number, headDim: number, bytes: Uint8Array): Float32Array {
  const rows = bytes.length / rowBytes(dtype, heads, headDim);
  const values = new Float32Array(rows * heads * headDim).fill(7);
  decodeRows(dtype, heads, headDim, bytes, values);
  return values;
}

const row = fc.record({
  heads: fc.integer({ min: 1, max: 5 }),
  headDim: fc.integer({ min: 1, max: 9 }).map((half) => half * 2),
  rows: fc.integer({ min: 1, max: 3 }),
  scale: fc.constantFrom(1e-30, 1e-3, 1, 3e4),
  seed: fc.infiniteStream(fc.double({ min: -1, max: 1, noNaN: true })),
});

describe('rows', () => {
  it('have the bytes that the layout says', () => {
    const geometry = {
      layers: 1,
      kvHeads: 2,
      groupSize: 3,
      headDim: 6,
      softmaxScale: 1,
      windows: [0],
      maxContextTokens: 8,
    };
    // 10 heads of q, k and v; 6 of o
    expect(ROW_DTYPES.map((dtype) => qkvRowBytes(geometry, dtype))).toEqual([240, 120, 60 + 40]);
    expect(ROW_DTYPES.map((dtype) => outputRowBytes(geometry, dtype))).toEqual([144, 72, 36 + 24]);
    expect(rowBytes('int8', 1, 6)).toBe(8 + 4); // padded to whole words
  });

  it.each([
    ['f32', 0, 0],
    ['f16', 2 ** -11, 2 ** -25],
    ['int8', 0.5 / 127, 2 ** -118],
  ] as const)('of %s err by no more than half a unit', (dtype, relative, absolute) => {
    fc.assert(
      fc.property(row, ({ heads, headDim, rows, scale, seed }) => {
        const values = Float32Array.from({ length: rows * heads * headDim }, () => scale * (seed.next().value ?? 0));
        const found = back(dtype, heads, headDim, there(dtype, heads, headDim, values));
        for (let at = 0; at < values.length; at += headDim) {
          const vector = values.subarray(at, at + headDim);
          const most = vector.reduce((sofar, x) => Math.max(sofar, Math.abs(x)), 0);
          vector.forEach((x, i) => {
            const unit = dtype === 'int8' ? most : Math.abs(x);
            const error = Math.abs((found[at + i] as number) - x);
            expect(error).toBeLessThanOrEqual(unit * relative * (1 + 1e-5) + absolute);
          });
        }
      }),
    );
  });

  it('of int8 round to nearest even, with padding of zeros and the scales behind', () => {
    const bytes = there('int8', 1, 6, new Float32Array([127, -127, 0.5, 1.5, -2.5, 0]));
    expect([...new Int8Array(bytes.buffer, 0, 8)]).toEqual([127, -127, 0, 2, -2, 0, 0, 0]);
    expect(new Float32Array(bytes.buffer, 8)[0]).toBe(1);
  });

  it.each(ROW_DTYPES)('of %s read what is no number back as none, and spoil no other vector', (dtype) => {
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      const values = new Float32Array(3 * 4).fill(1);
      values[5] = value;
      const found = back(dtype, 3, 4, there(dtype, 3, 4, values));
      expect(Number.isFinite(found[5])).toBe(false);
      expect([...found.subarray(0, 4), ...found.subarray(8)]).toEqual(new Array(8).fill(1));
    }
  });

  it('that overflow f16 become infinite; int8 takes all of f32', () => {
    const values = new Float32Array([70_000, 3e38, -1e-40, 0]);
    expect([...back('f16', 1, 4, there('f16', 1, 4, values))]).toEqual([Infinity, Infinity, -0, 0]);
    const found = back('int8', 1, 4, there('int8', 1, 4, values));
    expect(found[1]).toBeCloseTo(3e38, -33);
    expect(found[0]).toBe(0);
    expect([...back('int8', 1, 2, there('int8', 1, 2, new Float32Array([1e-40, 0])))]).toEqual([0, 0]);
  });
});
