/**
 * A stored model's files as Blobs, for whoever runs it: a page or a worker. Reads nothing yet; the Blobs read from the origin private
 * file system as they are asked. While they are held, no tab can delete or replace the model.
 */
import { InputError, ModelFormatError } from '@glinthawk/core';
import { isSingle } from './file-names.ts';
import { holdModel } from './model-locks.ts';
import { FILES, modelDirectory, nullWhenAbsent, readManifest } from './store-directory.ts';

export interface StoredFiles {
  readonly name: string;
  readonly files: ReadonlyMap<string, Blob>;
  /** Whether it is one .gguf file, rather than a folder. */
  readonly single: boolean;
  /** Lets others delete the model; its Blobs must not be read any more. A worker's or tab's end does the same. */
  close(): void;
}

/** @throws InputError when there is no such model, or it is being downloaded; ModelFormatError when its files aren't whole */
export async function openStoredFiles(id: string): Promise<StoredFiles> {
  const release = await holdModel(id);
  try {
    return { ...(await readFiles(id)), close: release };
  } catch (thrown) {
    release();
    throw thrown;
  }
}

async function readFiles(id: string): Promise<Omit<StoredFiles, 'close'>> {
  const directory = await modelDirectory(id);
  const manifest = directory === null ? null : await readManifest(directory);
  const contents = await directory?.getDirectoryHandle(FILES).catch(nullWhenAbsent);
  if (manifest === null || contents === null || contents === undefined) {
    throw new InputError('STORE_NO_MODEL', 'this model is not stored in this browser (any more)', {
      hint: 'Download it again.',
    });
  }
  const files = new Map<string, Blob>();
  for (const { name, at, bytes } of manifest.files) {
    const handle = await contents.getFileHandle(at).catch(nullWhenAbsent);
    const file = await handle?.getFile();
    if (file?.size !== bytes) {
      throw new ModelFormatError(
        'STORE_DAMAGED',
        `${manifest.name}: ${name} should have ${bytes} bytes, it has ${file?.size ?? 'none'}`,
        {
          hint: 'The browser lost a part of it; download it again.',
        },
      );
    }
    files.set(name, file);
  }
  return { name: manifest.name, files, single: isSingle(manifest.files) };
}
