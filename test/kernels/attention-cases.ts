/**
 * Attention over the paged KV cache against plain loops in double precision: one list of cases for Node and for browsers, run on
 * every build of the kernels. A case is several sequences that grow by the given runs of tokens, interleaved, so that
 * their blocks lie in no order; runs that begin before the end overwrite.
 */
import {
  type AttentionBackend,
  attentionKernelInfo,
  createInlineAttention,
  type Int8Kernel,
  type KernelBuild,
  type StepEntry,
} from '@glinthawk/attention';
import { type AttentionGeometry, type KvDtype, outputRowFloats, qkvRowFloats } from '@glinthawk/core';
import { roundKv } from '../reference/attention.ts';
import { errorOf, type Tolerance, tolerances, withinTolerance } from './tolerances.ts';

export const kvDtypes = ['f32', 'f16', 'bf16', 'int8'] as const satisfies readonly KvDtype[];

/** What each build runs for each dtype: int8 has two kernels in the relaxed build. */
export const kernelVariants: readonly {
  readonly name: string;
  readonly kvDtype: KvDtype;
  readonly build: KernelBuild;
  readonly int8: Int8Kernel;
}[] = (['relaxed', 'plain'] as const).flatMap((build) =>
  kvDtypes.flatMap((kvDtype) =>
    (kvDtype === 'int8' && build === 'relaxed' && attentionKernelInfo().int8 === 'dot'
      ? (['dot', 'pairs'] as const)
      : (['pairs'] as const)
    ).map((int8) => ({
      name: `${kvDtype}${kvDtype === 'int8' ? ` by ${int8}` : ''} KV, ${build} SIMD`,
      kvDtype,
      build,
      int8,
    })),
  ),
);

export interface AttentionCase {
  readonly name: string;
  readonly geometry: AttentionGeometry;
  readonly blockTokens: number;
  /** Of each sequence: how many tokens each step adds; negative goes back by as many tokens first. */
  readonly runs: readonly (readonly number[])[];
  /** Standard deviation of q; larger makes softmax peaked. Default 1. */
  readonly queryScale?: number;
}

interface Shape {
  readonly headDim?: number;
  readonly groupSize?: number;
  readonly kvHeads?: number;
  readonly windows?: readonly number[];
  readonly maxContextTokens?: number;
}

function geometry(shape: Shape): AttentionGeometry {
  const { headDim = 16, groupSize = 2, kvHeads = 2, windows = [0], maxContextTokens = 2048 } = shape;
  return {
    layers: windows.length,
    kvHeads,
    groupSize,
    headDim,
    softmaxScale: 1 / Math.sqrt(headDim),
    windows,
    maxContextTokens,
  };
}

const headDims = [2, 6, 8, 12, 16, 24, 32, 64, 80, 96, 128, 256];
const groupSizes = [1, 2, 3, 4, 5, 7, 8, 9, 13];
/** Around one block, two, four fused pages, and primes. */
const lengths = [1, 2, 7, 15, 16, 17, 31, 33, 37, 63, 64, 65, 79, 80, 81, 97, 127, 128, 129, 131];

export const attentionCases: readonly AttentionCase[] = [
  ...headDims.map((headDim) => ({
    name: `head_dim ${headDim}`,
    geometry: geometry({ headDim, groupSize: 3 }),
    blockTokens: 16,
    runs: [
      [19, 1, 1, 70, 1],
      [1, 1, 5],
    ],
  })),
  ...groupSizes.map((groupSize) => ({
    name: `${groupSize} query heads a KV head`,
    geometry: geometry({ groupSize, headDim: 24 }),
    blockTokens: 16,
    runs: [
      [1, 1, 1],
      [30, 2, 1, 100, 1],
      [17, 64, 1],
    ],
  })),
  {
    name: `decode at lengths ${lengths.join(', ')}`,
    geometry: geometry({ groupSize: 1, headDim: 32, kvHeads: 1 }),
    blockTokens: 16,
    runs: lengths.map((length) => (length === 1 ? [1] : [length - 1, 1])),
  },
  {
    name: `decode of groups of 4 at lengths ${lengths.join(', ')}`,
    geometry: geometry({ groupSize: 4, headDim: 8, kvHeads: 1 }),
    blockTokens: 16,
    runs: lengths.map((length) => (length === 1 ? [1] : [length - 1, 1])),
  },
  ...[1, 5, 15, 16, 17, 64, 200].map((chunk) => ({
    name: `prefill in chunks of ${chunk}`,
    geometry: geometry({ groupSize: 3, kvHeads: 1 }),
    blockTokens: 16,
    runs: [Array.from({ length: Math.min(12, Math.ceil(230 / chunk)) }, () => chunk), [chunk, 1, chunk]],
  })),
  ...[32, 64, 128, 256, 512].map((blockTokens) => ({
    name: `blocks of ${blockTokens} tokens`,
    geometry: geometry({ groupSize: 2, kvHeads: 1, headDim: 8 }),
    blockTokens,
    runs: [
      [blockTokens - 1, 1, 1, 1],
      [2 * blockTokens + 1, 1, blockTokens - 2, 1, 1, 1],
      [1, 3],
    ],
  })),
  {
    name: 'large pages of large heads, decode and prefill',
    geometry: geometry({ groupSize: 4, kvHeads: 2, headDim: 128 }),
    blockTokens: 64,
    runs: [
      [300, 1, 1],
      [63, 1, 1],
      [129, 40],
    ],
  },
  ...[
    [1, 2, 3],
    [5, 16, 17],
    [24, 0, 40],
  ].map((windows) => ({
    name: `windows of ${windows.join(', ')} by layer`,
    geometry: geometry({ windows, groupSize: 3, kvHeads: 1 }),
    blockTokens: 16,
    runs: [Array.from({ length: 40 }, () => 1), [100, 1, 1], [33, 70, 1]],
  })),
  {
    name: 'contexts of two splits, a window across them',
    geometry: geometry({ windows: [0, 2050], groupSize: 1, kvHeads: 1, headDim: 8, maxContextTokens: 4096 }),
    blockTokens: 32,
    runs: [
      [2046, 1, 1, 1, 1],
      [2100, 1, 30],
    ],
  },
  {
    name: 'positions written again',
    geometry: geometry({ windows: [0, 20] }),
    blockTokens: 16,
    runs: [
      [20, -5, 3, 1, -1],
      [40, 1, -1, 1, -3], // what left the window before is gone
      [16, -16, 1],
    ],
  },
  {
    name: 'peaked softmax: scores of large magnitude',
    geometry: geometry({ headDim: 64, groupSize: 2 }),
    blockTokens: 16,
    runs: [[150, 1, 1], [33]],
    queryScale: 12,
  },
];

/** xorshift32 (Marsaglia 2003): the same numbers everywhere. */
export function randomSource(seed: number): () => number {
  let state = seed | 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

/** About normal, variance 1: the sum of three uniforms. */
export function fillNormal(array: Float32Array, random: () => number, scale = 1): Float32Array {
  for (let i = 0; i < array.length; i++) array[i] = 2 * (random() + random() + random() - 1.5) * scale;
  return array;
}

/** One query head over tokens [from, to) of its KV head: the definition, in double precision. */
export function naiveAttention(
  q: ArrayLike<number>, // [headDim]
  keys: readonly ArrayLike<number>[], // [tokens][kvHeads, headDim]
  values: readonly ArrayLike<number>[],
  at: number,
  [from, to]: readonly [number, number],
  scale: number,
): Float64Array {
  const output = new Float64Array(q.length);
  let largest = Number.NEGATIVE_INFINITY;
  const scores = new Float64Array(to);
  for (let t = from; t < to; t++) {
    let dot = 0;
    for (let d = 0; d < q.length; d++) dot += (q[d] as number) * (keys[t]?.[at + d] as number);
    scores[t] = dot * scale;
    largest = Math.max(largest, dot * scale);
  }
  let total = 0;
  for (let t = from; t < to; t++) {
    const weight = Math.exp((scores[t] as number) - largest);
    total += weight;
    for (let d = 0; d < q.length; d++) output[d] = (output[d] as number) + weight * (values[t]?.[at + d] as number);
  }
  return output.map((x) => x / total);
}

interface Sequence {
  readonly entry: (position: number, count: number) => StepEntry;
  readonly runs: readonly number[];
  next: number;
  tokens: number;
  /** By layer and token, as given and as stored. */
  readonly given: { readonly keys: Float32Array[][]; readonly values: Float32Array[][] };
  readonly stored: { readonly keys: Float64Array[][]; readonly values: Float64Array[][] };
}

/** Query heads of a step that are compared, at most: the loops are slow. */
const COMPARED_HEADS = 60;

export interface CaseErrors {
  /** Over KV rounded to its dtype. */
  readonly kernel: Tolerance;
  /** Over KV as it was given. */
  readonly stored: Tolerance;
}

/** Runs a case on one build in this thread; what is beyond tolerance, or left behind, as text. */
export async function checkAttentionCase(
  testCase: AttentionCase,
  kvDtype: KvDtype,
  build: KernelBuild,
  int8: Int8Kernel,
): Promise<string[]> {
  const { geometry: shape, blockTokens } = testCase;
  const backend = await createInlineAttention(shape, { kvDtype, blockTokens, build, int8, memoryBytes: 256 << 20 });
  const errors = await runAttentionCase(backend, testCase);
  const { usedBlocks, openSlots } = backend.stats();
  await backend.close();
  return [
    ...beyondTolerance(errors, kvDtype, int8),
    ...(usedBlocks === 0 ? [] : [`${usedBlocks} blocks still in use`]),
    ...(openSlots === 0 ? [] : [`${openSlots} slots still open`]),
    ...(backend.allocatedBytes() === 0 ? [] : [`${backend.allocatedBytes()} bytes still held`]),
  ];
}

export function beyondTolerance(
  { kernel, stored }: CaseErrors,
  kvDtype: KvDtype,
  int8: Int8Kernel = attentionKernelInfo().int8,
): string[] {
  const row = kvDtype === 'int8' && int8 === 'dot' ? 'int8Dot' : kvDtype;
  const failures: string[] = [];
  for (const [what, error, tolerance] of [
    ['kernel', kernel, tolerances.attention[row]],
    ['stored', stored, tolerances.attentionStored[row]],
  ] as const) {
    if (!withinTolerance(error, tolerance)) {
      failures.push(`${what}: ${JSON.stringify(error)}, tolerance ${JSON.stringify(tolerance)}`);
    }
  }
  return failures;
}

/** Runs a case on a backend of its geometry, and frees its slots. */
export async function runAttentionCase(backend: AttentionBackend, testCase: AttentionCase): Promise<CaseErrors> {
  const { geometry: shape, runs, queryScale = 1 } = testCase;
  const { layers, kvHeads, groupSize, headDim, softmaxScale, windows } = shape;
  const heads = groupSize * kvHeads;
  const kvFloats = kvHeads * headDim;
  const random = randomSource(runs.length * 7919 + headDim * 31 + groupSize);
  const perLayer = <T>(): T[][] => Array.from({ length: layers }, () => []);
  const sequences: Sequence[] = runs.map((ofSequence, index) => {
    const slot = { index, generation: 1 };
    backend.open(slot, index % backend.capacity.shards.length);
    return {
      entry: (position, count) => ({ slot, position, count }),
      runs: ofSequence,
      next: 0,
      tokens: 0,
      given: { keys: perLayer<Float32Array>(), values: perLayer<Float32Array>() },
      stored: { keys: perLayer<Float64Array>(), values: perLayer<Float64Array>() },
    };
  });
  const actual: number[] = [];
  const byStored: number[] = [];
  const byGiven: number[] = [];

  for (let step = 0; sequences.some(({ next, runs: all }) => next < all.length); step++) {
    // A random half of what is left, by shard, so that blocks interleave.
    const left = sequences.filter(({ next, runs: all }) => next < all.length);
    const chosen = left.filter(() => random() < 0.5);
    const members = (chosen.length > 0 ? chosen : left.slice(0, 1)).sort(
      (a, b) => shardOf(a, backend) - shardOf(b, backend),
    );
    const entries = members.map((sequence) => {
      const run = sequence.runs[sequence.next++] as number;
      return sequence.entry(run < 0 ? sequence.tokens + run : sequence.tokens, Math.abs(run));
    });
    const rows = entries.reduce((sum, { count }) => sum + count, 0);
    backend.announce({ id: step, entries });
    for (let layer = 0; layer < layers; layer++) {
      const qkv = fillNormal(new Float32Array(rows * qkvRowFloats(shape)), random);
      const output = new Float32Array(rows * outputRowFloats(shape)).fill(Number.NaN);
      for (let row = 0; row < rows; row++) {
        const from = row * qkvRowFloats(shape);
        for (let i = 0; i < heads * headDim; i++) qkv[from + i] = (qkv[from + i] as number) * queryScale;
      }
      await backend.attend(step, layer, qkv, output);

      const window = windows[layer] ?? 0;
      const skip = Math.max(1, Math.floor((rows * heads) / COMPARED_HEADS));
      let row = 0;
      for (const [i, { position, count }] of entries.entries()) {
        const { given, stored } = members[i] as Sequence;
        for (let t = 0; t < count; t++) {
          const at = (row + t) * qkvRowFloats(shape) + heads * headDim;
          const k = qkv.slice(at, at + kvFloats);
          const v = qkv.slice(at + kvFloats, at + 2 * kvFloats);
          for (const [list, array] of [
            [given.keys, k],
            [given.values, v],
          ] as const)
            (list[layer] ?? [])[position + t] = array;
          for (const [list, array] of [
            [stored.keys, k],
            [stored.values, v],
          ] as const) {
            (list[layer] ?? [])[position + t] = roundKv(array, backend.kvDtype, headDim);
          }
        }
        for (let t = 0; t < count; t++, row++) {
          const end = position + t + 1;
          const range = [window === 0 ? 0 : Math.max(0, end - window), end] as const;
          for (let head = 0; head < heads; head++) {
            if ((row * heads + head) % skip !== 0 && t !== count - 1) continue;
            const q = qkv.subarray(row * qkvRowFloats(shape) + head * headDim).subarray(0, headDim);
            const at = Math.floor(head / groupSize) * headDim;
            const from = (row * heads + head) * headDim;
            actual.push(...output.subarray(from, from + headDim));
            for (const [expected, { keys, values }] of [
              [byStored, stored],
              [byGiven, given],
            ] as const) {
              expected.push(...naiveAttention(q, keys[layer] ?? [], values[layer] ?? [], at, range, softmaxScale));
            }
          }
        }
      }
    }
    for (const [i, { position, count }] of entries.entries()) {
      const sequence = members[i] as Sequence;
      sequence.tokens = Math.max(sequence.tokens, position + count);
    }
    backend.retire(step);
  }
  for (const { entry } of sequences) backend.free(entry(0, 1).slot);
  return { kernel: errorOf(actual, byStored), stored: errorOf(actual, byGiven) };
}

function shardOf({ entry }: Sequence, backend: AttentionBackend): number {
  return entry(0, 1).slot.index % backend.capacity.shards.length;
}
