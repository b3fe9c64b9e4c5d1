/**
 * How models lie in the origin private file system: `models/<id>/files/<name>`, beside `download.json` while they are fetched and
 * `manifest.json`, written last, once they are whole. A newer version of a stored file lies beside it, as `<name>~`, until the
 * manifest names that one. A record that can't be read counts as absent. Holds no locks; see model-locks.ts.
 */
import { isFileName } from './file-names.ts';
import { isModelId, readModelSource } from './model-source.ts';
import type { ModelSource, PartialModel, RemoteFile, StoredModel } from './store-api.ts';

export const MANIFEST = 'manifest.json';
export const DOWNLOAD = 'download.json';
export const FILES = 'files';
const ROOT = 'models';
const VERSION = 1;
const MAX_RECORD_BYTES = 2 ** 20;
const MAX_FILES = 2048;

/** A file's identity, as far as its server told it. */
export interface FileRecord {
  readonly name: string;
  readonly bytes: number;
  readonly sha256: string | null;
  readonly oid: string | null;
  readonly etag: string | null;
  /** Its name among the files here: its own, or the other one. */
  readonly at: string;
}

/** Where a version of a file goes while the one at `at` is still needed. No server's file has such a name; see file-names.ts. */
export function besides({ name, at }: Pick<FileRecord, 'name' | 'at'>): string {
  return at === name ? `${name}~` : name;
}

/** SHA-1, or SHA-256 in repositories of that kind. */
export function isGitOid(value: unknown): value is string {
  return typeof value === 'string' && /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(value);
}

export interface DownloadRecord {
  readonly version: 1;
  readonly name: string;
  readonly source: ModelSource;
  readonly files: readonly FileRecord[];
}

export interface Manifest extends DownloadRecord {
  readonly storedAt: string;
}

/**
 * Whether a file that is here, or a part of it, is of the one that a server has now: same size, and what says most of the content
 * on both sides says so. A checksum goes before a validator, which servers change as they like.
 */
export function isSameFile(here: FileRecord, there: FileRecord | RemoteFile): boolean {
  if (here.name !== there.name || here.bytes !== there.bytes) return false;
  for (const key of ['sha256', 'oid', 'etag'] as const) {
    if (here[key] !== null && there[key] !== null) return here[key] === there[key];
  }
  return false;
}

/** Whether every file that a record names is here, to the byte. */
export function areWhole(files: readonly FileRecord[], sizes: ReadonlyMap<string, number>): boolean {
  return files.every(({ at, bytes }) => sizes.get(at) === bytes);
}

export function bytesOfRecord({ files }: DownloadRecord, sizes: ReadonlyMap<string, number>): number {
  return files.reduce((sum, { at, bytes }) => sum + Math.min(sizes.get(at) ?? 0, bytes), 0);
}

/** Removes what no record needs any more. */
export async function keepOnly(contents: FileSystemDirectoryHandle, needed: ReadonlySet<string>): Promise<void> {
  const names: string[] = [];
  for await (const name of contents.keys()) names.push(name);
  for (const name of names) if (!needed.has(name)) await removeIfThere(contents, name);
}

export async function removeIfThere(directory: FileSystemDirectoryHandle, name: string): Promise<void> {
  await directory.removeEntry(name, { recursive: true }).catch(nullWhenAbsent);
}

export async function modelsDirectory(): Promise<FileSystemDirectoryHandle> {
  const root = await navigator.storage.getDirectory();
  return root.getDirectoryHandle(ROOT, { create: true });
}

/** null when there is none. */
export async function modelDirectory(id: string): Promise<FileSystemDirectoryHandle | null> {
  if (!isModelId(id)) return null;
  return (await modelsDirectory()).getDirectoryHandle(id).catch(nullWhenAbsent);
}

/** Bytes that this origin may still store, as far as the browser tells; null where it doesn't. */
export async function storageQuota(): Promise<{
  readonly quota: number | null;
  readonly used: number | null;
  readonly room: number | null;
}> {
  // Safari has had estimate() for less long than directories.
  const { quota, usage } = 'estimate' in navigator.storage ? await navigator.storage.estimate() : {};
  const room = quota === undefined || usage === undefined ? null : Math.max(0, quota - usage);
  return { quota: quota ?? null, used: usage ?? null, room };
}

/** An entry that is not there, rather than a failure. */
export function nullWhenAbsent(thrown: unknown): null {
  if (thrown instanceof DOMException && (thrown.name === 'NotFoundError' || thrown.name === 'TypeMismatchError'))
    return null;
  throw thrown;
}

/** An entry that is gone, or that a browser doesn't show while a download writes it. */
function nullWhenUnreadable(thrown: unknown): null {
  if (thrown instanceof DOMException) return null;
  throw thrown;
}

export async function readDownload(directory: FileSystemDirectoryHandle): Promise<DownloadRecord | null> {
  return readRecord(await readJsonFile(directory, DOWNLOAD));
}

export async function readManifest(directory: FileSystemDirectoryHandle): Promise<Manifest | null> {
  const json = await readJsonFile(directory, MANIFEST);
  const record = readRecord(json);
  if (record === null || !record.files.every((file) => file.sha256 !== null)) return null;
  const storedAt = typeof json === 'object' && json !== null && 'storedAt' in json ? json.storedAt : null;
  return typeof storedAt === 'string' && !Number.isNaN(Date.parse(storedAt)) ? { ...record, storedAt } : null;
}

async function readJsonFile(directory: FileSystemDirectoryHandle, name: string): Promise<unknown> {
  const handle = await directory.getFileHandle(name).catch(nullWhenAbsent);
  const file = await handle?.getFile();
  if (file === undefined || file.size > MAX_RECORD_BYTES) return null;
  try {
    return JSON.parse(await file.text());
  } catch {
    // Cut while it was being written.
    return null;
  }
}

function readRecord(json: unknown): DownloadRecord | null {
  if (typeof json !== 'object' || json === null) return null;
  if (!('version' in json && 'name' in json && 'source' in json && 'files' in json)) return null;
  const source = readModelSource(json.source);
  if (json.version !== VERSION || typeof json.name !== 'string' || source === null || !Array.isArray(json.files))
    return null;
  const files = json.files.map(readFileRecord).filter((file) => file !== null);
  if (files.length !== json.files.length || files.length === 0 || files.length > MAX_FILES) return null;
  return { version: VERSION, name: json.name, source, files };
}

function readFileRecord(json: unknown): FileRecord | null {
  if (typeof json !== 'object' || json === null) return null;
  if (!('name' in json && 'bytes' in json && 'sha256' in json && 'etag' in json)) return null;
  const { name, bytes, sha256, etag } = json;
  if (typeof name !== 'string' || !isFileName(name)) return null;
  if (typeof bytes !== 'number' || !Number.isSafeInteger(bytes) || bytes < 0) return null;
  if (!(sha256 === null || (typeof sha256 === 'string' && /^[0-9a-f]{64}$/.test(sha256)))) return null;
  if (!(etag === null || typeof etag === 'string')) return null;
  // Both came with a later version of this page.
  const oid = 'oid' in json && isGitOid(json.oid) ? json.oid : null;
  const at = 'at' in json ? json.at : name;
  if (at !== name && at !== besides({ name, at: name })) return null;
  return { name, bytes, sha256, oid, etag, at };
}

/** Sizes of the files that are here, whole or not, by where they are (`at`). */
export async function sizesHere(directory: FileSystemDirectoryHandle): Promise<ReadonlyMap<string, number>> {
  const sizes = new Map<string, number>();
  const files = await directory.getDirectoryHandle(FILES).catch(nullWhenAbsent);
  if (files === null) return sizes;
  for await (const [name, handle] of files.entries()) {
    if (handle.kind !== 'file') continue;
    const file = await files
      .getFileHandle(name)
      .then((found) => found.getFile())
      .catch(nullWhenUnreadable);
    if (file !== null) sizes.set(name, file.size);
  }
  return sizes;
}

/** What one directory holds; null for one that no record speaks of. */
export async function readModel(
  id: string,
  directory: FileSystemDirectoryHandle,
): Promise<{ readonly stored: StoredModel } | { readonly partial: PartialModel } | null> {
  const sizes = await sizesHere(directory);
  const manifest = await readManifest(directory);
  if (manifest !== null && areWhole(manifest.files, sizes)) return { stored: storedModel(id, manifest) };
  const record = (await readDownload(directory)) ?? manifest;
  if (record === null) return null;
  const { name, source, files } = record;
  return { partial: { id, name, source, bytesHere: bytesOfRecord(record, sizes), bytes: total(files) } };
}

export function storedModel(id: string, { name, source, files, storedAt }: Manifest): StoredModel {
  return {
    id,
    name,
    source,
    files: files.map((file) => ({ name: file.name, bytes: file.bytes, sha256: file.sha256 ?? '' })),
    bytes: total(files),
    storedAt,
  };
}

export function total(files: readonly { readonly bytes: number }[]): number {
  return files.reduce((sum, file) => sum + file.bytes, 0);
}
