/** What says that a file here is the one that a server has. */
import { expect, it } from 'vitest';
import { besides, type FileRecord, isSameFile } from './store-directory.ts';

const nothing: FileRecord = { name: 'a.json', bytes: 5, sha256: null, oid: null, etag: null, at: 'a.json' };

it('a checksum goes before git’s id, and that before a validator', () => {
  const known = { sha256: 'aa', oid: 'bb', etag: '"c"' };
  const here = { ...nothing, ...known };
  expect(isSameFile(here, { ...nothing, ...known, etag: '"another"' })).toBe(true);
  expect(isSameFile(here, { ...nothing, sha256: 'another', oid: 'bb', etag: '"c"' })).toBe(false);
  expect(isSameFile(here, { ...nothing, oid: 'bb' })).toBe(true);
  expect(isSameFile(here, { ...nothing, oid: 'another', etag: '"c"' })).toBe(false);
  expect(isSameFile(here, { ...nothing, etag: '"c"' })).toBe(true);
});

it('what nothing speaks for is another file, and so is one of another size', () => {
  expect(isSameFile(nothing, nothing)).toBe(false);
  expect(isSameFile({ ...nothing, sha256: 'aa' }, { ...nothing, sha256: 'aa', bytes: 6 })).toBe(false);
});

it('a newer version has the other of two places', () => {
  expect(besides(nothing)).toBe('a.json~');
  expect(besides({ name: 'a.json', at: 'a.json~' })).toBe('a.json');
});
