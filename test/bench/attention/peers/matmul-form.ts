/**
 * The work in the form that general libraries take: products of matrices and a softmax, KV contiguous, one matrix a KV head. All
 * that a caller could do once is done before: K transposed, q scaled, rows of a group together.
 */
import { type Share, visibleTokens, type Work, type WorkData } from '../work.ts';

/** The numbers of one share of the work, contiguous. */
export function shareData(work: Work, share: Share, { period, q, k, v }: WorkData): WorkData {
  const { headDim, group, kvHeads, chunk } = work;
  const heads = (from: Float32Array, firstRow: number, rows: number, headFloats: number) => {
    const to = new Float32Array(rows * share.kvHeads * headFloats);
    for (let row = 0; row < rows; row++) {
      const at = ((firstRow + row) * kvHeads + share.firstHead) * headFloats;
      to.set(from.subarray(at, at + share.kvHeads * headFloats), row * share.kvHeads * headFloats);
    }
    return to;
  };
  return {
    period,
    q: heads(q, share.firstSequence * chunk, share.sequences * chunk, group * headDim),
    k: heads(k, 0, period, headDim),
    v: heads(v, 0, period, headDim),
  };
}

export interface MatmulForm {
  /** layers · sequences · kvHeads */
  readonly matrices: number;
  /** chunk · group */
  readonly rows: number;
  readonly q: Float32Array; // [matrices, rows, headDim], scaled
  readonly keys: Float32Array; // [matrices, headDim, context]
  readonly values: Float32Array; // [matrices, context, headDim]
  /** What is added to scores so that a row doesn't see later tokens; null for decode. [rows, context] */
  readonly mask: Float32Array | null;
  /** [matrices, rows, headDim] → [sequences, chunk, kvHeads, group, headDim] of the first layer */
  readonly toRows: (output: Float32Array) => Float32Array;
}

/** Below any score, and its exponential is 0. */
const HIDDEN = -1e30;

export function matmulForm(work: Work, data: WorkData, layers: number): MatmulForm {
  const { headDim, group, kvHeads, context, sequences, chunk } = work;
  const rows = chunk * group;
  const layerMatrices = sequences * kvHeads;
  const q = new Float32Array(layers * layerMatrices * rows * headDim);
  const outputAt = (s: number, h: number, token: number) => ((s * chunk + token) * kvHeads + h) * group * headDim;
  const matrixAt = (s: number, h: number, token: number) => ((s * kvHeads + h) * chunk + token) * group * headDim;
  const eachRun = (visit: (output: number, matrix: number) => void) => {
    for (let s = 0; s < sequences; s++) {
      for (let h = 0; h < kvHeads; h++) for (let t = 0; t < chunk; t++) visit(outputAt(s, h, t), matrixAt(s, h, t));
    }
  };
  eachRun((from, to) => q.set(data.q.subarray(from, from + group * headDim), to));
  const scale = 1 / Math.sqrt(headDim);
  const layerFloats = layerMatrices * rows * headDim;
  for (let i = 0; i < layerFloats; i++) q[i] = (q[i] as number) * scale;
  for (let layer = 1; layer < layers; layer++) q.copyWithin(layer * layerFloats, 0, layerFloats);

  const keys = new Float32Array(layers * layerMatrices * headDim * context);
  const values = new Float32Array(keys.length);
  const headFloats = headDim * context;
  for (let h = 0; h < kvHeads; h++) {
    for (let t = 0; t < context; t++) {
      const from = ((t % data.period) * kvHeads + h) * headDim;
      for (let d = 0; d < headDim; d++) keys[h * headFloats + d * context + t] = data.k[from + d] as number;
      values.set(data.v.subarray(from, from + headDim), h * headFloats + t * headDim);
    }
  }
  for (let i = 1; i < layers * sequences; i++) {
    keys.copyWithin(i * kvHeads * headFloats, 0, kvHeads * headFloats);
    values.copyWithin(i * kvHeads * headFloats, 0, kvHeads * headFloats);
  }

  let mask: Float32Array | null = null;
  if (visibleTokens(work) !== chunk * context) {
    mask = new Float32Array(rows * context);
    for (let row = 0; row < rows; row++) {
      mask.fill(HIDDEN, row * context + context - chunk + Math.floor(row / group) + 1, (row + 1) * context);
    }
  }
  const toRows = (output: Float32Array) => {
    const ordered = new Float32Array(layerFloats);
    eachRun((to, from) => ordered.set(output.subarray(from, from + group * headDim), to));
    return ordered;
  };
  return { matrices: layers * layerMatrices, rows, q, keys, values, mask, toRows };
}
