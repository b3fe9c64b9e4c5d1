/** The file operations that a job's durability rests on, few enough for a test to fail or cut short any one of them. */
import type { FileHandle } from 'node:fs/promises';
import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { GlinthawkError, InputError, toError } from '@glinthawk/core';

export interface DiskFile {
  size(): Promise<number>;
  /** Fewer bytes than asked for at the end of the file only. */
  read(target: Uint8Array, position: number): Promise<number>;
  write(bytes: Uint8Array, position: number): Promise<void>;
  truncate(length: number): Promise<void>;
  /** Returns when all that was written survives a loss of power. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

export interface Disk {
  /** An existing file, to read and write; null when there is none. @throws InputError when it isn't a writable regular file */
  open(path: string): Promise<DiskFile | null>;
  /** A new, empty file in the place of any there is. */
  create(path: string): Promise<DiskFile>;
  /** Replaces `to` at once. Durable after syncFolder. */
  rename(from: string, to: string): Promise<void>;
  remove(path: string): Promise<void>;
  /** Makes creations, renames and removals beside `path` durable. */
  syncFolder(path: string): Promise<void>;
}

export const nodeDisk: Disk = {
  async open(path) {
    try {
      const handle = await open(path, 'r+');
      if (!(await handle.stat()).isFile()) {
        await handle.close();
        throw new InputError('NOT_A_FILE', `${path} must be a regular file, so that it can be repaired after a crash`);
      }
      return new NodeDiskFile(path, handle);
    } catch (thrown) {
      if (errorCode(thrown) === 'ENOENT') return null;
      throw unusable(path, thrown);
    }
  },
  async create(path) {
    try {
      return new NodeDiskFile(path, await open(path, 'w+'));
    } catch (thrown) {
      throw unusable(path, thrown);
    }
  },
  async rename(from, to) {
    await explained(to, rename(from, to));
  },
  async remove(path) {
    await explained(path, rm(path, { force: true }));
  },
  async syncFolder(path) {
    // Windows can't open a folder, and needs no such thing.
    if (process.platform === 'win32') return;
    const folder = await open(dirname(path), 'r');
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  },
};

class NodeDiskFile implements DiskFile {
  readonly #path: string;
  readonly #handle: FileHandle;

  constructor(path: string, handle: FileHandle) {
    this.#path = path;
    this.#handle = handle;
  }

  async size(): Promise<number> {
    return (await this.#handle.stat()).size;
  }

  async read(target: Uint8Array, position: number): Promise<number> {
    let filled = 0;
    while (filled < target.length) {
      const { bytesRead } = await this.#handle.read(target, filled, target.length - filled, position + filled);
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
    return filled;
  }

  async write(bytes: Uint8Array, position: number): Promise<void> {
    let written = 0;
    while (written < bytes.length) {
      const { bytesWritten } = await explained(
        this.#path,
        this.#handle.write(bytes, written, bytes.length - written, position + written),
      );
      written += bytesWritten;
    }
  }

  truncate(length: number): Promise<void> {
    return explained(this.#path, this.#handle.truncate(length));
  }

  sync(): Promise<void> {
    return explained(this.#path, this.#handle.datasync());
  }

  close(): Promise<void> {
    return this.#handle.close();
  }
}

function errorCode(thrown: unknown): string | undefined {
  return thrown instanceof Error ? (thrown as NodeJS.ErrnoException).code : undefined;
}

async function explained<T>(path: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    const code = errorCode(cause);
    if (code === 'ENOSPC' || code === 'EDQUOT') {
      throw new GlinthawkError('DISK_FULL', `no space left to write ${path}`, {
        cause,
        hint: 'free some space and run the same command again: what was done is kept',
      });
    }
    throw new GlinthawkError('WRITE_FAILED', `writing ${path} failed: ${toError(cause).message}`, { cause });
  }
}

function unusable(path: string, thrown: unknown): Error {
  if (thrown instanceof GlinthawkError) return thrown;
  switch (errorCode(thrown)) {
    case 'ENOENT':
      return new InputError('FOLDER_MISSING', `there is no folder ${dirname(path)} for ${path}`, { cause: thrown });
    case 'EISDIR':
      return new InputError('NOT_A_FILE', `${path} is a folder, expected a file`, { cause: thrown });
    default:
      return new InputError('NOT_WRITABLE', `${path} can't be written: ${toError(thrown).message}`, { cause: thrown });
  }
}
