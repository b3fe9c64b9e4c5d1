/**
 * Rows of q, k and v in every layer, as they are given to a backend and as a KV cache gives them back. A token is a number: its rows lie in one
 * pool of normal numbers, from a place that the number says. So a model of a cache with many thousand tokens is a few lists of
 * numbers, and what memory the process takes is the backend's. Attention over tokens is the definition, in double precision.
 */
import {
  type AttentionGeometry,
  decodeRows,
  encodeRows,
  type KvDtype,
  qkvRowFloats,
  type RowDtype,
  rowBytes,
} from '@glinthawk/core';
import { fillNormal, randomSource } from '../kernels/attention-cases.ts';
import { roundKv } from '../reference/attention.ts';

export type Token = number;

/** How a row's q comes of its token's: that of `scale` 1, or larger, so that softmax is peaked; or it looks for one token. */
export interface Query {
  readonly scale: number;
  /** q is a multiple of this token's k, so that hardly anything but its v comes back: were that another's, it would show. */
  readonly aim: Token | undefined;
}

export interface Seen {
  readonly output: Float64Array;
  readonly logSumExp: number;
}

/** Its head_dims are far more than tokens that a slot could have in each other's place. */
const POOL_FLOATS = 1 << 18;
const given = fillNormal(new Float32Array(POOL_FLOATS), randomSource(0x61c88647));
/** A token's own score is about AIM √headDim then, and that of others has AIM for standard deviation. */
const AIM = 4;

export class TokenRows {
  /** Tokens are numbers from 0 to below it. */
  readonly tokens: number;
  readonly #geometry: AttentionGeometry;
  readonly #rowDtype: RowDtype;
  readonly #stored: ArrayLike<number>; // of what is given, what comes back
  readonly #heads: number;

  constructor(geometry: AttentionGeometry, kvDtype: KvDtype, rowDtype: RowDtype) {
    const { headDim, groupSize, kvHeads } = geometry;
    const received = throughRows(rowDtype, given, headDim);
    this.tokens = POOL_FLOATS / headDim - qkvRowFloats(geometry) / headDim;
    this.#geometry = geometry;
    this.#rowDtype = rowDtype;
    this.#heads = groupSize * kvHeads;
    // int8 KV is rounded as int8 rows are, with a scale per token and head.
    this.#stored = kvDtype === 'int8' ? throughRows('int8', received, headDim) : roundKv(received, kvDtype, headDim);
  }

  /** [(groupSize + 2) kvHeads, headDim] */
  write(target: Float32Array, token: Token, layer: number, query: Query): void {
    const start = this.#start(token, layer);
    target.set(given.subarray(start, start + target.length));
    if (query.scale === 1 && query.aim === undefined) return;
    const { headDim } = this.#geometry;
    for (let head = 0; head < this.#heads; head++) target.set(this.#query(token, layer, head, query), head * headDim);
  }

  /** What query head `head` of the row of `token` at `position` sees of `tokens`. */
  attend(tokens: readonly Token[], layer: number, position: number, head: number, token: Token, query: Query): Seen {
    const { groupSize, headDim, softmaxScale, windows } = this.#geometry;
    const window = windows[layer] ?? 0;
    const from = window === 0 ? 0 : Math.max(0, position + 1 - window);
    const to = Math.min(position + 1, tokens.length);
    const output = new Float64Array(headDim);
    if (from >= to) return { output, logSumExp: Number.NEGATIVE_INFINITY };
    const q = throughRows(this.#rowDtype, this.#query(token, layer, head, query), headDim);
    const stored = this.#stored;
    const kvHead = Math.floor(head / groupSize);
    const scores = new Float64Array(to - from);
    let largest = Number.NEGATIVE_INFINITY;
    for (let t = from; t < to; t++) {
      const at = this.#key(tokens[t] as Token, layer, kvHead);
      let dot = 0;
      for (let d = 0; d < headDim; d++) dot += (q[d] as number) * (stored[at + d] as number);
      scores[t - from] = dot * softmaxScale;
      largest = Math.max(largest, dot * softmaxScale);
    }
    const valuesFromKeys = this.#geometry.kvHeads * headDim;
    let sum = 0;
    for (let t = from; t < to; t++) {
      const at = this.#key(tokens[t] as Token, layer, kvHead) + valuesFromKeys;
      const weight = Math.exp((scores[t - from] as number) - largest);
      sum += weight;
      for (let d = 0; d < headDim; d++) output[d] = (output[d] as number) + weight * (stored[at + d] as number);
    }
    for (let d = 0; d < headDim; d++) output[d] = (output[d] as number) / sum;
    return { output, logSumExp: largest + Math.log(sum) };
  }

  #start(token: Token, layer: number): number {
    return ((token + layer * 4099) % this.tokens) * this.#geometry.headDim; // a token of each head_dim of the pool
  }

  #key(token: Token, layer: number, kvHead: number): number {
    return this.#start(token, layer) + (this.#heads + kvHead) * this.#geometry.headDim;
  }

  /** Of one head, as it is given. */
  #query(token: Token, layer: number, head: number, { scale, aim }: Query): Float32Array {
    const { groupSize, headDim } = this.#geometry;
    const [at, factor] =
      aim === undefined
        ? [this.#start(token, layer) + head * headDim, scale]
        : [this.#key(aim, layer, Math.floor(head / groupSize)), AIM];
    return given.slice(at, at + headDim).map((x) => x * factor);
  }
}

function throughRows(dtype: RowDtype, numbers: Float32Array, headDim: number): Float32Array {
  if (dtype === 'f32') return numbers;
  const heads = numbers.length / headDim;
  const bytes = new Uint8Array(rowBytes(dtype, heads, headDim));
  encodeRows(dtype, heads, headDim, numbers, bytes);
  const decoded = new Float32Array(numbers.length);
  decodeRows(dtype, heads, headDim, bytes, decoded);
  return decoded;
}
