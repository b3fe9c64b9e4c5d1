/**
 * Opens a model, whatever its files are: a Hugging Face folder, a GGUF file, or a folder that holds one GGUF file and no
 * safetensors. Everything but the weights is read and validated here; weights are read on demand later.
 */
import { type Logger, silentLogger } from '@glinthawk/core';
import { openPath } from '#platform';
import type { ModelFiles } from './file-source.ts';
import { openHuggingFace } from './huggingface-model.ts';
import type { Model } from './model.ts';

export interface OpenModelOptions {
  /** Told of notes on how the model was opened. */
  readonly logger?: Logger;
}

/**
 * @param path a Hugging Face folder or a .gguf file
 * @throws ModelFormatError when files are missing, damaged or inconsistent
 * @throws UnsupportedError naming what this version does not run
 */
export async function openModel(path: string, options: OpenModelOptions = {}): Promise<Model> {
  return openModelFiles(await openPath(path), options);
}

/** As openModel, of files that need not be on a disk. */
export async function openModelFiles(files: ModelFiles, options: OpenModelOptions = {}): Promise<Model> {
  const logger = options.logger ?? silentLogger;
  const model = await openHuggingFace(files);
  for (const note of model.notes ?? []) logger.info(note);
  return model;
}
