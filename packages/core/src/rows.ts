/**
 * How rows of head vectors lie in memory and on the wire: one row after the other, so that any neighbouring rows are one piece.
 *   f32, f16   [heads, headDim]
 *   int8       [heads, headDim] signed bytes, zeros up to a multiple of 4 bytes, then [heads] f32 scales: value = byte x scale
 * encodeRows and decodeRows are these words as plain loops: the reference that faster ones are held to.
 */
import { f16ArrayToF32, f32ArrayToF16 } from './dtype.ts';
import type { AttentionGeometry } from './model-config.ts';

export type RowDtype = 'f32' | 'f16' | 'int8';
export const ROW_DTYPES: readonly RowDtype[] = ['f32', 'f16', 'int8'];

/** Bytes of a row of `heads` vectors of `headDim` (even); a multiple of 4. */
export function rowBytes(dtype: RowDtype, heads: number, headDim: number): number {
  switch (dtype) {
    case 'f32':
      return 4 * heads * headDim;
    case 'f16':
      return 2 * heads * headDim;
    case 'int8':
      return scalesOffset(heads, headDim) + 4 * heads;
    default:
      return dtype satisfies never;
  }
}

/** Of q of all heads, then k, then v of each KV head: what goes to the attention tier. */
export function qkvRowBytes(geometry: AttentionGeometry, dtype: RowDtype): number {
  return rowBytes(dtype, (geometry.groupSize + 2) * geometry.kvHeads, geometry.headDim);
}

/** Of o of all heads: what comes back. */
export function outputRowBytes(geometry: AttentionGeometry, dtype: RowDtype): number {
  return rowBytes(dtype, geometry.groupSize * geometry.kvHeads, geometry.headDim);
}

/** Where the scales of an int8 row begin. */
function scalesOffset(heads: number, headDim: number): number {
  return 4 * Math.ceil((heads * headDim) / 4);
}

/** At and below it the largest magnitude of a vector has no useful inverse in f32; its bytes are zeros. */
const TINY = 2 ** -118;
/** Added and subtracted, it leaves the nearest whole number, the even one of two. */
const NEAREST = 1.5 * 2 ** 23;

/**
 * Rounds f32 rows. f16 rounds to nearest even, overflow to infinity, and keeps NaN. int8 has the scale (largest magnitude) / 127 and
 * rounds to nearest even; a vector with NaN or an infinity gets zeros and a scale that is none either, so that all of it reads
 * back as NaN.
 * @param source [rows, heads, headDim]
 * @param target of rows times rowBytes; 4-byte aligned
 */
export function encodeRows(
  dtype: RowDtype,
  heads: number,
  headDim: number,
  source: Float32Array,
  target: Uint8Array,
): void {
  const { buffer, byteOffset } = target;
  if (dtype === 'f32') {
    new Float32Array(buffer, byteOffset, source.length).set(source);
    return;
  }
  if (dtype === 'f16') {
    f32ArrayToF16(source, new Uint16Array(buffer, byteOffset, source.length));
    return;
  }
  const rowFloats = heads * headDim;
  const bytes = rowBytes(dtype, heads, headDim);
  for (let row = 0; row * rowFloats < source.length; row++) {
    const at = byteOffset + row * bytes;
    const ints = new Int8Array(buffer, at, scalesOffset(heads, headDim));
    const scales = new Float32Array(buffer, at + ints.length, heads);
    ints.fill(0, rowFloats);
    for (let head = 0; head < heads; head++) {
      const from = head * headDim;
      const vector = source.subarray(row * rowFloats + from, row * rowFloats + from + headDim);
      let most = 0;
      for (const x of vector) most = Math.max(most, Math.abs(x)); // NaN stays NaN
      scales[head] = most / 127;
      const inverse = most > TINY && most < Number.POSITIVE_INFINITY ? Math.fround(127 / most) : 0;
      for (let d = 0; d < headDim; d++) {
        const scaled = inverse === 0 ? 0 : Math.fround((vector[d] as number) * inverse);
        ints[from + d] = Math.fround(scaled + NEAREST) - NEAREST;
      }
    }
  }
}

/**
 * Widens rows to f32.
 * @param source of rows times rowBytes; 4-byte aligned
 * @param target [rows, heads, headDim]
 */
export function decodeRows(
  dtype: RowDtype,
  heads: number,
  headDim: number,
  source: Uint8Array,
  target: Float32Array,
): void {
  const { buffer, byteOffset } = source;
  if (dtype === 'f32') {
    target.set(new Float32Array(buffer, byteOffset, target.length));
    return;
  }
  if (dtype === 'f16') {
    f16ArrayToF32(new Uint16Array(buffer, byteOffset, target.length), target);
    return;
  }
  const rowFloats = heads * headDim;
  const bytes = rowBytes(dtype, heads, headDim);
  for (let row = 0; row * rowFloats < target.length; row++) {
    const at = byteOffset + row * bytes;
    const ints = new Int8Array(buffer, at, rowFloats);
    const scales = new Float32Array(buffer, at + scalesOffset(heads, headDim), heads);
    for (let i = 0; i < rowFloats; i++) {
      target[row * rowFloats + i] = (ints[i] as number) * (scales[Math.floor(i / headDim)] as number);
    }
  }
}
