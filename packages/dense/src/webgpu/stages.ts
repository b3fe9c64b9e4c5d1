/**
 * The stages of a Transformer's dense layers as lists of launches: embedding, pre-attention, post-attention and head. What is
 * computed, in which order and on which buffers, stands here and only here.
 */
import type { ModelConfig } from '@glinthawk/core';
import {
  embedKernel,
  HEAD_CHUNK,
  headCandidatesKernel,
  headMergeKernel,
  matmulVariants,
  rmsNormKernel,
  ropeKernel,
  swigluKernel,
  type WeightFormat,
} from './kernels.ts';
import { type LaunchSpec, launchSpec, only, type RowScope } from './launch.ts';
import { type GpuMatrix, paddedTo8 } from './matrix.ts';
import type { GpuLayer, GpuWeights } from './model-weights.ts';
import type { Scratch } from './scratch.ts';

/** What one batch brings: its residual, and the sections of its step's inputs. */
export interface BatchBuffers {
  readonly residual: GPUBuffer; // [maxRows, hiddenStride]
  readonly headNormed: GPUBuffer; // [maxHeadRows, hiddenStride]
  readonly tokenIds: GPUBufferBinding; // [maxRows] u32
  readonly headRows: GPUBufferBinding; // [maxHeadRows] u32
  readonly inverseTemperatures: GPUBufferBinding; // [maxHeadRows]
  readonly ropeTable: GPUBufferBinding; // [maxRows, 2, headDim / 2]
}

export interface Stages {
  readonly embed: readonly LaunchSpec[];
  readonly pre: readonly (readonly LaunchSpec[])[]; // [layers]
  readonly post: readonly (readonly LaunchSpec[])[]; // [layers]
  readonly head: readonly LaunchSpec[];
  /** Logits of the head row that the param `first_row` says, to row 0 of the scratch logits. */
  readonly oneRow: readonly LaunchSpec[];
}

export interface StageContext {
  readonly config: ModelConfig;
  readonly weights: GpuWeights;
  readonly format: WeightFormat;
  readonly scratch: Scratch;
  readonly batch: BatchBuffers;
  readonly maxHeadRows: number;
  /** Bound where a kernel has an input that this model has nothing for. */
  readonly nothing: GPUBuffer;
}

export function buildStages(context: StageContext): Stages {
  const { config, weights, scratch, batch } = context;
  const headChunks = Math.ceil(context.maxHeadRows / scratch.headChunkRows);
  return {
    embed: embed(context),
    pre: weights.layers.map((layer) => pre(context, layer)),
    post: weights.layers.map((layer) => post(context, layer)),
    head: [
      norm(context, 'head', batch.residual, weights.finalNorm, batch.headNormed, batch.headRows),
      ...Array.from({ length: headChunks }, (_, chunk) => headChunk(context, chunk)).flat(),
    ],
    oneRow: matmul(context, 'one', batch.headNormed, weights.head, scratch.logits, { yStride: config.vocabSize }),
  };
}

function embed({ weights: { embed: table }, batch }: StageContext): readonly LaunchSpec[] {
  const stride = table.octets * 8;
  return table.parts.map((part) =>
    launchSpec(
      only(embedKernel(table.dtype)),
      { width: stride },
      {
        scope: 'step',
        params: { stride, first_token: part.firstRow, tokens: part.rows },
        buffers: [part.buffer, batch.tokenIds, batch.residual],
      },
    ),
  );
}

/** residual → [q | k | v], normed and rotated. */
function pre(context: StageContext, layer: GpuLayer): readonly LaunchSpec[] {
  const { config, scratch, batch, nothing } = context;
  const { heads, kvHeads, headDim } = config;
  return [
    norm(context, 'step', batch.residual, layer.attnNorm, scratch.normed),
    ...matmul(context, 'step', scratch.normed, layer.qkv, scratch.qkv, {
      yStride: layer.qkv.outputs,
      bias: layer.qkvBias,
    }),
    launchSpec(
      only(ropeKernel(headDim)),
      { heads: heads + kvHeads },
      {
        scope: 'step',
        params: {
          q_heads: heads,
          k_heads: kvHeads,
          head_dim: headDim,
          normed: layer.qNorm && layer.kNorm ? 1 : 0,
          eps: config.rmsNormEps,
        },
        buffers: [batch.ropeTable, layer.qNorm ?? nothing, layer.kNorm ?? nothing, scratch.qkv],
      },
    ),
  ];
}

/** residual += o · attended, then residual += down · swiglu(gate, up). */
function post(context: StageContext, layer: GpuLayer): readonly LaunchSpec[] {
  const { config, scratch, batch } = context;
  const yStride = paddedTo8(config.hiddenSize);
  const width = config.intermediateSize;
  return [
    ...matmul(context, 'step', scratch.attended, layer.o, batch.residual, {
      yStride,
      bias: layer.oBias,
      accumulate: true,
    }),
    norm(context, 'step', batch.residual, layer.mlpNorm, scratch.normed),
    ...matmul(context, 'step', scratch.normed, layer.gateUp, scratch.gateUp, {
      yStride: 2 * width,
      bias: layer.gateUpBias,
    }),
    launchSpec(
      only(swigluKernel()),
      { width },
      {
        scope: 'step',
        params: { width, y_stride: paddedTo8(width) },
        buffers: [scratch.gateUp, scratch.activated],
      },
    ),
    ...matmul(context, 'step', scratch.activated, layer.down, batch.residual, {
      yStride,
      bias: layer.downBias,
      accumulate: true,
    }),
  ];
}

/** Logits of a chunk of head rows, and their candidates. */
function headChunk(context: StageContext, chunk: number): readonly LaunchSpec[] {
  const { config, weights, scratch, batch } = context;
  const vocab = config.vocabSize;
  const chunks = Math.ceil(vocab / HEAD_CHUNK);
  const firstRow = chunk * scratch.headChunkRows;
  return [
    ...matmul(context, chunk, batch.headNormed, weights.head, scratch.logits, { yStride: vocab, firstRow }),
    launchSpec(
      only(headCandidatesKernel()),
      { chunks },
      {
        scope: chunk,
        params: { first_row: firstRow, vocab, chunks },
        buffers: [scratch.logits, batch.inverseTemperatures, scratch.lists],
      },
    ),
    launchSpec(
      only(headMergeKernel()),
      { chunks },
      {
        scope: chunk,
        params: { first_row: firstRow, chunks },
        buffers: [scratch.lists, batch.inverseTemperatures, scratch.results],
      },
    ),
  ];
}

function norm(
  { config, nothing }: StageContext,
  scope: RowScope,
  x: GPUBuffer,
  weight: GPUBuffer,
  y: GPUBuffer,
  rowIndices?: GPUBufferBinding,
): LaunchSpec {
  return launchSpec(
    only(rmsNormKernel()),
    {},
    {
      scope,
      params: {
        width: config.hiddenSize,
        stride: paddedTo8(config.hiddenSize),
        gather: rowIndices ? 1 : 0,
        eps: config.rmsNormEps,
      },
      buffers: [x, weight, rowIndices ?? nothing, y],
    },
  );
}

interface MatmulTarget {
  readonly yStride: number;
  readonly bias?: GPUBuffer | null;
  readonly accumulate?: boolean;
  readonly firstRow?: number;
}

function matmul(
  { format, nothing }: StageContext,
  scope: RowScope,
  x: GPUBuffer,
  matrix: GpuMatrix,
  y: GPUBuffer,
  target: MatmulTarget,
): readonly LaunchSpec[] {
  return matrix.parts.map((part) =>
    launchSpec(
      matmulVariants(format),
      { outputs: part.rows },
      {
        scope,
        params: {
          first_row: target.firstRow ?? 0,
          octets: matrix.octets,
          outputs: part.rows,
          first_output: part.firstRow,
          y_stride: target.yStride,
          has_bias: target.bias ? 1 : 0,
          accumulate: target.accumulate ? 1 : 0,
        },
        buffers: [x, part.buffer, target.bias ?? nothing, y],
      },
    ),
  );
}
