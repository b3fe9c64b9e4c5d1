/** Model files on a disk, for Node. The only file of this package that knows Node. */
import { type FileHandle, open, readdir, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { ModelFormatError, toError } from '@glinthawk/core';
import { assertInside, type FileSource, type ModelFiles } from './file-source.ts';

/** A single read asks the system for at most this much: some refuse 2 GiB and more. */
const MAX_READ_BYTES = 2 ** 30;

/** @throws ModelFormatError when there is nothing at `path`, or it can't be listed. */
export async function openPath(path: string): Promise<ModelFiles> {
  const absolute = resolve(path);
  try {
    const info = await stat(absolute);
    const single = !info.isDirectory();
    const folder = single ? dirname(absolute) : absolute;
    const entries = single
      ? [basename(absolute)]
      : (await readdir(folder, { withFileTypes: true }))
          .filter((entry) => !entry.isDirectory())
          .map((entry) => entry.name)
          .sort();
    return {
      name: basename(absolute),
      single,
      entries,
      open: (entry) => NodeFile.open(join(folder, entry), entry),
    };
  } catch (thrown) {
    const cause = toError(thrown);
    throw new ModelFormatError('MODEL_FILE_MISSING', `cannot open the model ${path}: ${cause.message}`, {
      cause,
      hint: 'Give a Hugging Face folder or a .gguf file.',
    });
  }
}

class NodeFile implements FileSource {
  readonly name: string;
  readonly size: number;
  readonly #handle: FileHandle;

  private constructor(name: string, size: number, handle: FileHandle) {
    this.name = name;
    this.size = size;
    this.#handle = handle;
  }

  static async open(path: string, name: string): Promise<NodeFile> {
    try {
      const handle = await open(path, 'r');
      const info = await handle.stat();
      if (!info.isFile()) {
        await handle.close();
        throw new Error('not a regular file');
      }
      return new NodeFile(name, info.size, handle);
    } catch (thrown) {
      const cause = toError(thrown);
      throw new ModelFormatError('MODEL_FILE_MISSING', `cannot open ${name}: ${cause.message}`, { cause });
    }
  }

  async read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    assertInside(this, offset, length);
    const bytes = new Uint8Array(length);
    let done = 0;
    while (done < length) {
      const { bytesRead } = await this.#read(bytes, done, Math.min(length - done, MAX_READ_BYTES), offset + done);
      // The file was longer when it was opened: somebody truncated it since.
      if (bytesRead === 0) assertInside({ name: this.name, size: offset + done }, offset, length);
      done += bytesRead;
    }
    return bytes;
  }

  async #read(bytes: Uint8Array, at: number, length: number, position: number): Promise<{ bytesRead: number }> {
    try {
      return await this.#handle.read(bytes, at, length, position);
    } catch (thrown) {
      const cause = toError(thrown);
      throw new ModelFormatError('MODEL_READ', `cannot read ${this.name}: ${cause.message}`, { cause });
    }
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}
