/**
 * An input that can be read twice: a file, or standard input (or a pipe) copied to a temporary file first. gzip is told by its
 * first two bytes. The SHA-256 of the raw bytes says whether it is the same input as last time.
 */
import { createHash, type Hash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { type FileHandle, mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import { AbortedError, InputError, toError } from '@glinthawk/core';
import { type InputLine, splitLines } from '../line-splitter.ts';

const READ_BYTES = 1 << 18;

export interface InputFile {
  /** For people: the path, or `standard input`. */
  readonly name: string;
  /** From the first byte, each time. @throws InputError when it can't be read, is damaged gzip, or changed since the hash was taken. */
  lines(): AsyncIterable<InputLine>;
  /** Hex; reads the whole file once. */
  sha256(): Promise<string>;
  close(): Promise<void>;
}

export interface InputFileOptions {
  /** What `-` is. */
  readonly stdin?: Readable;
  /** Ends the wait for what standard input or a pipe still has to give. */
  readonly signal?: AbortSignal;
}

/**
 * @param path a file, or `-` for standard input
 * @throws InputError when there is none, or it isn't a file; AbortedError
 */
export async function openInputFile(path: string, options: InputFileOptions = {}): Promise<InputFile> {
  const { stdin = process.stdin, signal } = options;
  if (path === '-') return spooled(stdin, 'standard input', signal);
  const handle = await openToRead(path);
  const stat = await handle.stat();
  if (stat.isDirectory()) {
    await handle.close();
    throw new InputError('INPUT_UNREADABLE', `the input ${path} is a folder, expected a JSONL file`);
  }
  if (stat.isFile()) return new OpenInput(path, handle, async () => {});
  const stream = handle.createReadStream({ autoClose: true });
  return spooled(stream, path, signal);
}

async function openToRead(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r');
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') throw new InputError('INPUT_MISSING', `there is no input file ${path}`, { cause });
    throw new InputError('INPUT_UNREADABLE', `the input ${path} can't be read: ${toError(cause).message}`, { cause });
  }
}

async function spooled(stream: Readable, name: string, signal?: AbortSignal): Promise<InputFile> {
  const folder = await mkdtemp(join(tmpdir(), 'glinthawk-'));
  const path = join(folder, 'input');
  const remove = () => rm(folder, { recursive: true, force: true });
  try {
    await pipeline(stream, createWriteStream(path, { mode: 0o600 }), signal === undefined ? {} : { signal });
    const handle = await open(path, 'r');
    if (process.platform === 'win32') return new OpenInput(name, handle, remove);
    // The open file lives on without a name, and goes with the process however that ends.
    await remove();
    return new OpenInput(name, handle, async () => {});
  } catch (cause) {
    await remove();
    if (signal?.aborted) throw signal.reason instanceof AbortedError ? signal.reason : new AbortedError();
    throw new InputError('INPUT_UNREADABLE', `${name} can't be read: ${toError(cause).message}`, { cause });
  }
}

class OpenInput implements InputFile {
  readonly name: string;
  readonly #handle: FileHandle;
  readonly #remove: () => Promise<void>;
  #sha256: Promise<string> | null = null;

  constructor(name: string, handle: FileHandle, remove: () => Promise<void>) {
    this.name = name;
    this.#handle = handle;
    this.#remove = remove;
  }

  sha256(): Promise<string> {
    this.#sha256 ??= this.#hash();
    return this.#sha256;
  }

  async #hash(): Promise<string> {
    const hash = createHash('sha256');
    for await (const chunk of this.#chunks()) hash.update(chunk);
    return hash.digest('hex');
  }

  /** Whole passes are hashed too, so that a file written to meanwhile doesn't go unnoticed. */
  async *lines(): AsyncGenerator<InputLine> {
    const expected = this.#sha256 === null ? null : await this.#sha256;
    const hash = createHash('sha256');
    yield* splitLines(this.#decompressed(hash));
    if (expected !== null && hash.digest('hex') !== expected) {
      throw new InputError('INPUT_CHANGED', `the input ${this.name} changed while it was read`);
    }
  }

  async *#decompressed(hash: Hash): AsyncGenerator<Uint8Array> {
    const magic = Buffer.alloc(2);
    const { bytesRead } = await this.#handle.read(magic, 0, 2, 0);
    const isGzip = bytesRead === 2 && magic[0] === 0x1f && magic[1] === 0x8b;
    if (!isGzip) {
      yield* this.#chunks(hash);
      return;
    }
    const gunzip = createGunzip();
    const feeding = pipeline(this.#chunks(hash), gunzip);
    feeding.catch(() => {}); // The reader below sees the same failure.
    try {
      for await (const chunk of gunzip) yield chunk as Uint8Array;
      await feeding;
    } catch (cause) {
      throw new InputError('INPUT_DAMAGED', `the input ${this.name} is damaged gzip: ${toError(cause).message}`, {
        cause,
      });
    } finally {
      gunzip.destroy();
      await feeding.catch(() => {});
    }
  }

  async *#chunks(hash?: Hash): AsyncGenerator<Uint8Array> {
    let position = 0;
    for (;;) {
      const buffer = Buffer.allocUnsafe(READ_BYTES);
      const { bytesRead } = await this.#handle.read(buffer, 0, READ_BYTES, position);
      if (bytesRead === 0) return;
      position += bytesRead;
      const chunk = buffer.subarray(0, bytesRead);
      hash?.update(chunk);
      yield chunk;
    }
  }

  async close(): Promise<void> {
    await this.#handle.close();
    await this.#remove();
  }
}
