/**
 * Names of a model's files. They come from servers and become names in the origin private file system and in error messages, so
 * they are held to one pattern: no paths, no control characters, no hidden files, bounded.
 */
import { ModelFormatError } from '@glinthawk/core';

const MAX_NAME = 200;
const NAME = /^[A-Za-z0-9_][A-Za-z0-9._+-]*$/;

/** Those of a Hugging Face folder that the engine reads, beside the weights. */
export const CONFIG_FILE = 'config.json';
export const OPTIONAL_FILES = [
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'chat_template.jinja',
] as const;
export const WEIGHTS_FILE = 'model.safetensors';
export const INDEX_FILE = 'model.safetensors.index.json';
/** A downloadable index is at most this long; published ones have some 100 kB. */
export const MAX_INDEX_BYTES = 16 * 2 ** 20;
const MAX_SHARDS = 1024;

export function isFileName(name: string): boolean {
  return name.length <= MAX_NAME && NAME.test(name) && !name.includes('..');
}

/** @throws ModelFormatError when a server's name for a file isn't one that can be kept. */
export function checkFileName(name: unknown, where: string): string {
  if (typeof name === 'string' && isFileName(name)) return name;
  throw new ModelFormatError(
    'MODEL_FILE_NAME',
    `${where} names a file ${quoteHostile(name)}, which is no plain file name`,
    {
      hint: `A file's name has letters, digits, ".", "_", "+" and "-", and at most ${MAX_NAME} characters.`,
    },
  );
}

/** A .gguf file by itself, rather than a folder. */
export function isSingle(files: readonly { readonly name: string }[]): boolean {
  return files.length === 1 && files[0]?.name.toLowerCase().endsWith('.gguf') === true;
}

/** The last part of a URL's path as a file name; whatever doesn't belong into one becomes `_`. */
export function fileNameOfUrl(url: URL): string {
  const last = url.pathname.split('/').at(-1) ?? '';
  let decoded = last;
  try {
    decoded = decodeURIComponent(last);
  } catch {
    // A stray % is kept as it stands, and replaced below.
  }
  const name = decoded
    .replaceAll(/[^A-Za-z0-9._+-]/g, '_')
    .replaceAll(/\.{2,}/g, '_')
    .replace(/^[^A-Za-z0-9_]/, '_')
    .slice(-MAX_NAME);
  return isFileName(name) ? name : 'model.gguf';
}

/** File names of the shards that an index names. @throws ModelFormatError */
export function shardsOfIndex(text: string): readonly string[] {
  let index: unknown;
  try {
    index = JSON.parse(text);
  } catch (cause) {
    throw new ModelFormatError('MODEL_INDEX', `${INDEX_FILE} is not valid JSON`, { cause });
  }
  const map = typeof index === 'object' && index !== null && 'weight_map' in index ? index.weight_map : undefined;
  if (typeof map !== 'object' || map === null || Array.isArray(map)) {
    throw new ModelFormatError('MODEL_INDEX', `${INDEX_FILE} has no weight_map`);
  }
  const shards = new Set<string>();
  for (const shard of Object.values(map)) {
    const name = checkFileName(shard, INDEX_FILE);
    if (!name.endsWith('.safetensors')) {
      throw new ModelFormatError(
        'MODEL_INDEX',
        `${INDEX_FILE} names ${quoteHostile(name)} as weights; expected safetensors`,
      );
    }
    shards.add(name);
    if (shards.size > MAX_SHARDS) {
      throw new ModelFormatError('MODEL_INDEX', `${INDEX_FILE} names more than ${MAX_SHARDS} files`);
    }
  }
  if (shards.size === 0) throw new ModelFormatError('MODEL_INDEX', `${INDEX_FILE} names no files`);
  return [...shards].sort();
}

/** What a server said, short and in visible characters, for an error message. */
export function quoteHostile(value: unknown): string {
  const text = typeof value === 'string' ? value : String(JSON.stringify(value));
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text);
}
