import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  bf16ArrayToF32,
  bf16BitsToF32,
  f16ArrayToF32,
  f16BitsToF32,
  f32ArrayToF16,
  f32ToBf16Bits,
  f32ToF16Bits,
} from './dtype.ts';

/** IEEE 754 binary16 by its definition. */
function f16ByDefinition(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

describe('f16', () => {
  it('widens every bit pattern as the standard says', () => {
    const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const widened = new Float32Array(all.length);
    f16ArrayToF32(all, widened);
    for (const bits of all) {
      expect(widened[bits]).toBe(f16ByDefinition(bits));
      expect(f16BitsToF32(bits)).toBe(f16ByDefinition(bits));
    }
  });

  it('rounds to the nearest, ties to even, and overflows to infinity', () => {
    expect(f32ToF16Bits(1 + 2 ** -11)).toBe(0x3c00);
    expect(f32ToF16Bits(1 + 3 * 2 ** -11)).toBe(0x3c02);
    expect(f32ToF16Bits(65519)).toBe(0x7bff);
    expect(f32ToF16Bits(65520)).toBe(0x7c00);
    expect(f32ToF16Bits(2 ** -25)).toBe(0);
    const out = new Uint16Array(2);
    f32ArrayToF16(Float32Array.of(-2, 0.5), out);
    expect([...out]).toEqual([0xc000, 0x3800]);
  });
});

describe('bf16', () => {
  it('keeps what it can hold, and is never further off than half a step', () => {
    fc.assert(
      fc.property(fc.float({ noNaN: true, noDefaultInfinity: true, min: -(2 ** 120), max: 2 ** 120 }), (value) => {
        const rounded = bf16BitsToF32(f32ToBf16Bits(value));
        expect(f32ToBf16Bits(rounded)).toBe(f32ToBf16Bits(value));
        const step = value === 0 ? 0 : 2 ** (Math.floor(Math.log2(Math.abs(value))) - 7);
        expect(Math.abs(rounded - value)).toBeLessThanOrEqual(Math.max(step / 2, 2 ** -134));
      }),
    );
    expect(bf16BitsToF32(f32ToBf16Bits(Number.NaN))).toBeNaN();
  });

  it('widens arrays as it widens numbers', () => {
    const bits = Uint16Array.of(0, 0x8000, 0x3f80, 0xbf80, 0x7f80, 0xff80, 0x0001, 0x4049);
    const widened = new Float32Array(bits.length);
    bf16ArrayToF32(bits, widened);
    expect([...widened]).toEqual([...bits].map(bf16BitsToF32));
  });
});
