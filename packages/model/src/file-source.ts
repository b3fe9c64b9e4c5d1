/**
 * Random access to a model's files, wherever they are: a disk, Blobs of a browser, ranges over HTTP. Parsers know these two
 * interfaces and nothing of Node. Not here: any format.
 */
import { ModelFormatError, toError } from '@glinthawk/core';

export interface FileSource {
  /** As in error messages. */
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  /**
   * Exactly `length` bytes, in a buffer of their own that starts at offset 0 of its ArrayBuffer.
   * @throws ModelFormatError when the file ends before, or can't be read.
   */
  read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>>;
  close(): Promise<void>;
}

/** A folder of model files, or one file by itself. */
export interface ModelFiles {
  /** The folder's or the file's own name, for people. */
  readonly name: string;
  /** Names of the files directly in the folder; of a file by itself, its own. */
  readonly entries: readonly string[];
  /** Whether it is one file, rather than a folder. */
  readonly single: boolean;
  /** The caller closes what it opens. @throws ModelFormatError when there is no such file or it can't be opened. */
  open(entry: string): Promise<FileSource>;
}

/** @throws ModelFormatError when [offset, offset + length) isn't inside the file. */
export function assertInside(
  file: { readonly name: string; readonly size: number },
  offset: number,
  length: number,
): void {
  if (
    !Number.isSafeInteger(offset) ||
    !Number.isSafeInteger(length) ||
    offset < 0 ||
    length < 0 ||
    offset + length > file.size
  ) {
    throw new ModelFormatError(
      'MODEL_TRUNCATED',
      `${file.name}: ${length} bytes are expected at offset ${offset}, but the file has ${file.size} bytes`,
      { hint: 'The file is damaged or was not downloaded completely; fetch it again.' },
    );
  }
}

/** The whole of a small file. @throws ModelFormatError when it is longer than `maxBytes`. */
export async function readWhole(files: ModelFiles, entry: string, maxBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const file = await files.open(entry);
  try {
    if (file.size > maxBytes) {
      throw new ModelFormatError(
        'MODEL_FILE_TOO_LARGE',
        `${file.name} has ${file.size} bytes; at most ${maxBytes} are read of such a file`,
      );
    }
    return await file.read(0, file.size);
  } finally {
    await file.close();
  }
}

const documentDecoder = new TextDecoder('utf-8', { fatal: true });
const exactDecoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** A text file's content, without a byte order mark. @throws ModelFormatError when it isn't UTF-8 */
export function decodeUtf8(bytes: Uint8Array, where: string): string {
  return decode(documentDecoder, bytes, where);
}

/** A string inside a binary file, every character of it. @throws ModelFormatError when it isn't UTF-8 */
export function decodeExactUtf8(bytes: Uint8Array, where: string): string {
  return decode(exactDecoder, bytes, where);
}

function decode(decoder: TextDecoder, bytes: Uint8Array, where: string): string {
  try {
    return decoder.decode(bytes);
  } catch (thrown) {
    throw new ModelFormatError('MODEL_ENCODING', `${where} is not valid UTF-8`, { cause: toError(thrown) });
  }
}

/** @throws ModelFormatError when it isn't JSON, with the parser's position. */
export function parseJson(text: string, where: string): unknown {
  try {
    return JSON.parse(text);
  } catch (thrown) {
    const cause = toError(thrown);
    throw new ModelFormatError('MODEL_JSON', `${where} is not valid JSON: ${cause.message}`, { cause });
  }
}

/** A JSON file of the folder, or undefined when it isn't there. */
export async function readJson(files: ModelFiles, entry: string, maxBytes: number): Promise<unknown> {
  if (!files.entries.includes(entry)) return undefined;
  return parseJson(decodeUtf8(await readWhole(files, entry, maxBytes), entry), entry);
}

/** Files held as Blobs, as a browser's file picker gives them. */
export function blobFiles(name: string, blobs: ReadonlyMap<string, Blob>, single = false): ModelFiles {
  return {
    name,
    single,
    entries: [...blobs.keys()],
    open: async (entry) => {
      const blob = blobs.get(entry);
      if (blob === undefined) throw new ModelFormatError('MODEL_FILE_MISSING', `${name} has no file ${entry}`);
      return {
        name: entry,
        size: blob.size,
        read: async (offset, length) => {
          assertInside({ name: entry, size: blob.size }, offset, length);
          return new Uint8Array(await blob.slice(offset, offset + length).arrayBuffer());
        },
        close: async () => {},
      };
    },
  };
}
