/**
 * A model from its server into the store, in a worker, while the page holds the model's lock. Invariant: the manifest is written
 * after every file is whole, hashed and flushed and the model opens; until then the model is listed as partial or, where an earlier
 * version of it is stored, as that one, whose files stay.
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
  areWhole,
  besides,
  bytesOfRecord,
  DOWNLOAD,
  type DownloadRecord,
  FILES,
  type FileRecord,
  isSameFile,
  keepOnly,
  MANIFEST,
  type Manifest,
  modelsDirectory,
  readDownload,
  readManifest,
  removeIfThere,
  sizesHere,
  storageQuota,
  storedModel,
  total,
} from './store-directory.ts';
import { openSyncFile, StorageFullError, writeJson } from './sync-file.ts';

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
  /** Files of the version that is stored, which stay until this one is. */
  #stored: readonly FileRecord[] = [];

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
    this.#records = remote.files.map(({ name, bytes, sha256, oid, etag }) => ({
      name,
      bytes,
      sha256,
      oid,
      etag,
      at: name,
    }));
  }

  async run(): Promise<StoredModel> {
    const { files } = this.#remote;
    const manifest = await readManifest(this.#directory);
    const stored = manifest !== null && areWhole(manifest.files, await sizesHere(this.#directory)) ? manifest : null;
    const contents = await this.#directory.getDirectoryHandle(FILES, { create: true });
    if (stored !== null && isSameSet(stored.files, files)) {
      await removeIfThere(this.#directory, DOWNLOAD);
      await keepOnly(contents, placesOf(stored.files));
      return storedModel(this.#id, stored);
    }
    this.#stored = stored?.files ?? [];
    const here = await this.#place(contents, (await readDownload(this.#directory)) ?? manifest);
    if (stored === null) await removeIfThere(this.#directory, MANIFEST);
    await checkRoom(total(files) - here);
    await this.#writeRecord();
    this.#meter.start(total(files));
    for (const [index, file] of files.entries()) await this.#fetch(contents, index, file);
    await this.#checkWhole(contents);
    return this.#finish(contents);
  }

  /** Finds each file its place, beside a stored one of its name, and throws out what nothing needs. @returns bytes that stay */
  async #place(contents: FileSystemDirectoryHandle, record: DownloadRecord | null): Promise<number> {
    const sizes = await sizesHere(this.#directory);
    const needed = new Set(placesOf(this.#stored));
    let bytes = 0;
    this.#records = this.#records.map((wanted) => {
      const old = this.#stored.find(({ name }) => name === wanted.name);
      const part = record?.files.find(({ name, at }) => name === wanted.name && at !== old?.at);
      const known = [old, part].find((each) => each !== undefined && isSameFile(each, wanted));
      const size = known === undefined ? 0 : (sizes.get(known.at) ?? 0);
      if (known !== undefined && size <= wanted.bytes) {
        bytes += size;
        needed.add(known.at);
        return { ...wanted, at: known.at, etag: wanted.etag ?? known.etag };
      }
      const other = part ?? old;
      if (other !== undefined && (sizes.get(other.at) ?? 0) > 0) this.#meter.note(whyAnew(wanted, other));
      return { ...wanted, at: old === undefined ? wanted.name : besides(old) };
    });
    await keepOnly(contents, needed);
    return bytes;
  }

  async #fetch(contents: FileSystemDirectoryHandle, index: number, file: RemoteFile): Promise<void> {
    const record = this.#records[index];
    if (record === undefined) throw new RangeError(`no record of ${file.name}`);
    const target = await openSyncFile(contents, record.at);
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
    for (const { name, at } of this.#records) blobs.set(name, await (await contents.getFileHandle(at)).getFile());
    try {
      for (const [name, blob] of blobs) if (name.endsWith('.json')) checkJson(name, await blob.text());
      const model = await openModelFiles(blobFiles(this.#remote.name, blobs, isSingle(this.#records)));
      await model.close();
    } catch (thrown) {
      // A family that a later version may run is whole all the same.
      if (thrown instanceof UnsupportedError) return;
      if (!(thrown instanceof ModelFormatError)) throw thrown;
      await this.#discard(contents);
      throw new ModelFormatError(thrown.code, thrown.message, {
        cause: thrown,
        hint: 'What was downloaded is damaged as its server has it, and was thrown away.',
      });
    }
  }

  async #discard(contents: FileSystemDirectoryHandle): Promise<void> {
    if (this.#stored.length === 0) return removeIfThere(await modelsDirectory(), this.#id);
    await removeIfThere(this.#directory, DOWNLOAD);
    await keepOnly(contents, placesOf(this.#stored));
  }

  async #finish(contents: FileSystemDirectoryHandle): Promise<StoredModel> {
    const manifest: Manifest = { ...this.#record(), storedAt: new Date().toISOString() };
    await writeJson(this.#directory, MANIFEST, manifest);
    await removeIfThere(this.#directory, DOWNLOAD);
    await keepOnly(contents, placesOf(manifest.files));
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

function placesOf(files: readonly FileRecord[]): ReadonlySet<string> {
  return new Set(files.map(({ at }) => at));
}

function whyAnew(wanted: FileRecord, here: FileRecord): string {
  const silent = here.bytes === wanted.bytes && wanted.etag === null && wanted.sha256 === null && wanted.oid === null;
  const why = silent ? "its server doesn't say whether it is still the same" : 'it is another file now';
  return `${wanted.name} started anew: ${why}`;
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
  const record = await readDownload(directory);
  const here = record === null ? 0 : bytesOfRecord(record, await sizesHere(directory));
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
