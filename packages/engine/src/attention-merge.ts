/**
 * Puts together what attention over several parts of one context gave: o = Σ w(p) o(p), w(p) = exp(lse(p)) / Σ exp(lse), where
 * lse(p) is the logarithm of part p's sum of exp(score) (FlashAttention, arXiv 2205.14135, appendix B; "flash decoding"). In
 * double precision and in the order in which parts are given, so that a result does not depend on which part answered first.
 */

/** One part's results for neighbouring rows. */
export interface PartialAttention {
  readonly output: Float32Array; // [rows, heads, headDim]
  readonly logSumExp: Float32Array; // [rows, heads]; -Infinity where a row saw nothing
  /** The first of the rows, in both. */
  readonly row: number;
}

export class AttentionMerge {
  readonly #heads: number;
  readonly #headDim: number;
  readonly #sums: Float64Array; // [headDim]

  constructor(heads: number, headDim: number) {
    this.#heads = heads;
    this.#headDim = headDim;
    this.#sums = new Float64Array(headDim);
  }

  /**
   * @param target [rows, heads, headDim], written at `row`; may be a part's own output, if it stands at the same place there. Zeros
   *   where no part saw anything
   */
  merge(parts: readonly PartialAttention[], count: number, target: Float32Array, row: number): void {
    const [only] = parts;
    const width = this.#heads * this.#headDim;
    if (only !== undefined && parts.length === 1) {
      target.set(only.output.subarray(only.row * width, (only.row + count) * width), row * width);
      return;
    }
    for (let i = 0; i < count; i++) {
      for (let head = 0; head < this.#heads; head++) {
        this.#mergeHead(parts, i * this.#heads + head);
        target.set(this.#sums, (row + i) * width + head * this.#headDim);
      }
    }
  }

  /** @param at of the head's vector, counted from the first row's first */
  #mergeHead(parts: readonly PartialAttention[], at: number): void {
    const sums = this.#sums.fill(0);
    let most = Number.NEGATIVE_INFINITY;
    for (const { logSumExp, row } of parts) most = Math.max(most, logSumExp[row * this.#heads + at] as number);
    if (most === Number.NEGATIVE_INFINITY) return;
    let total = 0;
    for (const { output, logSumExp, row } of parts) {
      const vector = row * this.#heads + at;
      const weight = Math.exp((logSumExp[vector] as number) - most);
      // What a part wrote where it saw nothing doesn't matter.
      if (weight === 0) continue;
      total += weight;
      const first = vector * this.#headDim;
      for (let d = 0; d < sums.length; d++) sums[d] = (sums[d] as number) + weight * (output[first + d] as number);
    }
    for (let d = 0; d < sums.length; d++) sums[d] = (sums[d] as number) / total;
  }
}
