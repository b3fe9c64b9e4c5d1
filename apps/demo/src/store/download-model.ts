/**
 * A model from its server into the store, in a worker, while the page holds the model's lock. Invariant: the manifest is written
 * after every file is whole, hashed and flushed and the model opens; until then the model is listed as partial.
 */
import { CapacityError, ModelFormatError, UnsupportedError } from '@glinthawk/core';
import { blobFiles, openModelFiles } from '@glinthawk/model';
import { formatBytes } from '../state/format.ts';
import { type DownloadTiming, downloadFile, FileChangedError } from './download-file.ts';
import { checkJson } from './file-checks.ts';
import { isSingle } from './file-names.ts';
import type { RequestOptions } from './http.ts';
import { locateAgain } from './locate-model.ts';
import { NetworkError } from './network-error.ts';
import { ProgressMeter } from './progress-meter.ts';
import type { DownloadProgress, RemoteFile, RemoteModel, StoredModel } from './store-api.ts';
import {
  DOWNLOAD,
  type DownloadRecord,
  FILES,
  type FileRecord,
  isSameFile,
  MANIFEST,
  type Manifest,
  modelsDirectory,
  readDownload,
  readManifest,
  sizesHere,
  storageQuota,
  storedModel,
  total,
} from './store-directory.ts';
import { openSyncFile, removeIfThere, StorageFullError, writeJson } from './sync-file.ts';

export interface ModelDownloadOptions extends RequestOptions, DownloadTiming {
  readonly onProgress: (progress: DownloadProgress) => void;
}

/** How often the file may change on the server while it is fetched. */
const MAX_CHANGES = 3;

/** @throws NetworkError, ModelFormatError, CapacityError, AbortedError; what is worth going on with stays */
export async function downloadModel(
  id: string,
  remote: RemoteModel,
  options: ModelDownloadOptions,
): Promise<StoredModel> {
  const directory = await (await modelsDirectory()).getDirectoryHandle(id, { create: true });
  const meter = new ProgressMeter(options.onProgress);
  try {
    return await downloadUnchanged(id, directory, remote, options, meter);
  } finally {
    // What brought nothing leaves nothing.
    if (total([...(await sizesHere(directory)).values()].map((bytes) => ({ bytes }))) === 0) {
      await removeIfThere(await modelsDirectory(), id);
    }
  }
}

/** Begins again when the files change on their server meanwhile. */
async function downloadUnchanged(
  id: string,
  directory: FileSystemDirectoryHandle,
  remote: RemoteModel,
  options: ModelDownloadOptions,
  meter: ProgressMeter,
): Promise<StoredModel> {
  let files = remote.files;
  for (let changes = 0; ; changes++) {
    try {
      return await new ModelDownload(id, directory, { ...remote, files }, options, meter).run();
    } catch (thrown) {
      if (thrown instanceof StorageFullError) throw await storageFull(directory, files);
      if (!(thrown instanceof FileChangedError)) throw thrown;
      if (remote.source.kind === 'hub' || changes === MAX_CHANGES) {
        throw new NetworkError('NETWORK_CHANGED', thrown.message, {
          hint: 'Look at the model again, then download it.',
        });
      }
      meter.note(`${thrown.message}, so it started anew`);
      files = await locateAgain(files, options);
    }
  }
}

class ModelDownload {
  readonly #id: string;
  readonly #directory: FileSystemDirectoryHandle;
  readonly #remote: RemoteModel;
  readonly #options: ModelDownloadOptions;
  readonly #meter: ProgressMeter;
  #records: FileRecord[];

  constructor(
    id: string,
    directory: FileSystemDirectoryHandle,
    remote: RemoteModel,
    options: ModelDownloadOptions,
    meter: ProgressMeter,
  ) {
    this.#id = id;
    this.#directory = directory;
    this.#remote = remote;
    this.#options = options;
    this.#meter = meter;
    this.#records = remote.files.map(({ name, bytes, sha256, etag }) => ({ name, bytes, sha256, etag }));
  }

  async run(): Promise<StoredModel> {
    const { files } = this.#remote;
    const manifest = await readManifest(this.#directory);
    const sizes = await sizesHere(this.#directory);
    const whole = ({ name, bytes }: FileRecord) => sizes.get(name) === bytes;
    if (manifest !== null && isSameSet(manifest.files, files) && manifest.files.every(whole)) {
      await removeIfThere(this.#directory, DOWNLOAD);
      return storedModel(this.#id, manifest);
    }
    const contents = await this.#directory.getDirectoryHandle(FILES, { create: true });
    const here = await this.#keepSame(contents, (await readDownload(this.#directory)) ?? manifest);
    await removeIfThere(this.#directory, MANIFEST);
    await checkRoom(total(files) - here);
    await this.#writeRecord();
    this.#meter.start(total(files));
    for (const [index, file] of files.entries()) await this.#fetch(contents, index, file);
    await this.#checkWhole(contents);
    return this.#finish();
  }

  /** Throws out what is of another file than the server has now. @returns bytes that stay */
  async #keepSame(contents: FileSystemDirectoryHandle, record: DownloadRecord | null): Promise<number> {
    const sizes = await sizesHere(this.#directory);
    let bytes = 0;
    for (const [name, size] of sizes) {
      const index = this.#records.findIndex((file) => file.name === name);
      const wanted = this.#records[index];
      const known = record?.files.find((file) => file.name === name);
      if (wanted !== undefined && known !== undefined && isSameFile(known, wanted) && size <= wanted.bytes) {
        bytes += size;
        this.#records[index] = { ...wanted, etag: wanted.etag ?? known.etag };
        continue;
      }
      await removeIfThere(contents, name);
      if (wanted !== undefined && size > 0) {
        const why =
          known !== undefined && known.bytes === wanted.bytes && wanted.etag === null
            ? "its server doesn't say whether it is still the same"
            : 'it is another file now';
        this.#meter.note(`${name} started anew: ${why}`);
      }
    }
    return bytes;
  }

  async #fetch(contents: FileSystemDirectoryHandle, index: number, file: RemoteFile): Promise<void> {
    const record = this.#records[index];
    if (record === undefined) throw new RangeError(`no record of ${file.name}`);
    const target = await openSyncFile(contents, file.name);
    this.#meter.file(file.name);
    try {
      const sha256 = await downloadFile({ ...file, etag: record.etag }, target, {
        ...this.#options,
        onBytes: (bytes) => this.#meter.bytes(bytes),
        onRetry: (reason) => this.#meter.retrying(reason),
        onNote: (note) => this.#meter.note(note),
        onEtag: async (etag) => {
          this.#records[index] = { ...record, etag };
          await this.#writeRecord();
        },
      });
      this.#records[index] = { ...(this.#records[index] ?? record), sha256 };
    } finally {
      target.close();
    }
  }

  /** As the engine will open it: a file that was cut before it got to its server is found out here, where ranges didn't tell before. */
  async #checkWhole(contents: FileSystemDirectoryHandle): Promise<void> {
    const blobs = new Map<string, Blob>();
    for (const { name } of this.#records) blobs.set(name, await (await contents.getFileHandle(name)).getFile());
    try {
      for (const [name, blob] of blobs) if (name.endsWith('.json')) checkJson(name, await blob.text());
      const model = await openModelFiles(blobFiles(this.#remote.name, blobs, isSingle(this.#records)));
      await model.close();
    } catch (thrown) {
      // A family that a later version may run is whole all the same.
      if (thrown instanceof UnsupportedError) return;
      if (!(thrown instanceof ModelFormatError)) throw thrown;
      await this.#discard();
      throw new ModelFormatError(thrown.code, thrown.message, {
        cause: thrown,
        hint: 'What was downloaded is damaged as its server has it, and was thrown away.',
      });
    }
  }

  async #discard(): Promise<void> {
    await removeIfThere(await modelsDirectory(), this.#id);
  }

  async #finish(): Promise<StoredModel> {
    const manifest: Manifest = { ...this.#record(), storedAt: new Date().toISOString() };
    await writeJson(this.#directory, MANIFEST, manifest);
    await removeIfThere(this.#directory, DOWNLOAD);
    this.#meter.end();
    return storedModel(this.#id, manifest);
  }

  #record(): DownloadRecord {
    return { version: 1, name: this.#remote.name, source: this.#remote.source, files: this.#records };
  }

  async #writeRecord(): Promise<void> {
    await writeJson(this.#directory, DOWNLOAD, this.#record());
  }
}

function isSameSet(here: readonly FileRecord[], there: readonly RemoteFile[]): boolean {
  return here.length === there.length && there.every((file) => here.some((record) => isSameFile(record, file)));
}

/** @throws CapacityError */
async function checkRoom(needed: number): Promise<void> {
  const { room } = await storageQuota();
  if (room !== null && needed > room) throw full(needed, room);
}

/** Where a write failed; what the browser says of its quota is then not to be trusted (Chromium's figure is made up, for privacy). */
async function storageFull(directory: FileSystemDirectoryHandle, files: readonly RemoteFile[]): Promise<CapacityError> {
  const sizes = await sizesHere(directory);
  const here = files.reduce((sum, file) => sum + Math.min(sizes.get(file.name) ?? 0, file.bytes), 0);
  return new CapacityError(
    'STORAGE_FULL',
    `this browser's storage is full: ${formatBytes(total(files) - here)} of ${formatBytes(total(files))} are still to come`,
    { hint: STORAGE_HINT },
  );
}

function full(needed: number, room: number): CapacityError {
  return new CapacityError(
    'STORAGE_FULL',
    `${formatBytes(needed)} are still to be stored, but this browser has room for ${formatBytes(room)}: ${formatBytes(needed - room)} are missing`,
    { hint: STORAGE_HINT },
  );
}

const STORAGE_HINT =
  'Delete another model here, or free space on the disk; then download again, which goes on where it stopped. Opening the files from disk needs no room.';
