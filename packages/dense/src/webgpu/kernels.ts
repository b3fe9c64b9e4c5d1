/**
 * The dense tier's kernels, one declaration for each file of shaders/. What a kernel computes stands in its shader; here is
 * what the host must know to launch it.
 */
import type { Kernel, KernelBinding, KernelParam } from './kernel.ts';
import { SHADERS } from './shaders.gen.ts';

/** How a matrix's elements lie in memory: f16 is the same bytes whether a kernel reads them as f16 or packed in words. */
export type WeightDtype = 'f32' | 'f16';
/** How kernels read weights: `packed` is f16 in u32 words, for adapters without shader-f16. */
export type WeightFormat = 'f32' | 'f16' | 'packed';

const bindings = (inputs: readonly string[], outputs: readonly string[]): readonly KernelBinding[] => [
  ...inputs.map((name) => ({ name, kind: 'input' as const })),
  ...outputs.map((name) => ({ name, kind: 'output' as const })),
  { name: 'params', kind: 'params' },
];
const u32 = (...names: readonly string[]): readonly KernelParam[] => names.map((name) => ({ name, type: 'u32' }));
const f32 = (...names: readonly string[]): readonly KernelParam[] => names.map((name) => ({ name, type: 'f32' }));
const ceilDiv = (a: number, b: number) => Math.ceil(a / b);

/** The most candidates that the head kernels keep, and the words of one of their lists. */
export const LIST_CANDIDATES = 64;
export const LIST_WORDS = 2 * LIST_CANDIDATES + 4;
/** Logits that one workgroup of head_candidates looks at. */
export const HEAD_CHUNK = 1024;

/** More threads would finish a chunk sooner on a GPU; adapters made of CPU threads pay for each at each barrier. */
const HEAD_THREADS = 64;

export interface RowsShape {
  readonly rows: number;
}
export interface RowsWidthShape extends RowsShape {
  /** Elements of a row. */
  readonly width: number;
}

export function embedKernel(dtype: WeightDtype): Kernel<RowsWidthShape> {
  const lanes = 64;
  return {
    name: 'embed',
    wgsl: SHADERS.embed,
    bindings: bindings(['table', 'token_ids'], ['residual']),
    params: u32('rows', 'stride', 'first_token', 'tokens'),
    constants: { TABLE_F16: dtype === 'f16' ? 1 : 0, LANES: lanes },
    features: [],
    dispatch: ({ rows, width }) => [ceilDiv(width / 2, lanes), rows, 1],
  };
}

export function rmsNormKernel(): Kernel<RowsShape> {
  return {
    name: 'rms_norm',
    wgsl: SHADERS.rms_norm,
    bindings: bindings(['x', 'weight', 'row_indices'], ['y']),
    params: [...u32('rows', 'width', 'stride', 'gather'), ...f32('eps')],
    constants: { LANES: 64 },
    features: [],
    dispatch: ({ rows }) => [rows, 1, 1],
  };
}

export interface MatmulShape extends RowsShape {
  readonly outputs: number;
}
const matmulBindings = bindings(['x', 'weights', 'bias'], ['y']);
const matmulParams = u32(
  'rows',
  'first_row',
  'octets',
  'outputs',
  'first_output',
  'y_stride',
  'has_bias',
  'accumulate',
);

/** For few rows: each weight is read once for every four; or for one row alone. */
export function matmulRowsKernel(format: WeightFormat, singleRow = false): Kernel<MatmulShape> {
  const groups = 4;
  const tuning = { LANES: 16, GROUPS: groups, SINGLE_ROW: singleRow ? 1 : 0 };
  return {
    name: format === 'f16' ? 'matmul_rows_f16' : 'matmul_rows',
    wgsl: format === 'f16' ? SHADERS.matmul_rows_f16 : SHADERS.matmul_rows,
    bindings: matmulBindings,
    params: matmulParams,
    constants: format === 'f16' ? tuning : { WEIGHTS_F16: format === 'packed' ? 1 : 0, ...tuning },
    features: format === 'f16' ? ['shader-f16'] : [],
    dispatch: ({ rows, outputs }) => [ceilDiv(outputs, 4 * groups), ceilDiv(rows, 4), 1],
  };
}

/** For many rows: tiles of `tileRows` (16, 32 or 64) rows by 64 outputs. */
export function matmulTilesKernel(format: WeightFormat, tileRows: number): Kernel<MatmulShape> {
  const tuning = { ROW_LANES: tileRows / 8 };
  return {
    name: format === 'f16' ? 'matmul_tiles_f16' : 'matmul_tiles',
    wgsl: format === 'f16' ? SHADERS.matmul_tiles_f16 : SHADERS.matmul_tiles,
    bindings: matmulBindings,
    params: matmulParams,
    constants: format === 'f16' ? tuning : { WEIGHTS_F16: format === 'packed' ? 1 : 0, ...tuning },
    features: format === 'f16' ? ['shader-f16'] : [],
    dispatch: ({ rows, outputs }) => [ceilDiv(outputs, 64), ceilDiv(rows, tileRows), 1],
  };
}

/** A kernel that serves up to so many rows; the variants of one operation ascend. */
export interface KernelVariant<Shape> {
  readonly upToRows: number;
  readonly kernel: Kernel<Shape>;
}

/** Few rows would leave most of a tile idle, so each size of micro-batch has its matmul. */
export function matmulVariants(format: WeightFormat): readonly KernelVariant<MatmulShape>[] {
  return [
    { upToRows: 1, kernel: matmulRowsKernel(format, true) },
    { upToRows: 16, kernel: matmulRowsKernel(format) },
    { upToRows: 32, kernel: matmulTilesKernel(format, 32) },
    { upToRows: Number.POSITIVE_INFINITY, kernel: matmulTilesKernel(format, 64) },
  ];
}

export interface RopeShape extends RowsShape {
  /** Heads of q and of k. */
  readonly heads: number;
}

export function ropeKernel(headDim: number): Kernel<RopeShape> {
  // A thread for each pair of a head where that makes 4 to 64 of them, and whole workgroups of 64.
  let lanes = 4;
  while (lanes < headDim / 2 && lanes < 64) lanes *= 2;
  const heads = 64 / lanes;
  return {
    name: 'rope',
    wgsl: SHADERS.rope,
    bindings: bindings(['table', 'q_norm', 'k_norm'], ['qkv']),
    params: [...u32('rows', 'q_heads', 'k_heads', 'head_dim', 'normed'), ...f32('eps')],
    constants: { LANES: lanes, HEADS: heads },
    features: [],
    dispatch: (shape) => [ceilDiv(shape.heads, heads), shape.rows, 1],
  };
}

export function swigluKernel(): Kernel<RowsWidthShape> {
  const lanes = 64;
  return {
    name: 'swiglu',
    wgsl: SHADERS.swiglu,
    bindings: bindings(['gate_up'], ['y']),
    params: u32('rows', 'width', 'y_stride'),
    constants: { LANES: lanes },
    features: [],
    dispatch: ({ rows, width }) => [ceilDiv(width, lanes), rows, 1],
  };
}

export interface HeadShape extends RowsShape {
  /** Lists that each row's logits make: ceil(vocab / HEAD_CHUNK). */
  readonly chunks: number;
}

export function headCandidatesKernel(): Kernel<HeadShape> {
  return {
    name: 'head_candidates',
    wgsl: SHADERS.head_candidates,
    bindings: bindings(['logits', 'inverse_temperatures'], ['lists']),
    params: u32('rows', 'first_row', 'vocab', 'chunks'),
    constants: { THREADS: HEAD_THREADS },
    features: [],
    dispatch: ({ rows, chunks }) => [chunks, rows, 1],
  };
}

export function headMergeKernel(): Kernel<HeadShape> {
  return {
    name: 'head_merge',
    wgsl: SHADERS.head_merge,
    bindings: bindings(['lists', 'inverse_temperatures'], ['results']),
    params: u32('rows', 'first_row', 'chunks'),
    constants: { THREADS: HEAD_THREADS },
    features: [],
    dispatch: ({ rows }) => [rows, 1, 1],
  };
}

/** Every kernel in every variant that some device or model may choose: what tests go through. */
export function allKernels(): readonly Kernel<never>[] {
  const formats: readonly WeightFormat[] = ['f32', 'f16', 'packed'];
  return [
    embedKernel('f32'),
    embedKernel('f16'),
    rmsNormKernel(),
    ...formats.flatMap((format) => [
      matmulRowsKernel(format, true),
      matmulRowsKernel(format),
      ...[16, 32, 64].map((tile) => matmulTilesKernel(format, tile)),
    ]),
    ropeKernel(8),
    ropeKernel(128),
    swigluKernel(),
    headCandidatesKernel(),
    headMergeKernel(),
  ];
}
