/** A Hugging Face folder as a Model: config.json, safetensors, tokenizer, chat template, generation defaults. */
import { ModelFormatError } from '@glinthawk/core';
import { type ModelFiles, readJson } from './file-source.ts';
import { fingerprintOf } from './fingerprint.ts';
import { readGenerationDefaults, readHuggingFaceConfig } from './huggingface-config.ts';
import { readHuggingFaceText, readTextFiles } from './huggingface-text.ts';
import { openHuggingFaceWeights } from './huggingface-weights.ts';
import type { Model } from './model.ts';
import { MAX_CONFIG_BYTES } from './model-limits.ts';

/**
 * @param sampled whether the fingerprint reads samples of the weights
 * @throws ModelFormatError, UnsupportedError; nothing stays open then
 */
export async function openHuggingFace(files: ModelFiles, sampled = true): Promise<Model> {
  const configJson = await readJson(files, 'config.json', MAX_CONFIG_BYTES);
  if (configJson === undefined) {
    throw new ModelFormatError('MODEL_FILE_MISSING', `${files.name} has no config.json`, {
      hint: 'Give a Hugging Face folder or a .gguf file.',
    });
  }
  const generation = await readJson(files, 'generation_config.json', MAX_CONFIG_BYTES);
  const notes: string[] = [];
  const config = readHuggingFaceConfig(configJson, generation, (text) => notes.push(text));
  const contents = await readTextFiles(files);
  const weights = await openHuggingFaceWeights(files, config);
  try {
    return {
      name: files.name,
      format: 'huggingface',
      config,
      ...readHuggingFaceText(contents),
      generationDefaults: readGenerationDefaults(generation),
      weights,
      notes,
      fingerprint: await fingerprintOf(
        config,
        [...contents.values(), JSON.stringify(generation ?? null)],
        weights,
        sampled,
      ),
      close: () => weights.close(),
    };
  } catch (thrown) {
    await weights.close();
    throw thrown;
  }
}
