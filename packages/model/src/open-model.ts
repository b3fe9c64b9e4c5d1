/**
 * Opens a model, whatever its files are: a Hugging Face folder, a GGUF file, or a folder that holds one GGUF file and no
 * safetensors. Everything but the weights is read and validated here; weights are read on demand later.
 */
import { type Logger, ModelFormatError, silentLogger, UnsupportedError } from '@glinthawk/core';
import { openPath } from '#platform';
import type { ModelFiles } from './file-source.ts';
import { openGguf } from './gguf-model.ts';
import { openHuggingFace } from './huggingface-model.ts';
import { hasSafetensors } from './huggingface-weights.ts';
import type { Model } from './model.ts';

export interface OpenModelOptions {
  /** Told of notes on how the model was opened. */
  readonly logger?: Logger;
  /**
   * Reads headers only, no samples of the weights, so that looking at a model over a network takes a few requests. Its
   * fingerprint is then not the one that the model has where it runs.
   */
  readonly headersOnly?: boolean;
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
  const model = await openAny(files, options.headersOnly !== true);
  for (const note of model.notes ?? []) logger.info(note);
  return model;
}

async function openAny(files: ModelFiles, sampled: boolean): Promise<Model> {
  const ggufs = files.entries.filter((entry) => entry.toLowerCase().endsWith('.gguf'));
  const [gguf] = ggufs;
  if (files.single) {
    if (gguf !== undefined) return openGguf(files, gguf, sampled);
    throw new UnsupportedError('UNSUPPORTED_FILE', `${files.name} is not a .gguf file`, {
      hint: 'Give a Hugging Face folder or a .gguf file.',
    });
  }
  if (gguf === undefined || hasSafetensors(files)) return openHuggingFace(files, sampled);
  if (ggufs.length === 1) return openGguf(files, gguf, sampled);
  throw new ModelFormatError('MODEL_AMBIGUOUS', `${files.name} has ${ggufs.length} GGUF files and no safetensors`, {
    hint: `Give one of them: ${ggufs.join(', ')}.`,
  });
}
