/**
 * What is measured: attention of some rows over KV of a given length, without any say in how. Counts the work in bytes and
 * operations as the algorithm needs them at least, whoever does it, and makes the same numbers for everybody from one seed.
 */
import type { AttentionGeometry } from '@glinthawk/core';
import { fillNormal, randomSource } from '../../kernels/attention-cases.ts';

export interface Work {
  readonly headDim: number;
  /** Query heads per KV head. */
  readonly group: number;
  readonly kvHeads: number;
  /** Tokens that the last row of a sequence sees, itself among them. */
  readonly context: number;
  readonly sequences: number;
  /** New tokens of each sequence: 1 is decode, more a prefill chunk. */
  readonly chunk: number;
  /** KV is as large as the caches of one core allow, or larger than all of them. */
  readonly place: 'cache' | 'dram';
}

export function workName({ headDim, group, kvHeads, context, sequences, chunk, place }: Work): string {
  const rows = chunk === 1 ? `x${sequences}` : sequences === 1 ? `chunk ${chunk}` : `chunk ${chunk} x${sequences}`;
  return `d${headDim} g${group} kv${kvHeads} ctx ${context} ${rows}${place === 'cache' ? ' cache' : ''}`;
}

export function geometryOf(work: Work, layers: number, windows = 0): AttentionGeometry {
  return {
    layers,
    kvHeads: work.kvHeads,
    groupSize: work.group,
    headDim: work.headDim,
    softmaxScale: 1 / Math.sqrt(work.headDim),
    windows: Array.from({ length: layers }, () => windows),
    // What a node is asked to serve decides how large blocks are; few serve less than this.
    maxContextTokens: Math.max(8192, work.context),
  };
}

/** Pairs of a row and a token that it sees, of one sequence. */
export function visibleTokens({ context, chunk }: Work): number {
  return chunk * (context - chunk) + (chunk * (chunk + 1)) / 2;
}

/** A multiplication and an addition for q·k, and for p·v, of every element: what softmax and scales take is left out. */
export function operations(work: Work): number {
  return visibleTokens(work) * work.sequences * work.kvHeads * work.group * work.headDim * 4;
}

/** The numbers repeat after as many tokens, so that long contexts take no time to make. */
export const PERIOD_TOKENS = 1024;

export interface WorkData {
  readonly period: number;
  readonly q: Float32Array; // [sequences, chunk, kvHeads, group, headDim]
  readonly k: Float32Array; // [period, kvHeads, headDim]; token t has row t % period
  readonly v: Float32Array;
}

/** Every sequence has the same KV and a q of its own. In shared memory, so that workers needn't make it again. */
export function workData(work: Work): WorkData {
  const { headDim, group, kvHeads, context, sequences, chunk } = work;
  const random = randomSource(headDim * 8191 + group * 131 + context);
  const normal = (floats: number) => fillNormal(new Float32Array(new SharedArrayBuffer(4 * floats)), random);
  const period = Math.min(context, PERIOD_TOKENS);
  return {
    period,
    q: normal(sequences * chunk * kvHeads * group * headDim),
    k: normal(period * kvHeads * headDim),
    v: normal(period * kvHeads * headDim),
  };
}

/** What one thread does of it. */
export interface Share {
  readonly firstSequence: number;
  readonly sequences: number;
  readonly firstHead: number;
  readonly kvHeads: number;
}

/** By sequence where there are enough, else by KV head; a thread may be left with nothing. */
export function shareWork({ sequences, kvHeads }: Work, threads: number): readonly Share[] {
  const split = (n: number, i: number) => Math.floor((n * i) / threads);
  return Array.from({ length: threads }, (_, i) =>
    sequences >= threads
      ? {
          firstSequence: split(sequences, i),
          sequences: split(sequences, i + 1) - split(sequences, i),
          firstHead: 0,
          kvHeads,
        }
      : {
          firstSequence: 0,
          sequences,
          firstHead: split(kvHeads, i),
          kvHeads: split(kvHeads, i + 1) - split(kvHeads, i),
        },
  ).filter((share) => share.sequences > 0 && share.kvHeads > 0);
}

/** What a thread does in two milliseconds or so, in f32. */
const PIECE_BYTES = 48e6;
const PIECE_OPERATIONS = 80e6;

/**
 * How many sequences of its share a thread attends in one step. Few, so that a measurement ends before the scheduler gives the
 * processor to somebody else; kernels take sequence by sequence anyway.
 */
export function pieceSequences(work: Work, shares: readonly Share[]): number {
  const kvHeads = Math.max(...shares.map((share) => share.kvHeads));
  const bytes = work.context * kvHeads * work.headDim * 8;
  const wanted = Math.min(PIECE_BYTES / bytes, PIECE_OPERATIONS / operations({ ...work, sequences: 1, kvHeads }));
  for (let pieces = Math.max(1, Math.floor(wanted)); pieces > 1; pieces--) {
    if (shares.every(({ sequences }) => sequences % pieces === 0)) return pieces;
  }
  return 1;
}

/** The definition in double precision, of one query head of one row. */
export function exactRow(work: Work, { period, q, k, v }: WorkData, sequence: number, token: number, head: number) {
  const { headDim, group, kvHeads, context, chunk } = work;
  const from = ((sequence * chunk + token) * kvHeads * group + head) * headDim;
  const at = Math.floor(head / group) * headDim;
  const end = context - chunk + token + 1;
  const scores = new Float64Array(end);
  let largest = Number.NEGATIVE_INFINITY;
  for (let t = 0; t < end; t++) {
    const row = (t % period) * kvHeads * headDim + at;
    let dot = 0;
    for (let d = 0; d < headDim; d++) dot += (q[from + d] as number) * (k[row + d] as number);
    scores[t] = dot / Math.sqrt(headDim);
    largest = Math.max(largest, scores[t] as number);
  }
  const output = new Float64Array(headDim);
  let total = 0;
  for (let t = 0; t < end; t++) {
    const row = (t % period) * kvHeads * headDim + at;
    const weight = Math.exp((scores[t] as number) - largest);
    total += weight;
    for (let d = 0; d < headDim; d++) output[d] = (output[d] as number) + weight * (v[row + d] as number);
  }
  return output.map((x) => x / total);
}
