/**
 * One GGUF file as a Model. By itself it says everything; in a folder, tokenizer and generation files beside it, which are a
 * model's originals, take precedence over what was converted into it.
 */
import { type ModelConfig, ModelFormatError, UnsupportedError } from '@glinthawk/core';
import { createChatTemplate } from './chat-template.ts';
import { type FileSource, type ModelFiles, readJson } from './file-source.ts';
import { fingerprintOf } from './fingerprint.ts';
import { readGgufConfig } from './gguf-config.ts';
import { type GgufHeader, readGgufHeader } from './gguf-header.ts';
import { ggufTemplateTokens, readGgufTokenizer } from './gguf-tokenizer.ts';
import { ggufTensor, openGgufWeights } from './gguf-weights.ts';
import { readEosTokens, readGenerationDefaults } from './huggingface-config.ts';
import { type ModelText, readHuggingFaceText, readTextFiles } from './huggingface-text.ts';
import type { Model } from './model.ts';
import { MAX_CONFIG_BYTES } from './model-limits.ts';
import { WeightTable } from './weight-table.ts';

/** Per-frequency RoPE factors: what llama.cpp's converter makes of `llama3` scaling. */
const ROPE_FACTORS = 'rope_freqs.weight';

/** Metadata keys whose content is part of the model's identity beside configuration and weights. */
const IDENTITY_KEYS = ['model', 'pre', 'tokens', 'token_type', 'scores', 'merges', 'add_bos_token', 'add_space_prefix'];

/**
 * @param entry the GGUF file among `files`
 * @param sampled whether the fingerprint reads samples of the weights
 * @throws ModelFormatError, UnsupportedError; nothing stays open then
 */
export async function openGguf(files: ModelFiles, entry: string, sampled = true): Promise<Model> {
  const file = await files.open(entry);
  try {
    return await readModel(files, file, sampled);
  } catch (thrown) {
    await file.close();
    throw thrown;
  }
}

async function readModel(files: ModelFiles, file: FileSource, sampled: boolean): Promise<Model> {
  const header = await readGgufHeader(file);
  const parts = Number(header.metadata.get('split.count') ?? 1);
  if (parts > 1) {
    throw new UnsupportedError(
      'UNSUPPORTED_GGUF',
      `${file.name} is one of ${parts} parts of a model; only whole files are read`,
      {
        hint: 'Merge them with llama.cpp: llama-gguf-split --merge.',
      },
    );
  }
  const { config: ownConfig, family } = readGgufConfig(header, file.name, await readRopeFactors(file, header));
  const generation = files.single ? undefined : await readJson(files, 'generation_config.json', MAX_CONFIG_BYTES);
  const notes: string[] = [];
  const config: ModelConfig = {
    ...ownConfig,
    eosTokenIds: readEosTokens(ownConfig.eosTokenIds, generation, ownConfig.vocabSize, (text) => notes.push(text)),
  };
  const weights = openGgufWeights(file, header, config, family);
  if (!files.single) {
    notes.push(`${files.name} has no safetensors: weights and configuration come from ${file.name}`);
  }
  const contents = files.single ? new Map<string, Uint8Array<ArrayBuffer>>() : await readTextFiles(files);
  let text: ModelText;
  if (contents.has('tokenizer.json')) {
    notes.push(`tokenizer and chat template come from tokenizer.json and the files beside it, not from ${file.name}`);
    text = readHuggingFaceText(contents);
  } else {
    text = readGgufText(header, file.name);
  }
  const identity = IDENTITY_KEYS.map((key) => JSON.stringify(header.metadata.get(`tokenizer.ggml.${key}`) ?? null));
  identity.push(
    JSON.stringify(header.metadata.get('tokenizer.chat_template') ?? null),
    JSON.stringify(generation ?? null),
  );
  return {
    name: files.name,
    format: 'gguf',
    config,
    ...text,
    generationDefaults: readGenerationDefaults(generation),
    weights,
    fingerprint: await fingerprintOf(config, [...identity, ...contents.values()], weights, sampled),
    notes,
    close: () => weights.close(),
  };
}

function readGgufText(header: GgufHeader, file: string): ModelText {
  const template = header.metadata.get('tokenizer.chat_template');
  if (template !== undefined && typeof template !== 'string') {
    throw new ModelFormatError('MODEL_CHAT_TEMPLATE', `${file}: metadata tokenizer.chat_template must be a string`);
  }
  return {
    tokenizer: readGgufTokenizer(header, file),
    chatTemplate: template === undefined ? null : createChatTemplate(template, file, ggufTemplateTokens(header)),
  };
}

async function readRopeFactors(file: FileSource, header: GgufHeader): Promise<Float32Array | undefined> {
  const tensor = header.tensors.get(ROPE_FACTORS);
  if (tensor === undefined) return undefined;
  // Read as any weight is, though it has no role of its own. The table must not close the file.
  const table = new WeightTable(new Map([['finalNorm', ggufTensor(file, tensor)]]), []);
  return table.read('finalNorm');
}
