/** The files of the model that the page chose, and the model in them. Weights are not read here. */

import { InputError, toError } from '@glinthawk/core';
import { blobFiles, type Model, openModelFiles } from '@glinthawk/model';
import exampleConfig from '../../../../examples/tale-1m/config.json?url';
import exampleGenerationConfig from '../../../../examples/tale-1m/generation_config.json?url';
import exampleWeights from '../../../../examples/tale-1m/model.safetensors?url';
import exampleTokenizer from '../../../../examples/tale-1m/tokenizer.json?url';
import exampleTokenizerConfig from '../../../../examples/tale-1m/tokenizer_config.json?url';
import { openStoredFiles, type StoredFiles } from '../store/stored-files.ts';
import type { ModelChoice } from './protocol.ts';

const EXAMPLE_NAME = 'tale-1m';
/** Some 3 MB in all. */
const EXAMPLE_FILES: ReadonlyMap<string, string> = new Map([
  ['config.json', exampleConfig],
  ['generation_config.json', exampleGenerationConfig],
  ['tokenizer.json', exampleTokenizer],
  ['tokenizer_config.json', exampleTokenizerConfig],
  ['model.safetensors', exampleWeights],
]);

export type OnProgress = (stage: string, done: number, total: number | null) => void;

/** @throws ModelFormatError, UnsupportedError, InputError when files can't be had, AbortedError (the signal's reason) */
export async function openChosenModel(
  choice: ModelChoice,
  options: { readonly signal: AbortSignal; readonly onProgress: OnProgress },
): Promise<Model> {
  const { signal, onProgress } = options;
  const { name, files, single, close } = await chosenFiles(choice, options);
  try {
    signal.throwIfAborted();
    onProgress('reading the model', 0, null);
    const model = await openModelFiles(blobFiles(name, files, single));
    // Weights are read again when a lost device comes back, so the files are held as long as the model is.
    const closeAll = () => model.close().finally(close);
    return { ...model, close: closeAll };
  } catch (thrown) {
    close();
    throw thrown;
  }
}

const nothing = () => {};

async function chosenFiles(
  choice: ModelChoice,
  options: { readonly signal: AbortSignal; readonly onProgress: OnProgress },
): Promise<StoredFiles> {
  switch (choice.kind) {
    case 'example':
      return { name: EXAMPLE_NAME, files: await fetchExample(options), single: false, close: nothing };
    case 'files':
      return { ...choice, close: nothing };
    case 'stored':
      return openStoredFiles(choice.id);
    default:
      return choice satisfies never;
  }
}

async function fetchExample({
  signal,
  onProgress,
}: {
  readonly signal: AbortSignal;
  readonly onProgress: OnProgress;
}): Promise<ReadonlyMap<string, Blob>> {
  let done = 0;
  onProgress('fetching the example', 0, EXAMPLE_FILES.size);
  const fetched = await Promise.all(
    [...EXAMPLE_FILES].map(async ([name, url]) => {
      const blob = await fetchFile(name, url, signal);
      onProgress('fetching the example', ++done, EXAMPLE_FILES.size);
      return [name, blob] as const;
    }),
  );
  return new Map(fetched);
}

async function fetchFile(name: string, url: string, signal: AbortSignal): Promise<Blob> {
  const failed = (why: string, cause?: unknown) =>
    new InputError('EXAMPLE_MISSING', `the example's ${name} could not be fetched: ${why}`, {
      cause,
      hint: 'Check the connection to where this page comes from, and try again.',
    });
  let response: Response;
  try {
    response = await fetch(new URL(url, import.meta.url), { signal });
    if (response.ok && !isPage(response)) return await response.blob();
  } catch (thrown) {
    signal.throwIfAborted();
    throw failed(toError(thrown).message, thrown);
  }
  throw failed(isPage(response) ? 'the server answered with a page' : `status ${response.status}`);
}

/** What a server without the file may send in its place. */
function isPage(response: Response): boolean {
  return response.headers.get('content-type')?.startsWith('text/html') ?? false;
}
