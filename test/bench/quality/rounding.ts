/**
 * Ways of writing head vectors in fewer bits, as numbers: each gives back what a cache or a wire of that form would. Scales and least
 * values of int4 are f16, as they would be stored. Nothing here packs bits; core's rows and the kernels do, for the forms that exist.
 */
import { f16BitsToF32, f32ToF16Bits } from '@glinthawk/core';

/** Rounds a vector in place. */
export type Rounding = (vector: Float32Array) => void;

/** One f32 scale: 127 is the largest magnitude. */
export const toInt8: Rounding = (vector) => {
  let largest = 0;
  for (const x of vector) largest = Math.max(largest, Math.abs(x));
  const scale = Math.fround(largest / 127);
  if (scale === 0) return;
  for (let i = 0; i < vector.length; i++) vector[i] = Math.round((vector[i] as number) / scale) * scale;
};

/** 16 even steps from the least to the largest of each `group` neighbours. */
export function toInt4(group: number): Rounding {
  return (vector) => {
    for (let from = 0; from < vector.length; from += group) {
      const to = Math.min(from + group, vector.length);
      roundStrided(vector, from, 1, to - from);
    }
  };
}

/** 16 even steps for each channel over all rows (KIVI, arXiv 2402.02750). */
export function channelsToInt4(rows: Float32Array, channels: number): void {
  for (let channel = 0; channel < channels; channel++)
    roundStrided(rows, channel, channels, Math.floor(rows.length / channels));
}

/**
 * In a basis in which no channel stands out: H / √n of n = a power of two, which is its own inverse (QuaRot, arXiv 2404.00456). For keys
 * a kernel would turn q as well, for values o back; the numbers are the same.
 */
export function rotated(rounding: Rounding): Rounding {
  return (vector) => {
    hadamard(vector);
    rounding(vector);
    hadamard(vector);
  };
}

/** Multiplies by H / √n in place. @param vector of a power of two */
export function hadamard(vector: Float32Array): void {
  const { length } = vector;
  if (length === 0 || (length & (length - 1)) !== 0) throw new RangeError(`${length} is no power of two`);
  for (let half = 1; half < length; half *= 2) {
    for (let from = 0; from < length; from += 2 * half) {
      for (let i = from; i < from + half; i++) {
        const a = vector[i] as number;
        const b = vector[i + half] as number;
        vector[i] = a + b;
        vector[i + half] = a - b;
      }
    }
  }
  const scale = 1 / Math.sqrt(length);
  for (let i = 0; i < length; i++) vector[i] = (vector[i] as number) * scale;
}

function half(value: number): number {
  return f16BitsToF32(f32ToF16Bits(value));
}

function roundStrided(array: Float32Array, from: number, stride: number, count: number): void {
  let least = Number.POSITIVE_INFINITY;
  let largest = Number.NEGATIVE_INFINITY;
  for (let i = 0, at = from; i < count; i++, at += stride) {
    least = Math.min(least, array[at] as number);
    largest = Math.max(largest, array[at] as number);
  }
  const zero = half(least);
  const step = half((largest - zero) / 15);
  if (step === 0) {
    for (let i = 0, at = from; i < count; i++, at += stride) array[at] = zero;
    return;
  }
  for (let i = 0, at = from; i < count; i++, at += stride) {
    const level = Math.round(((array[at] as number) - zero) / step);
    array[at] = zero + step * Math.min(15, Math.max(0, level));
  }
}
