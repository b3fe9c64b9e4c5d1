/**
 * A micro-batch's buffers for rows whose context lies in several parts: copies of q, k, v where a node's rows are no neighbours, and
 * partial results until they are merged. Made when a step first needs them, and grown; a step of sequences that each lie whole in
 * one shard touches none of this: its rows go out from, and come back to, the dense tier's own arrays.
 */

export interface RowWidths {
  /** Floats of one row that go out and that come back. */
  readonly qkv: number;
  readonly output: number;
  /** Query heads: log-sum-exps of a row. */
  readonly heads: number;
}

/** Rows that a step needs of each buffer. */
export interface SplitRowCounts {
  readonly qkv: number;
  readonly output: number;
  readonly logSumExp: number;
}

export class SplitRows {
  /** q, k and v that were copied because rows had to lie together, and results that were merged or copied. */
  copiedBytes = 0;
  readonly widths: RowWidths;
  #qkv: Float32Array = new Float32Array(0); // [rows, widths.qkv]
  #output: Float32Array = new Float32Array(0); // [rows, widths.output]
  #logSumExp: Float32Array = new Float32Array(0); // [rows, widths.heads]

  constructor(widths: RowWidths) {
    this.widths = widths;
  }

  get qkv(): Float32Array {
    return this.#qkv;
  }

  get output(): Float32Array {
    return this.#output;
  }

  get logSumExp(): Float32Array {
    return this.#logSumExp;
  }

  get bytes(): number {
    return this.#qkv.byteLength + this.#output.byteLength + this.#logSumExp.byteLength;
  }

  /** Call between steps only: what was there is not kept. */
  reserve(rows: SplitRowCounts): void {
    this.#qkv = grown(this.#qkv, rows.qkv * this.widths.qkv);
    this.#output = grown(this.#output, rows.output * this.widths.output);
    this.#logSumExp = grown(this.#logSumExp, rows.logSumExp * this.widths.heads);
  }

  destroy(): void {
    this.#qkv = new Float32Array(0);
    this.#output = new Float32Array(0);
    this.#logSumExp = new Float32Array(0);
  }
}

function grown(buffer: Float32Array, floats: number): Float32Array {
  return floats <= buffer.length ? buffer : new Float32Array(Math.max(floats, 2 * buffer.length));
}
