/**
 * Files of the origin private file system as workers write them: in place, at any offset, one writer at a time. Not for the page,
 * where browsers don't offer it. A full disk or quota comes out as StorageFullError, whatever the browser calls it.
 */

/** FileSystemSyncAccessHandle, which TypeScript's `dom` library leaves to `webworker`; the two exclude each other. */
export interface SyncFile {
  read(buffer: Uint8Array<ArrayBuffer>, options: { readonly at: number }): number;
  write(buffer: Uint8Array<ArrayBuffer>, options: { readonly at: number }): number;
  truncate(bytes: number): void;
  getSize(): number;
  flush(): void;
  close(): void;
}

export class StorageFullError extends Error {}

/** Creates it if need be. The caller closes it. @throws StorageFullError */
export async function openSyncFile(directory: FileSystemDirectoryHandle, name: string): Promise<SyncFile> {
  try {
    const handle = (await directory.getFileHandle(name, { create: true })) as FileSystemFileHandle & {
      createSyncAccessHandle(): Promise<SyncFile>;
    };
    return await handle.createSyncAccessHandle();
  } catch (thrown) {
    throw fullOr(thrown);
  }
}

/** @throws StorageFullError */
export function writeAll(file: SyncFile, bytes: Uint8Array<ArrayBuffer>, at: number): void {
  const written = guarded(() => file.write(bytes, { at }));
  // The specification lets a write end early when there is no room; in Chromium's private windows, where files are kept in memory,
  // the count is then 2 ** 32 - 8 (its error number for a full disk, read as unsigned; seen in Chromium 156).
  if (written !== bytes.byteLength) throw new StorageFullError();
}

/** @throws StorageFullError */
export async function writeJson(directory: FileSystemDirectoryHandle, name: string, value: unknown): Promise<void> {
  const file = await openSyncFile(directory, name);
  try {
    guarded(() => file.truncate(0));
    writeAll(file, new TextEncoder().encode(JSON.stringify(value)), 0);
    guarded(() => file.flush());
  } finally {
    file.close();
  }
}

export function guarded<T>(work: () => T): T {
  try {
    return work();
  } catch (thrown) {
    throw fullOr(thrown);
  }
}

function fullOr(thrown: unknown): unknown {
  if (!(thrown instanceof DOMException)) return thrown;
  // Besides the name, Chromium's own words for a disk that is full.
  const full = thrown.name === 'QuotaExceededError' || /no space|disk.*full|quota/i.test(thrown.message);
  return full ? new StorageFullError() : thrown;
}
