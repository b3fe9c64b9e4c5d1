/**
 * How far kernels may be from their references, by operation and dtype. NMSE is the mean square error over the mean square
 * of the reference; maxAbs is the largest single difference, of data of unit variance.
 */
export interface Tolerance {
  readonly nmse: number;
  readonly maxAbs: number;
}

export const tolerances = {
  /** Against the reference over KV rounded to its dtype: the kernels' own error. int8 rounds the odd value the other way. */
  attention: {
    f32: { nmse: 1e-11, maxAbs: 2e-5 },
    f16: { nmse: 1e-11, maxAbs: 2e-5 },
    bf16: { nmse: 1e-11, maxAbs: 2e-5 },
    int8: { nmse: 1e-7, maxAbs: 1e-2 },
    /** q and weights in 8 bits add about as much as storing K and V in 8 bits does. */
    int8Dot: { nmse: 5e-4, maxAbs: 2e-1 },
  },
  /** Against the reference over KV as it was given: what storing it costs. */
  attentionStored: {
    f32: { nmse: 1e-11, maxAbs: 2e-5 },
    f16: { nmse: 1e-6, maxAbs: 2e-2 },
    bf16: { nmse: 1e-4, maxAbs: 1e-1 },
    int8: { nmse: 1e-3, maxAbs: 2e-1 },
    int8Dot: { nmse: 2e-3, maxAbs: 3e-1 },
  },
  /** WGSL kernels against references over weights rounded to their dtype; what only moves numbers is exact. */
  wgsl: {
    exact: { nmse: 0, maxAbs: 0 },
    f32: { nmse: 1e-11, maxAbs: 3e-5 },
  },
  /** A step through the `wasm` dense backend (qkv of each layer, logits) against plain loops in double precision. */
  denseStep: {
    f32: { nmse: 1e-11, maxAbs: 5e-5 },
  },
} as const satisfies Readonly<Record<string, Readonly<Record<string, Tolerance>>>>;

/** The error of `actual`; NaN anywhere makes both infinite. */
export function errorOf(actual: ArrayLike<number>, expected: ArrayLike<number>): Tolerance {
  let error = 0;
  let square = 0;
  let maxAbs = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs((actual[i] ?? Number.NaN) - (expected[i] as number));
    if (Number.isNaN(difference)) return { nmse: Number.POSITIVE_INFINITY, maxAbs: Number.POSITIVE_INFINITY };
    error += difference ** 2;
    square += (expected[i] as number) ** 2;
    maxAbs = Math.max(maxAbs, difference);
  }
  return { nmse: square === 0 ? error : error / square, maxAbs };
}

export function withinTolerance(error: Tolerance, tolerance: Tolerance): boolean {
  return error.nmse <= tolerance.nmse && error.maxAbs <= tolerance.maxAbs;
}
