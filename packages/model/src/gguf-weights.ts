/** Weights of a GGUF file: its tensor table held against the file and the configuration, roles translated to tensor names. */
import {
  type LayerWeight,
  type ModelConfig,
  ModelFormatError,
  UnsupportedError,
  type WeightName,
} from '@glinthawk/core';
import type { Family } from './families.ts';
import { assertInside, type FileSource } from './file-source.ts';
import type { GgufHeader, GgufTensor } from './gguf-header.ts';
import { BF16, F16, F32, Q4_0, Q4_1, Q8_0, storedBytes, type TensorKind } from './tensor-kinds.ts';
import { elementCount, weightShapes } from './weight-shapes.ts';
import { checkTable, type StoredTensor, WeightTable } from './weight-table.ts';

/** ggml's `enum ggml_type`: number and name of every kind, so that an error can name what it can't read. */
const KIND_NAMES: ReadonlyMap<number, string> = new Map([
  [0, 'F32'],
  [1, 'F16'],
  [2, 'Q4_0'],
  [3, 'Q4_1'],
  [6, 'Q5_0'],
  [7, 'Q5_1'],
  [8, 'Q8_0'],
  [9, 'Q8_1'],
  [10, 'Q2_K'],
  [11, 'Q3_K'],
  [12, 'Q4_K'],
  [13, 'Q5_K'],
  [14, 'Q6_K'],
  [15, 'Q8_K'],
  [16, 'IQ2_XXS'],
  [17, 'IQ2_XS'],
  [18, 'IQ3_XXS'],
  [19, 'IQ1_S'],
  [20, 'IQ4_NL'],
  [21, 'IQ3_S'],
  [22, 'IQ2_S'],
  [23, 'IQ4_XS'],
  [24, 'I8'],
  [25, 'I16'],
  [26, 'I32'],
  [27, 'I64'],
  [28, 'F64'],
  [29, 'IQ1_M'],
  [30, 'BF16'],
  [34, 'TQ1_0'],
  [35, 'TQ2_0'],
  [39, 'MXFP4'],
]);
const KINDS: ReadonlyMap<string, TensorKind> = new Map(
  [F32, F16, BF16, Q8_0, Q4_0, Q4_1].map((kind) => [kind.name, kind]),
);

const LAYER_NAMES: Readonly<Record<LayerWeight, string>> = {
  attnNorm: 'attn_norm.weight',
  q: 'attn_q.weight',
  k: 'attn_k.weight',
  v: 'attn_v.weight',
  o: 'attn_output.weight',
  qBias: 'attn_q.bias',
  kBias: 'attn_k.bias',
  vBias: 'attn_v.bias',
  oBias: 'attn_output.bias',
  qNorm: 'attn_q_norm.weight',
  kNorm: 'attn_k_norm.weight',
  mlpNorm: 'ffn_norm.weight',
  gate: 'ffn_gate.weight',
  up: 'ffn_up.weight',
  down: 'ffn_down.weight',
  gateBias: 'ffn_gate.bias',
  upBias: 'ffn_up.bias',
  downBias: 'ffn_down.bias',
};

/** What llama.cpp's converter reorders for its interleaved RoPE. */
const REORDERED: ReadonlySet<string> = new Set<LayerWeight>(['q', 'k', 'qBias', 'kBias']);

function tensorName(name: WeightName): string {
  if (name === 'embed') return 'token_embd.weight';
  if (name === 'finalNorm') return 'output_norm.weight';
  if (name === 'head') return 'output.weight';
  const [, layer, weight] = name.split('.') as ['layers', string, LayerWeight];
  return `blk.${layer}.${LAYER_NAMES[weight]}`;
}

/**
 * @param file owned by the result
 * @throws ModelFormatError, UnsupportedError
 */
export function openGgufWeights(
  file: FileSource,
  header: GgufHeader,
  config: ModelConfig,
  family: Family,
): WeightTable {
  const table = new Map<WeightName, StoredTensor>();
  const wanted = new Set<string>();
  for (const name of weightShapes(config).keys()) {
    const stored = tensorName(name);
    wanted.add(stored);
    const tensor = header.tensors.get(stored);
    if (tensor === undefined) continue;
    const reordered = family.ggufInterleaved && REORDERED.has(name.split('.')[2] ?? '');
    table.set(name, { ...ggufTensor(file, tensor), ...(reordered ? { interleavedHeadDim: config.headDim } : {}) });
  }
  checkTable(config, table, tensorName);
  refuseOverlaps(file, header);
  for (const name of header.tensors.keys()) {
    const layer = /^blk\.(\d+)\./.exec(name)?.[1];
    if (layer === undefined || Number(layer) >= config.layers || wanted.has(name)) continue;
    throw new UnsupportedError(
      'UNSUPPORTED_TENSOR',
      `${file.name}: tensor ${name} has no place in a ${config.family} layer as this version runs it`,
    );
  }
  return new WeightTable(table, [file]);
}

/** @throws UnsupportedError naming kind and tensor; ModelFormatError when its bytes aren't all in the file */
export function ggufTensor(file: FileSource, tensor: GgufTensor): StoredTensor {
  const kindName = KIND_NAMES.get(tensor.kind);
  const kind = KINDS.get(kindName ?? '');
  if (kind === undefined) {
    throw new UnsupportedError(
      'UNSUPPORTED_DTYPE',
      `${file.name}: tensor ${tensor.name} is stored as ${kindName ?? `kind ${tensor.kind}`}, which is not supported`,
      { hint: `Supported in GGUF: ${[...KINDS.keys()].join(', ')}.` },
    );
  }
  const innermost = tensor.shape.at(-1) ?? 1;
  const bytes = storedBytes(kind, innermost) === undefined ? undefined : storedBytes(kind, elementCount(tensor.shape));
  if (bytes === undefined) {
    throw new ModelFormatError(
      'MODEL_TENSOR_SHAPE',
      `${file.name}: tensor ${tensor.name} has rows of ${innermost}; ${kind.name} needs a multiple of ${kind.blockElements}`,
    );
  }
  assertInside({ name: `${file.name}: tensor ${tensor.name}`, size: file.size }, tensor.offset, bytes);
  return { storedName: tensor.name, file, offset: tensor.offset, kind, shape: tensor.shape };
}

/** Of tensors whose kind is known here; others are never read. */
function refuseOverlaps(file: FileSource, header: GgufHeader): void {
  const ranges = [];
  for (const { name, kind, shape, offset } of header.tensors.values()) {
    const known = KINDS.get(KIND_NAMES.get(kind) ?? '');
    const bytes = known === undefined ? undefined : storedBytes(known, elementCount(shape));
    if (bytes !== undefined && bytes > 0) ranges.push({ name, start: offset, end: offset + bytes });
  }
  ranges.sort((a, b) => a.start - b.start);
  for (let i = 1; i < ranges.length; i++) {
    const [before, after] = [ranges[i - 1], ranges[i]];
    if (before === undefined || after === undefined || after.start >= before.end) continue;
    throw new ModelFormatError('MODEL_GGUF', `${file.name}: tensor ${after.name} overlaps tensor ${before.name}`);
  }
}
