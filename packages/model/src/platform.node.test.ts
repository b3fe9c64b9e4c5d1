import { mkdir, mkdtemp, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ModelFormatError } from '@glinthawk/core';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { openPath } from './platform.node.ts';

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'glinthawk-files-'));
  await writeFile(join(folder, 'a.bin'), Uint8Array.of(1, 2, 3, 4, 5));
});

afterEach(() => rm(folder, { recursive: true }));

it('reads ranges, and nothing past the end', async () => {
  const file = await (await openPath(folder)).open('a.bin');
  expect(file.size).toBe(5);
  expect(await file.read(1, 3)).toEqual(Uint8Array.of(2, 3, 4));
  expect(await file.read(5, 0)).toEqual(new Uint8Array(0));
  for (const [offset, length] of [
    [3, 3],
    [-1, 2],
    [0, 2 ** 60],
    [0.5, 1],
  ] as const) {
    await expect(file.read(offset, length)).rejects.toThrow(ModelFormatError);
  }
  await file.close();
});

it('notices a file that was cut off while open', async () => {
  const file = await (await openPath(folder)).open('a.bin');
  await truncate(join(folder, 'a.bin'), 2);
  await expect(file.read(0, 5)).rejects.toThrow(/a.bin: 5 bytes are expected at offset 0, but the file has 2/);
  await file.close();
});

it('lists files and links to files, as caches of the hub have them, and no folders', async () => {
  await mkdir(join(folder, 'original'));
  await symlink(join(folder, 'a.bin'), join(folder, 'link.bin'));
  const files = await openPath(folder);
  expect(files).toMatchObject({ single: false, entries: ['a.bin', 'link.bin'] });
  const link = await files.open('link.bin');
  expect(link.size).toBe(5);
  await link.close();
  await expect(files.open('original')).rejects.toThrow(/not a regular file/);
  await expect(files.open('nothing')).rejects.toThrow(ModelFormatError);
});

it('takes one file by itself', async () => {
  expect(await openPath(join(folder, 'a.bin'))).toMatchObject({ name: 'a.bin', single: true, entries: ['a.bin'] });
});
