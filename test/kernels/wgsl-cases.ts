/**
 * Every WGSL kernel in every variant, over ordinary and awkward shapes: one list for Node (Dawn) and Chromium. A case makes its
 * data when it runs, and says in words what is wrong.
 */
import { f32ArrayToF16, fillRopeTable } from '@glinthawk/core';
import type { Kernel } from '../../packages/dense/src/webgpu/kernel.ts';
import {
  embedKernel,
  HEAD_CHUNK,
  headCandidatesKernel,
  headMergeKernel,
  LIST_CANDIDATES,
  LIST_WORDS,
  type MatmulShape,
  matmulRowsKernel,
  matmulTilesKernel,
  rmsNormKernel,
  ropeKernel,
  swigluKernel,
  type WeightDtype,
  type WeightFormat,
} from '../../packages/dense/src/webgpu/kernels.ts';
import { randomNormal, randomSource } from './random-model.ts';
import { errorOf, type Tolerance, tolerances, withinTolerance } from './tolerances.ts';
import { headReference, matmulReference, rmsNormReference, ropeReference, siluReference } from './wgsl-references.ts';
import type { WgslRunner } from './wgsl-runner.ts';

export interface WgslCase {
  readonly name: string;
  /** The kernels that it runs: it can't where the device lacks a feature of one. */
  readonly kernels: readonly Kernel<never>[];
  /** @returns what is wrong; null when nothing is. */
  run(runner: WgslRunner): Promise<string | null>;
}

const octets = (elements: number) => Math.ceil(elements / 8);
const padded = (elements: number) => octets(elements) * 8;

/** What the sums of a kernel never reach: an untouched element of an output is still this. */
const UNTOUCHED = 7e7;

function compare(what: string, actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: Tolerance) {
  if (actual.length !== expected.length) return `${what}: ${actual.length} elements, expected ${expected.length}`;
  const error = errorOf(actual, expected);
  return withinTolerance(error, tolerance) ? null : `${what}: nmse ${error.nmse}, max abs ${error.maxAbs}`;
}

/** Rows of `width` padded with zeros to `stride`. */
function padRows(values: Float32Array, width: number, stride: number): Float32Array<ArrayBuffer> {
  const rows = values.length / width;
  const result = new Float32Array(rows * stride);
  for (let row = 0; row < rows; row++) result.set(values.subarray(row * width, (row + 1) * width), row * stride);
  return result;
}

/** The first `width` elements of each row of `stride`. */
function unpadRows(values: Float32Array, width: number, stride: number): Float32Array<ArrayBuffer> {
  const rows = values.length / stride;
  const result = new Float32Array(rows * width);
  for (let row = 0; row < rows; row++) result.set(values.subarray(row * stride, row * stride + width), row * width);
  return result;
}

function toHalf(values: Float32Array): Uint16Array<ArrayBuffer> {
  const half = new Uint16Array(values.length);
  f32ArrayToF16(values, half);
  return half;
}

function encode(values: Float32Array<ArrayBuffer>, dtype: WeightDtype) {
  return dtype === 'f32' ? values : toHalf(values);
}

/** The values as the dtype holds them. */
function rounded(values: Float32Array, dtype: WeightDtype): Float32Array {
  return dtype === 'f32' ? values : Float32Array.from(new Float16Array(toHalf(values).buffer));
}

function embedCase(dtype: WeightDtype, rows: number, vocab: number, width: number, parts: number): WgslCase {
  const kernel = embedKernel(dtype);
  return {
    name: `embed ${dtype} [${rows}] of [${vocab}, ${width}] in ${parts}`,
    kernels: [kernel],
    async run(runner) {
      const random = randomSource(rows * 31 + width);
      const stride = padded(width);
      const table = randomNormal(random, vocab * width);
      const ids = Uint32Array.from({ length: rows }, (_, i) => (i === 0 ? vocab - 1 : Math.floor(random() * vocab)));
      let residual = new Float32Array(rows * stride).fill(UNTOUCHED);
      const partRows = Math.ceil(vocab / parts);
      for (let first = 0; first < vocab; first += partRows) {
        const tokens = Math.min(partRows, vocab - first);
        const part = padRows(table.subarray(first * width, (first + tokens) * width), width, stride);
        const [bytes] = await runner.run({
          kernel,
          shape: { rows, width: stride },
          params: { rows, stride, first_token: first, tokens },
          inputs: [encode(part, dtype), ids],
          outputs: [residual],
        });
        residual = new Float32Array(bytes as ArrayBuffer);
      }
      const expected = rounded(table, dtype);
      const gathered = Float32Array.from(ids).length * width;
      const rowsOf = new Float32Array(gathered);
      ids.forEach((id, row) => {
        rowsOf.set(expected.subarray(id * width, (id + 1) * width), row * width);
      });
      return compare('residual', residual, padRows(rowsOf, width, stride), tolerances.wgsl.exact);
    },
  };
}

function rmsNormCase(rows: number, width: number, gather: boolean, scale = 1): WgslCase {
  const kernel = rmsNormKernel();
  return {
    name: `rms_norm [${rows}, ${width}]${gather ? ' gathered' : ''}${scale === 1 ? '' : ` of ${scale}`}`,
    kernels: [kernel],
    async run(runner) {
      const random = randomSource(rows * 7 + width);
      const stride = padded(width);
      const eps = 1e-5;
      const x = randomNormal(random, rows * width, scale);
      const weight = randomNormal(random, width, 0.2, 1);
      // Gathered: every other row, from the last.
      const indices = Uint32Array.from({ length: gather ? Math.ceil(rows / 2) : rows }, (_, i) =>
        gather ? rows - 1 - 2 * i : i,
      );
      const [bytes] = await runner.run({
        kernel,
        shape: { rows: indices.length },
        params: { rows: indices.length, width, stride, gather: gather ? 1 : 0, eps },
        inputs: [padRows(x, width, stride), weight, gather ? indices : new Uint32Array(1)],
        outputs: [new Float32Array(indices.length * stride)],
      });
      const expected = new Float64Array(indices.length * width);
      indices.forEach((from, row) => {
        expected.set(rmsNormReference(x.subarray(from * width, (from + 1) * width), weight, eps), row * width);
      });
      const y = new Float32Array(bytes as ArrayBuffer);
      const problem = compare('y', unpadRows(y, width, stride), expected, tolerances.wgsl.f32);
      const padding = y.some((value, i) => i % stride >= width && value !== 0);
      return problem ?? (padding ? 'padding was written' : null);
    },
  };
}

interface MatmulCase {
  readonly rows: number;
  readonly inputs: number;
  readonly outputs: number;
  readonly bias?: boolean;
  readonly accumulate?: boolean;
  /** A part of a larger matrix: where its outputs begin, in rows of y that are longer; and the first row of x. */
  readonly part?: boolean;
}

function matmulCase(kernel: Kernel<MatmulShape>, format: WeightFormat, shape: MatmulCase): WgslCase {
  const { rows, inputs, outputs, bias = false, accumulate = false, part = false } = shape;
  const notes = [bias ? ' + bias' : '', accumulate ? ' + y' : '', part ? ', part' : ''].join('');
  const { ROW_LANES, SINGLE_ROW } = kernel.constants;
  const tile = ROW_LANES ? `, tiles of ${ROW_LANES * 8}` : SINGLE_ROW ? ', single' : '';
  return {
    name: `${kernel.name} ${format} [${rows}, ${inputs}] × [${outputs}]${notes}${tile}`,
    kernels: [kernel],
    async run(runner) {
      const random = randomSource(rows * 101 + inputs * 7 + outputs);
      const dtype = format === 'f32' ? 'f32' : 'f16';
      const firstRow = part ? 2 : 0;
      const firstOutput = part ? 3 : 0;
      const yStride = outputs + (part ? 5 : 0);
      const x = randomNormal(random, (firstRow + rows) * inputs);
      const weights = randomNormal(random, outputs * inputs, 1 / Math.sqrt(inputs));
      const biases = randomNormal(random, firstOutput + outputs);
      const before = accumulate
        ? randomNormal(random, rows * yStride)
        : new Float32Array(rows * yStride).fill(UNTOUCHED);
      const stride = padded(inputs);
      const [bytes] = await runner.run({
        kernel,
        shape: { rows, outputs },
        params: {
          rows,
          first_row: firstRow,
          octets: octets(inputs),
          outputs,
          first_output: firstOutput,
          y_stride: yStride,
          has_bias: bias ? 1 : 0,
          accumulate: accumulate ? 1 : 0,
        },
        inputs: [
          padRows(x, inputs, stride),
          encode(padRows(weights, inputs, stride), dtype),
          bias ? biases : new Float32Array(1),
        ],
        outputs: [before],
      });
      const columns = (y: Float32Array) =>
        unpadRows(
          y.subarray(firstOutput).length === y.length ? y : shiftRows(y, yStride, firstOutput),
          outputs,
          yStride,
        );
      const data = {
        x: x.subarray(firstRow * inputs),
        weights: rounded(weights, dtype),
        bias: bias ? biases.subarray(firstOutput) : null,
        added: accumulate ? columns(before) : null,
      };
      const y = new Float32Array(bytes as ArrayBuffer);
      const problem = compare('y', columns(y), matmulReference(data, rows, inputs, outputs), tolerances.wgsl.f32);
      const outside = y.findIndex((value, i) => {
        const column = i % yStride;
        return (column < firstOutput || column >= firstOutput + outputs) && value !== before[i];
      });
      return problem ?? (outside >= 0 ? `element ${outside} outside the part was written` : null);
    },
  };
}

/** Rows of `stride` with their first `columns` elements left out (and as many zeros at the end). */
function shiftRows(values: Float32Array, stride: number, columns: number): Float32Array<ArrayBuffer> {
  const result = new Float32Array(values.length);
  for (let at = 0; at < values.length; at += stride) result.set(values.subarray(at + columns, at + stride), at);
  return result;
}

function ropeCase(rows: number, heads: number, kvHeads: number, headDim: number, normed: boolean): WgslCase {
  const kernel = ropeKernel(headDim);
  return {
    name: `rope [${rows}, ${heads} + ${kvHeads}, ${headDim}]${normed ? ' normed' : ''}`,
    kernels: [kernel],
    async run(runner) {
      const random = randomSource(rows * 13 + heads * 5 + headDim);
      const width = (heads + 2 * kvHeads) * headDim;
      const half = headDim / 2;
      const eps = 1e-6;
      const qkv = randomNormal(random, rows * width);
      const qNorm = randomNormal(random, headDim, 0.2, 1);
      const kNorm = randomNormal(random, headDim, 0.2, 1);
      const table = new Float32Array(rows * headDim);
      const inverse = Float64Array.from({ length: half }, (_, i) => 10000 ** (-i / half));
      fillRopeTable(
        { inverse, amplitude: 1.2 },
        Uint32Array.from({ length: rows }, (_, i) => i * 37),
        table,
      );
      const [bytes] = await runner.run({
        kernel,
        shape: { rows, heads: heads + kvHeads },
        params: { rows, q_heads: heads, k_heads: kvHeads, head_dim: headDim, normed: normed ? 1 : 0, eps },
        inputs: [table, normed ? qNorm : new Float32Array(1), normed ? kNorm : new Float32Array(1)],
        outputs: [qkv],
      });
      const expected = Float64Array.from(qkv);
      for (let row = 0; row < rows; row++) {
        const cosines = table.subarray(row * headDim, row * headDim + half);
        const sines = table.subarray(row * headDim + half, (row + 1) * headDim);
        for (let head = 0; head < heads + kvHeads; head++) {
          const at = row * width + head * headDim;
          const raw = qkv.subarray(at, at + headDim);
          const input = normed ? rmsNormReference(raw, head < heads ? qNorm : kNorm, eps) : raw;
          expected.set(ropeReference(input, cosines, sines), at);
        }
      }
      return compare('qkv', new Float32Array(bytes as ArrayBuffer), expected, tolerances.wgsl.f32);
    },
  };
}

function swigluCase(rows: number, width: number, scale = 1): WgslCase {
  const kernel = swigluKernel();
  return {
    name: `swiglu [${rows}, ${width}]${scale === 1 ? '' : ` of ${scale}`}`,
    kernels: [kernel],
    async run(runner) {
      const random = randomSource(rows + width);
      const stride = padded(width);
      const gateUp = randomNormal(random, rows * 2 * width);
      for (let i = 0; i < gateUp.length; i++) if (i % (2 * width) < width) gateUp[i] = (gateUp[i] as number) * scale;
      const [bytes] = await runner.run({
        kernel,
        shape: { rows, width },
        params: { rows, width, y_stride: stride },
        inputs: [gateUp],
        outputs: [new Float32Array(rows * stride)],
      });
      const expected = new Float64Array(rows * width);
      for (let row = 0; row < rows; row++) {
        for (let i = 0; i < width; i++) {
          const at = row * 2 * width + i;
          expected[row * width + i] = (siluReference(gateUp[at] as number) * (gateUp[at + width] as number)) / scale;
        }
      }
      const y = unpadRows(new Float32Array(bytes as ArrayBuffer), width, stride).map((value) => value / scale);
      return compare('y', y, expected, tolerances.wgsl.f32);
    },
  };
}

type LogitsOf = (random: () => number, vocab: number) => Float32Array<ArrayBuffer>;
const LOGITS: Readonly<Record<string, LogitsOf>> = {
  normal: (random, vocab) => randomNormal(random, vocab, 3),
  'many ties': (random, vocab) => randomNormal(random, vocab, 2).map(Math.round),
  'all equal': (_, vocab) => new Float32Array(vocab).fill(-1.5),
  ascending: (_, vocab) => Float32Array.from({ length: vocab }, (_, i) => i / 64),
  descending: (_, vocab) => Float32Array.from({ length: vocab }, (_, i) => -i / 64),
  'far apart': (random, vocab) => randomNormal(random, vocab, 1e4),
};

function headCase(rows: number, vocab: number, logitsName: string): WgslCase {
  const candidates = headCandidatesKernel();
  const merge = headMergeKernel();
  return {
    name: `head_candidates, head_merge [${rows}, ${vocab}] ${logitsName}`,
    kernels: [candidates, merge],
    async run(runner) {
      const random = randomSource(rows + vocab);
      const chunks = Math.ceil(vocab / HEAD_CHUNK);
      const firstRow = 1;
      const inverseTemperatures = Float32Array.from(
        { length: firstRow + rows },
        (_, i) => [1, 0.5, 1, 20, 1e4][i % 5] ?? 1,
      );
      const perRow = Array.from({ length: rows }, () => LOGITS[logitsName]?.(random, vocab) ?? new Float32Array(vocab));
      const logits = new Float32Array(rows * vocab);
      for (const [row, values] of perRow.entries()) logits.set(values, row * vocab);
      const [lists] = await runner.run({
        kernel: candidates,
        shape: { rows, chunks },
        params: { rows, first_row: firstRow, vocab, chunks },
        inputs: [logits, inverseTemperatures],
        outputs: [new Uint32Array(rows * chunks * LIST_WORDS)],
      });
      const [results] = await runner.run({
        kernel: merge,
        shape: { rows, chunks },
        params: { rows, first_row: firstRow, chunks },
        inputs: [new Uint32Array(lists as ArrayBuffer), inverseTemperatures],
        outputs: [new Uint32Array((firstRow + rows) * LIST_WORDS)],
      });
      const words = new Uint32Array(results as ArrayBuffer);
      const floats = new Float32Array(results as ArrayBuffer);
      for (const [row, values] of perRow.entries()) {
        const count = Math.min(LIST_CANDIDATES, vocab);
        const inverseTemperature = inverseTemperatures[firstRow + row] as number;
        const expected = headReference(values, inverseTemperature, count);
        const at = (firstRow + row) * LIST_WORDS;
        const ids = words.subarray(at, at + count);
        const wrong = expected.ids.findIndex((id, i) => ids[i] !== id);
        if (wrong >= 0) return `row ${row}: candidate ${wrong} is ${ids[wrong]}, expected ${expected.ids[wrong]}`;
        const best = floats[at + LIST_CANDIDATES] as number;
        const sums = [
          best + Math.log(floats[at + 2 * LIST_CANDIDATES] as number),
          best * inverseTemperature + Math.log(floats[at + 2 * LIST_CANDIDATES + 1] as number),
        ];
        const problem =
          compare(
            `row ${row}: logits`,
            floats.subarray(at + LIST_CANDIDATES, at + LIST_CANDIDATES + count),
            expected.logits,
            tolerances.wgsl.exact,
          ) ??
          compare(`row ${row}: log-sum-exp`, sums, [expected.logSumExp, expected.scaledLogSumExp], tolerances.wgsl.f32);
        if (problem) return problem;
      }
      return null;
    },
  };
}

/** 1, a prime, tile − 1, tile and tile + 1 in every dimension, and the shapes of real models. */
const rowsShapes: readonly MatmulCase[] = [
  { rows: 1, inputs: 64, outputs: 64 },
  { rows: 1, inputs: 1, outputs: 1, bias: true },
  { rows: 3, inputs: 172, outputs: 64, accumulate: true },
  { rows: 4, inputs: 127, outputs: 15, bias: true },
  { rows: 5, inputs: 129, outputs: 17, bias: true, accumulate: true, part: true },
  { rows: 8, inputs: 576, outputs: 257 },
];
const singleRowShapes: readonly MatmulCase[] = [
  { rows: 1, inputs: 1, outputs: 17, bias: true },
  { rows: 1, inputs: 172, outputs: 64, bias: true, accumulate: true, part: true },
  { rows: 1, inputs: 576, outputs: 257 },
];
const tileShapes = (tile: number): readonly MatmulCase[] => [
  { rows: 1, inputs: 7, outputs: 1 },
  { rows: tile - 1, inputs: 15, outputs: 63, bias: true },
  { rows: tile, inputs: 64, outputs: 64, accumulate: true },
  { rows: tile + 1, inputs: 172, outputs: 65, bias: true, accumulate: true, part: true },
];
const formats: readonly WeightFormat[] = ['f32', 'f16', 'packed'];

export const wgslCases: readonly WgslCase[] = [
  embedCase('f32', 1, 257, 64, 1),
  embedCase('f32', 67, 512, 172, 3),
  embedCase('f16', 7, 257, 65, 1),
  embedCase('f16', 67, 512, 172, 3),
  ...[1, 63, 64, 65, 576].flatMap((width) => [rmsNormCase(3, width, false), rmsNormCase(5, width, true)]),
  rmsNormCase(512, 64, false),
  rmsNormCase(2, 4096, false, 1e4),
  rmsNormCase(2, 64, false, 1e-6),
  ...formats.flatMap((format) => [
    ...rowsShapes.map((shape) => matmulCase(matmulRowsKernel(format), format, shape)),
    ...singleRowShapes.map((shape) => matmulCase(matmulRowsKernel(format, true), format, shape)),
    ...[16, 32, 64].flatMap((tile) =>
      tileShapes(tile).map((shape) => matmulCase(matmulTilesKernel(format, tile), format, shape)),
    ),
    matmulCase(matmulTilesKernel(format, 64), format, { rows: 512, inputs: 64, outputs: 48 }),
  ]),
  ropeCase(1, 8, 4, 8, false),
  ropeCase(7, 9, 3, 64, true),
  ropeCase(5, 3, 1, 24, true),
  ropeCase(3, 1, 1, 2, true),
  ropeCase(64, 4, 2, 32, false),
  ropeCase(2, 2, 1, 256, true),
  swigluCase(1, 1),
  swigluCase(3, 63),
  swigluCase(2, 64),
  swigluCase(65, 172),
  swigluCase(2, 65, 1e4),
  headCase(1, 1, 'normal'),
  headCase(3, 40, 'normal'),
  headCase(4, 257, 'many ties'),
  headCase(2, 1023, 'ascending'),
  headCase(2, 1024, 'descending'),
  headCase(5, 1025, 'normal'),
  headCase(1, 2048, 'all equal'),
  headCase(2, 17_000, 'many ties'),
  headCase(2, 49_152, 'ascending'),
  headCase(3, 49_152, 'far apart'),
];
