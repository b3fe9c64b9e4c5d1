/** Weights of a Hugging Face folder: one safetensors file, or several with an index; roles translated to tensor names. */
import {
  type LayerWeight,
  type ModelConfig,
  ModelFormatError,
  UnsupportedError,
  type WeightName,
} from '@glinthawk/core';
import { Fields, quote } from './config-fields.ts';
import { type FileSource, type ModelFiles, readJson } from './file-source.ts';
import { readSafetensorsHeader, type SafetensorsEntry, storedTensor } from './safetensors.ts';
import { weightShapes } from './weight-shapes.ts';
import { checkTable, type StoredTensor, WeightTable } from './weight-table.ts';

const SINGLE_FILE = 'model.safetensors';
const INDEX_FILE = 'model.safetensors.index.json';
const MAX_INDEX_BYTES = 64 * 2 ** 20;
const MAX_SHARDS = 1024;

const LAYER_NAMES: Readonly<Record<LayerWeight, string>> = {
  attnNorm: 'input_layernorm.weight',
  q: 'self_attn.q_proj.weight',
  k: 'self_attn.k_proj.weight',
  v: 'self_attn.v_proj.weight',
  o: 'self_attn.o_proj.weight',
  qBias: 'self_attn.q_proj.bias',
  kBias: 'self_attn.k_proj.bias',
  vBias: 'self_attn.v_proj.bias',
  oBias: 'self_attn.o_proj.bias',
  qNorm: 'self_attn.q_norm.weight',
  kNorm: 'self_attn.k_norm.weight',
  mlpNorm: 'post_attention_layernorm.weight',
  gate: 'mlp.gate_proj.weight',
  up: 'mlp.up_proj.weight',
  down: 'mlp.down_proj.weight',
  gateBias: 'mlp.gate_proj.bias',
  upBias: 'mlp.up_proj.bias',
  downBias: 'mlp.down_proj.bias',
};

function tensorName(name: WeightName): string {
  if (name === 'embed') return 'model.embed_tokens.weight';
  if (name === 'finalNorm') return 'model.norm.weight';
  if (name === 'head') return 'lm_head.weight';
  const [, layer, weight] = name.split('.') as ['layers', string, LayerWeight];
  return `model.layers.${layer}.${LAYER_NAMES[weight]}`;
}

export function hasSafetensors(files: ModelFiles): boolean {
  return weightFiles(files).length > 0;
}

function weightFiles(files: ModelFiles): readonly string[] {
  return files.entries.filter((entry) => entry.endsWith('.safetensors'));
}

/**
 * Opens the folder's safetensors and holds their tensor tables against `config`.
 * @throws ModelFormatError, UnsupportedError; nothing stays open then
 */
export async function openHuggingFaceWeights(files: ModelFiles, config: ModelConfig): Promise<WeightTable> {
  const opened: FileSource[] = [];
  try {
    const tensors = await readTensors(files, opened);
    const table = new Map<WeightName, StoredTensor>();
    const wanted = new Set<string>();
    for (const name of weightShapes(config).keys()) {
      const stored = tensorName(name);
      wanted.add(stored);
      const found = tensors.get(stored);
      if (found !== undefined) table.set(name, storedTensor(found.file, found.entry));
    }
    checkTable(config, table, tensorName);
    refuseUnusedLayerTensors(tensors, wanted, config);
    return new WeightTable(table, opened);
  } catch (thrown) {
    await Promise.all(opened.map((file) => file.close()));
    throw thrown;
  }
}

interface Located {
  readonly file: FileSource;
  readonly entry: SafetensorsEntry;
}

async function readTensors(files: ModelFiles, opened: FileSource[]): Promise<Map<string, Located>> {
  const index = await readJson(files, INDEX_FILE, MAX_INDEX_BYTES);
  const places = index === undefined ? undefined : readIndex(index);
  const names = places === undefined ? [singleFile(files)] : [...new Set(places.values())].sort();
  if (names.length > MAX_SHARDS) throw new ModelFormatError('MODEL_INDEX', `${INDEX_FILE} names ${names.length} files`);
  const tensors = new Map<string, Located>();
  for (const name of names) {
    if (!files.entries.includes(name)) {
      throw new ModelFormatError(
        'MODEL_FILE_MISSING',
        `${INDEX_FILE} names ${quote(name)}, which is not in the folder`,
      );
    }
    const file = await files.open(name);
    opened.push(file);
    for (const [tensor, entry] of await readSafetensorsHeader(file)) {
      // A tensor may stand in a shard unused; the index says which file's counts.
      if (places !== undefined && places.get(tensor) !== name) continue;
      tensors.set(tensor, { file, entry });
    }
  }
  for (const [tensor, name] of places ?? []) {
    if (!tensors.has(tensor)) {
      throw new ModelFormatError(
        'MODEL_TENSOR_MISSING',
        `${name}: tensor ${tensor} is missing, which ${INDEX_FILE} says is in it`,
      );
    }
  }
  return tensors;
}

function singleFile(files: ModelFiles): string {
  if (files.entries.includes(SINGLE_FILE)) return SINGLE_FILE;
  const candidates = weightFiles(files);
  const [only] = candidates;
  if (candidates.length === 1 && only !== undefined) return only;
  throw new ModelFormatError(
    'MODEL_FILE_MISSING',
    candidates.length === 0
      ? `${files.name} has no ${SINGLE_FILE} and no ${INDEX_FILE}`
      : `${files.name} has ${candidates.length} safetensors files but no ${INDEX_FILE} that says what is where`,
    { hint: 'Download the whole model folder.' },
  );
}

/** Tensor name to file name. */
function readIndex(index: unknown): Map<string, string> {
  const map = Fields.of(INDEX_FILE, index).raw('weight_map');
  if (typeof map !== 'object' || map === null || Array.isArray(map)) {
    throw new ModelFormatError('MODEL_INDEX', `${INDEX_FILE}: weight_map must be an object, found ${quote(map)}`);
  }
  const places = new Map<string, string>();
  for (const [tensor, file] of Object.entries(map)) {
    if (typeof file !== 'string') {
      throw new ModelFormatError('MODEL_INDEX', `${INDEX_FILE}: ${tensor} must name a file, found ${quote(file)}`);
    }
    places.set(tensor, file);
  }
  return places;
}

/** A layer's tensor that would go unused (a bias, a norm) means that the model computes something else. */
function refuseUnusedLayerTensors(
  tensors: ReadonlyMap<string, Located>,
  wanted: ReadonlySet<string>,
  config: ModelConfig,
): void {
  for (const [name, { file }] of tensors) {
    const layer = /^model\.layers\.(\d+)\./.exec(name)?.[1];
    if (layer === undefined || Number(layer) >= config.layers || wanted.has(name)) continue;
    // Old checkpoints store the RoPE frequencies, which follow from the configuration.
    if (name.endsWith('.rotary_emb.inv_freq')) continue;
    throw new UnsupportedError(
      'UNSUPPORTED_TENSOR',
      `${file.name}: tensor ${name} has no place in a ${config.family} layer as config.json describes it`,
      { hint: 'Biases need attention_bias or mlp_bias: true.' },
    );
  }
}
