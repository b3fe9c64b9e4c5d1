/** Whether what a backend gave for a step's rows is what the model gives: some rows of each entry exactly, all of them as numbers at all. */
import type { Int8Kernel } from '@glinthawk/attention';
import { type AttentionGeometry, type KvDtype, outputRowFloats, type RowDtype } from '@glinthawk/core';
import { type Tolerance, tolerances } from '../kernels/tolerances.ts';
import type { ModelSlot } from './cache-model.ts';
import { Random } from './random.ts';
import { type Query, type Token, TokenRows } from './token-rows.ts';

/** Heads of rows that are compared in an attend, at most about. */
const COMPARED = 12;
/** Tolerances are of many rows together; of some 10^6 heads of rows, one may be this much further off. */
const ONE_OF_MANY = 32;
/** Of natural log-sum-exps: scores' own error. */
const SUM_TOLERANCES = { f32: 1e-4, f16: 1e-4, bf16: 1e-4, int8: 1e-3, int8Dot: 2e-1 } as const;

export interface ComparedEntry {
  readonly slot: ModelSlot;
  readonly position: number;
  readonly count: number;
  /** Whose q, k and v the rows are. [count] */
  readonly rows: readonly Token[];
  readonly query: Query;
  /** What the rows see, before and with them. */
  readonly tokens: readonly Token[];
}

export class Comparison {
  readonly rows: TokenRows;
  readonly #geometry: AttentionGeometry;
  readonly #rowDtype: RowDtype;
  readonly #tolerance: Tolerance;
  readonly #sumTolerance: number;

  constructor(geometry: AttentionGeometry, kvDtype: KvDtype, int8: Int8Kernel, rowDtype: RowDtype) {
    const row = kvDtype === 'int8' && int8 === 'dot' ? 'int8Dot' : kvDtype;
    this.rows = new TokenRows(geometry, kvDtype, rowDtype);
    this.#geometry = geometry;
    this.#rowDtype = rowDtype;
    this.#tolerance = tolerances.attention[row];
    this.#sumTolerance = SUM_TOLERANCES[row];
  }

  check(
    step: number,
    layer: number,
    entries: readonly ComparedEntry[],
    output: Float32Array,
    sums: Float32Array | undefined,
  ): { readonly compared: number; readonly failure: string | null } {
    const geometry = this.#geometry;
    const { headDim, groupSize, kvHeads } = geometry;
    const heads = groupSize * kvHeads;
    const width = outputRowFloats(geometry);
    const random = new Random(1024 * step + layer);
    const each = Math.max(1, Math.ceil(COMPARED / entries.length));
    let compared = 0;
    let firstRow = 0;
    for (const entry of entries) {
      const { slot, position, count, rows, query, tokens } = entry;
      const from = firstRow;
      firstRow += count;
      if (slot.isFreed) continue;
      const first = random.whole(0, heads - 1);
      const where = (row: number) => `slot ${slot.index}.${slot.generation}, position ${position + row}`;
      for (let i = from * width; i < firstRow * width; i++) {
        if (!Number.isFinite(output[i])) {
          return { compared, failure: `${where(Math.floor(i / width) - from)} has ${output[i]} in its output` };
        }
      }
      for (let n = 0; n < each; n++) {
        const row = n === 0 ? count - 1 : random.whole(0, count - 1);
        const head = (first + n * groupSize) % heads; // of all KV heads in turn
        const seen = this.rows.attend(tokens, layer, position + row, head, rows[row] as Token, query);
        const at = ((from + row) * heads + head) * headDim;
        const found = output.subarray(at, at + headDim);
        const failure =
          this.#difference(found, seen.output) ??
          this.#sumDifference(sums?.[(from + row) * heads + head], seen.logSumExp);
        if (failure !== null) return { compared, failure: `${where(row)}, head ${head}: ${failure}` };
        compared++;
      }
    }
    return { compared, failure: null };
  }

  #difference(found: Float32Array, expected: Float64Array): string | null {
    const slack = this.#rowSlack(expected);
    let error = 0;
    let square = 0;
    let most = 0;
    for (let i = 0; i < expected.length; i++) {
      const difference = Math.max(0, Math.abs((found[i] as number) - (expected[i] as number)) - slack);
      error += difference ** 2;
      square += (expected[i] as number) ** 2;
      most = Math.max(most, difference);
    }
    const nmse = square === 0 ? error : error / square;
    if (nmse <= ONE_OF_MANY * this.#tolerance.nmse && most <= this.#tolerance.maxAbs) return null;
    const numbers = (array: ArrayLike<number>) =>
      Array.from(array, (x) => x.toPrecision(6))
        .slice(0, 4)
        .join(' ');
    return `error ${nmse.toExponential(2)} of the mean square, ${most.toExponential(2)} at most; found ${numbers(found)} …, expected ${numbers(expected)} …`;
  }

  #sumDifference(found: number | undefined, expected: number): string | null {
    if (found === undefined || found === expected) return null;
    if (Math.abs(found - expected) <= this.#sumTolerance) return null;
    return `log-sum-exp ${found}, expected ${expected}`;
  }

  /** What rounding o for the way back costs at most. */
  #rowSlack(expected: Float64Array): number {
    const largest = expected.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    switch (this.#rowDtype) {
      case 'f32':
        return 0;
      case 'f16':
        return largest * 2 ** -11;
      case 'int8':
        return (1.01 * largest) / 254;
      default:
        return this.#rowDtype satisfies never;
    }
  }
}
