/** Files out of what a browser hands over: an input's list, or a drop with folders in it. Reads names, no contents. */
import { InputError } from '@glinthawk/core';
import { type LocalFile, MAX_FILES } from '../state/local-files.ts';

export function filesOfInput(list: FileList): readonly LocalFile[] {
  return bounded([...list].map((file) => ({ path: file.webkitRelativePath || file.name, blob: file })));
}

/** @throws InputError for more files than a model has, or folders that can't be read */
export async function filesOfDrop(transfer: DataTransfer): Promise<readonly LocalFile[]> {
  // Entries must be taken before the first await: the list is emptied when the event ends.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry()).filter((entry) => entry !== null);
  const files: LocalFile[] = [];
  for (const entry of entries) await collect(entry, files, 0);
  return bounded(files);
}

/** A model's files lie at the top of its folder; deeper ones are other things. */
const MAX_DEPTH = 2;

async function collect(entry: FileSystemEntry, into: LocalFile[], depth: number): Promise<void> {
  if (into.length > MAX_FILES) return;
  if (isFile(entry)) {
    const file = await new Promise<File>((resolve, reject) => entry.file(resolve, reject));
    into.push({ path: entry.fullPath.replace(/^\//, ''), blob: file });
  } else if (isDirectory(entry) && depth < MAX_DEPTH) {
    for (const inner of await readAll(entry)) await collect(inner, into, depth + 1);
  }
}

function isFile(entry: FileSystemEntry): entry is FileSystemFileEntry {
  return entry.isFile;
}

function isDirectory(entry: FileSystemEntry): entry is FileSystemDirectoryEntry {
  return entry.isDirectory;
}

/** readEntries gives a hundred at a time, and none at the end. */
async function readAll(folder: FileSystemDirectoryEntry): Promise<readonly FileSystemEntry[]> {
  const reader = folder.createReader();
  const all: FileSystemEntry[] = [];
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0 || all.length > MAX_FILES) return all;
    all.push(...some);
  }
}

function bounded(files: readonly LocalFile[]): readonly LocalFile[] {
  if (files.length <= MAX_FILES) return files;
  throw new InputError('TOO_MANY_FILES', `more than ${MAX_FILES} files were picked: pick the model's own folder`);
}
