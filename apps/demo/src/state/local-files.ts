/**
 * Files that a visitor picked or dropped, as a model to open: one GGUF, or a folder with config.json and safetensors. Says in
 * words what is missing; reads nothing.
 */
import { InputError } from '@glinthawk/core';
import type { ModelChoice } from '../engine/protocol.ts';

export interface LocalFile {
  /** Within what was picked: `folder/config.json`, or the name alone. */
  readonly path: string;
  readonly blob: Blob;
}

export type LocalModel = Extract<ModelChoice, { readonly kind: 'files' }>;

/** More files than any model folder has. */
export const MAX_FILES = 2000;

/** @throws InputError saying what a model would have had */
export function localModel(files: readonly LocalFile[]): LocalModel {
  const config = shallowest(files.filter(({ path }) => baseName(path) === 'config.json'));
  if (config !== undefined) return folderModel(files, config.path.slice(0, -'config.json'.length));
  const ggufs = files.filter(({ path }) => path.toLowerCase().endsWith('.gguf'));
  const [gguf] = ggufs;
  if (gguf !== undefined && ggufs.length === 1) {
    const name = baseName(gguf.path);
    return { kind: 'files', name, files: new Map([[name, gguf.blob]]), single: true };
  }
  if (ggufs.length > 1)
    throw new InputError('SEVERAL_GGUF', `${ggufs.length} .gguf files were picked: pick the one to load`);
  throw new InputError('NO_MODEL_FILES', `no model among ${describe(files)}`, {
    hint: 'pick a .gguf file, or a folder that has config.json, tokenizer.json and .safetensors files',
  });
}

function folderModel(files: readonly LocalFile[], folder: string): LocalModel {
  const inside = files.filter(({ path }) => path.startsWith(folder) && !path.slice(folder.length).includes('/'));
  const byName = new Map(inside.map(({ path, blob }) => [path.slice(folder.length), blob]));
  const name = baseName(folder.replace(/\/$/, '')) || 'dropped model';
  if (![...byName.keys()].some((file) => file.endsWith('.safetensors')))
    throw new InputError('NO_WEIGHTS', `${name} has config.json, but no .safetensors beside it`, {
      hint: 'pick all files of the model, or its folder',
    });
  return { kind: 'files', name, files: byName, single: false };
}

function describe(files: readonly LocalFile[]): string {
  const names = files.slice(0, 3).map(({ path }) => baseName(path));
  return files.length > 3 ? `${names.join(', ')} and ${files.length - 3} more` : names.join(', ') || 'no files at all';
}

function shallowest(files: readonly LocalFile[]): LocalFile | undefined {
  return files.toSorted((a, b) => a.path.split('/').length - b.path.split('/').length)[0];
}

function baseName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

export function bytesOf({ files }: LocalModel): number {
  return [...files.values()].reduce((sum, { size }) => sum + size, 0);
}
