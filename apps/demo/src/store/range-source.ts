/**
 * A file on a server as the model parsers' FileSource, read by ranges, with a small cache of blocks: enough to read a header of some
 * megabytes in a few requests. Not for weights. Fails when the file changes between two reads.
 */
import { ModelFormatError } from '@glinthawk/core';
import type { FileSource, ModelFiles } from '@glinthawk/model';
import { contentRange, persistently, type RequestOptions, readAtMost, request, strongEtag } from './http.ts';
import { NetworkError } from './network-error.ts';
import type { RemoteFile } from './store-api.ts';

const BLOCK_BYTES = 256 * 2 ** 10;
const MAX_BLOCKS = 32;

/** Only files whose server answers ranges. */
export function remoteFiles(
  name: string,
  files: readonly RemoteFile[],
  single: boolean,
  options: RequestOptions,
): ModelFiles {
  return {
    name,
    single,
    entries: files.map((file) => file.name),
    open: async (entry) => {
      const file = files.find((candidate) => candidate.name === entry);
      if (file === undefined) throw new ModelFormatError('MODEL_FILE_MISSING', `${name} has no file ${entry}`);
      return openRange(file, options);
    },
  };
}

export function openRange(file: RemoteFile, options: RequestOptions): FileSource {
  /** By index; the one used last stands last. */
  const blocks = new Map<number, Uint8Array<ArrayBuffer>>();
  const blocksOf = async (first: number, last: number): Promise<void> => {
    const start = first * BLOCK_BYTES;
    const length = Math.min((last + 1) * BLOCK_BYTES, file.bytes) - start;
    const bytes = await persistently(options.signal, () => fetchRange(file, start, length, options));
    for (let index = first; index <= last; index++) {
      blocks.set(index, bytes.slice((index - first) * BLOCK_BYTES, (index - first + 1) * BLOCK_BYTES));
    }
  };
  return {
    name: file.name,
    size: file.bytes,
    read: async (offset, length) => {
      if (offset < 0 || length < 0 || offset + length > file.bytes) {
        throw new ModelFormatError(
          'MODEL_TRUNCATED',
          `${file.name}: ${length} bytes are expected at offset ${offset}, but the file has ${file.bytes} bytes`,
          {
            hint: 'The file on the server is damaged or incomplete.',
          },
        );
      }
      if (length > BLOCK_BYTES * MAX_BLOCKS) {
        return persistently(options.signal, () => fetchRange(file, offset, length, options));
      }
      const result = new Uint8Array(length);
      if (length === 0) return result;
      const first = Math.floor(offset / BLOCK_BYTES);
      const last = Math.floor((offset + length - 1) / BLOCK_BYTES);
      const missing: number[] = [];
      for (let index = first; index <= last; index++) if (!blocks.has(index)) missing.push(index);
      const [from] = missing;
      const to = missing.at(-1);
      if (from !== undefined && to !== undefined) await blocksOf(from, to);
      for (let index = first; index <= last; index++) {
        const block = blocks.get(index);
        if (block === undefined) throw new RangeError(`block ${index} of ${file.name} was not fetched`);
        blocks.delete(index);
        blocks.set(index, block);
        const begin = index * BLOCK_BYTES;
        const part = block.subarray(Math.max(0, offset - begin), offset + length - begin);
        result.set(part, Math.max(0, begin - offset));
      }
      for (const index of blocks.keys()) {
        if (blocks.size <= MAX_BLOCKS) break;
        blocks.delete(index);
      }
      return result;
    },
    close: async () => blocks.clear(),
  };
}

async function fetchRange(
  file: RemoteFile,
  offset: number,
  length: number,
  options: RequestOptions,
): Promise<Uint8Array<ArrayBuffer>> {
  const response = await request(file.url, { Range: `bytes=${offset}-${offset + length - 1}` }, options);
  const range = contentRange(response);
  const etag = strongEtag(response);
  if (
    response.status !== 206 ||
    (range !== null && (range.start !== offset || range.total !== file.bytes)) ||
    (file.etag !== null && etag !== null && etag !== file.etag)
  ) {
    await response.body?.cancel().catch(() => {});
    throw new NetworkError('NETWORK_CHANGED', `${file.name} changed on the server while its header was read`, {
      hint: 'Look at it again.',
    });
  }
  const bytes = await readAtMost(response, length, options.signal);
  if (bytes.byteLength !== length) {
    throw new NetworkError(
      'NETWORK_CUT',
      `${new URL(file.url).host} sent ${bytes.byteLength} of ${length} bytes of ${file.name}`,
      { transient: true },
    );
  }
  return bytes;
}
