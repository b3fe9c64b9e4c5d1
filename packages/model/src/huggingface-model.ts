/** A Hugging Face folder as a Model: config.json, safetensors, tokenizer, chat template, generation defaults. */
import { ModelFormatError } from '@glinthawk/core';
import { type ModelFiles, readJson, readWhole } from './file-source.ts';
import { fingerprintOf } from './fingerprint.ts';
import { readGenerationDefaults, readHuggingFaceConfig } from './huggingface-config.ts';
import { openHuggingFaceWeights } from './huggingface-weights.ts';
import type { Model } from './model.ts';
import { MAX_CONFIG_BYTES, MAX_TOKENIZER_BYTES } from './model-limits.ts';

/** Files whose bytes are part of the model's identity. */
const IDENTITY_FILES = ['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja', 'generation_config.json'];

/** @throws ModelFormatError, UnsupportedError; nothing stays open then */
export async function openHuggingFace(files: ModelFiles): Promise<Model> {
  const configJson = await readJson(files, 'config.json', MAX_CONFIG_BYTES);
  if (configJson === undefined) {
    throw new ModelFormatError('MODEL_FILE_MISSING', `${files.name} has no config.json`, {
      hint: 'Give a Hugging Face folder or a .gguf file.',
    });
  }
  const generation = await readJson(files, 'generation_config.json', MAX_CONFIG_BYTES);
  const config = readHuggingFaceConfig(configJson, generation);
  const texts: Uint8Array<ArrayBuffer>[] = [];
  for (const entry of IDENTITY_FILES) {
    if (files.entries.includes(entry)) texts.push(await readWhole(files, entry, MAX_TOKENIZER_BYTES));
  }
  const weights = await openHuggingFaceWeights(files, config);
  try {
    return {
      name: files.name,
      format: 'huggingface',
      config,
      tokenizer: null,
      chatTemplate: null,
      generationDefaults: readGenerationDefaults(generation),
      weights,
      fingerprint: await fingerprintOf(config, texts, weights),
      close: () => weights.close(),
    };
  } catch (thrown) {
    await weights.close();
    throw thrown;
  }
}
