/**
 * How rows of head vectors lie in memory and on the wire: one row after the other, so that any neighbouring rows are one piece.
 *   f32, f16   [heads, headDim]
 *   int8       [heads, headDim] signed bytes, zeros up to a multiple of 4 bytes, then [heads] f32 scales: value = byte x scale
 */
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
      return 4 * Math.ceil((heads * headDim) / 4) + 4 * heads;
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
