/** Where models stand: the example in this repository, the others beside a checkout or in $GLINTHAWK_MODELS. */
import { existsSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

export const repositoryRoot = resolve(dirname(fileURLToPath(import.meta.url)), '..');
export const exampleModel = join(repositoryRoot, 'examples', 'tale-1m');
export const modelsRoot = process.env.GLINTHAWK_MODELS ?? join(repositoryRoot, '..', 'shared', 'models');

/** The path of a model under the models folder, e.g. `stories260K`, `tiny/qwen3`; or null when it isn't here. */
export function modelPath(name: string): string | null {
  if (name === 'tale-1m') return exampleModel;
  const path = join(modelsRoot, name);
  return existsSync(path) ? path : null;
}
