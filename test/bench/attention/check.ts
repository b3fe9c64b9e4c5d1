/** That what was timed was computed: errors of outputs against the definition, and against each other. */
import { errorOf } from '../../kernels/tolerances.ts';
import { exactRow, type Work, type WorkData } from './work.ts';

const CHECKED_ROWS = 6;

/**
 * Mean square error, over the mean square of the exact result, of some query heads of some rows, KV rounding included.
 * @param output [sequences, chunk, kvHeads, group, headDim]
 */
export function errorToExact(work: Work, data: WorkData, output: Float32Array): number {
  const { headDim, group, kvHeads, sequences, chunk } = work;
  const actual: number[] = [];
  const expected: number[] = [];
  for (let i = 0; i < CHECKED_ROWS; i++) {
    const pick = (n: number) => Math.floor(((i + 0.5) / CHECKED_ROWS) * n);
    const [sequence, token, head] = [pick(sequences), chunk - 1 - pick(chunk), pick(kvHeads * group)];
    const from = ((sequence * chunk + token) * kvHeads * group + head) * headDim;
    actual.push(...output.subarray(from, from + headDim));
    expected.push(...exactRow(work, data, sequence, token, head));
  }
  return errorOf(actual, expected).nmse;
}

/** A result further off than this is of other work: int8 KV errs by 1e-4 or so. */
export const WRONG_FROM = 5e-3;

export const errorText = (nmse: number): string =>
  nmse < WRONG_FROM ? nmse.toExponential(0) : `WRONG ${nmse.toExponential(0)}`;
