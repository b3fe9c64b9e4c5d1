/** Looking and downloading over a store whose answers the test gives, in the order that it likes. */
import { AbortedError } from '@glinthawk/core';
import { expect, test } from 'vitest';
import type { DownloadProgress, ModelSource, ModelStore, RemoteModel, StoredModel } from '../store/store-api.ts';
import { createDownloads } from './downloads.ts';

const source = (name: string): ModelSource => ({ kind: 'hub', repo: 'a/b', revision: 'main', file: name });
const remote = (name: string): RemoteModel => ({
  source: source(name),
  name,
  files: [],
  bytes: 100,
  bytesHere: 0,
  parameters: null,
  wasmWeightBytes: null,
  quotaBytes: null,
  usedBytes: null,
  choices: [],
  obstacles: [],
});
const stored = (name: string): StoredModel => ({
  id: name,
  name,
  source: source(name),
  files: [],
  bytes: 100,
  storedAt: '',
});
const at = (bytesDone: number): DownloadProgress => ({
  file: 'f',
  bytesDone,
  bytesTotal: 100,
  bytesPerSecond: 1,
  retrying: null,
  note: null,
});

function rig() {
  const told: unknown[] = [];
  const looks: PromiseWithResolvers<RemoteModel>[] = [];
  const downloading: { end: PromiseWithResolvers<StoredModel>; progress: (now: DownloadProgress) => void }[] = [];
  const stopping = <T>(signal: AbortSignal | undefined): PromiseWithResolvers<T> => {
    const end = Promise.withResolvers<T>();
    signal?.addEventListener('abort', () => end.reject(new AbortedError()));
    return end;
  };
  const store: ModelStore = {
    unavailable: null,
    list: async () => ({ stored: [], partial: [] }),
    inspect(_, signal) {
      looks.push(stopping(signal));
      return looks.at(-1)?.promise ?? Promise.reject();
    },
    download(_, { signal, onProgress }) {
      const end = stopping<StoredModel>(signal);
      downloading.push({ end, progress: (now) => onProgress?.(now) });
      return end.promise;
    },
    setHubToken: () => undefined,
    remove: async () => undefined,
    subscribe: () => () => undefined,
  };
  return { downloads: createDownloads(store, (thrown) => told.push(thrown)), told, looks, downloading };
}

test('another model chosen during a download ends it, and can itself be downloaded', async () => {
  const { downloads, told, looks, downloading } = rig();
  const first = downloads.download(remote('one'));
  downloading[0]?.progress(at(50));
  const looking = downloads.lookUp(source('two'));
  expect(await first).toBeNull();
  expect(downloads.state.value).toMatchObject({ lookup: 'asking', download: null });
  looks[0]?.resolve(remote('two'));
  await looking;
  expect(downloads.state.value).toMatchObject({ lookup: { name: 'two' }, download: null });
  const second = downloads.download(remote('two'));
  downloading[0]?.progress(at(60));
  expect(downloads.state.value.download).toMatchObject({ remote: { name: 'two' }, progress: null });
  downloading[1]?.end.resolve(stored('two'));
  expect((await second)?.name).toBe('two');
  expect(downloads.state.value).toMatchObject({ lookup: 'none', download: null });
  expect(told).toEqual([]);
});

test('the answer to an earlier look does not undo a later one', async () => {
  const { downloads, looks } = rig();
  const first = downloads.lookUp(source('one'));
  const second = downloads.lookUp(source('two'));
  await first;
  expect(downloads.state.value.lookup).toBe('asking');
  looks[1]?.resolve(remote('two'));
  await second;
  expect(downloads.state.value.lookup).toMatchObject({ name: 'two' });
});

test('a failure is told once; a look that was dropped, or a download that was stopped, is not', async () => {
  const { downloads, told, looks, downloading } = rig();
  const failing = downloads.resume(source('one'));
  looks[0]?.reject(new Error('no'));
  expect(await failing).toBeNull();
  expect(told).toHaveLength(1);
  const looking = downloads.lookUp(source('two'));
  downloads.dropLookup();
  await looking;
  const going = downloads.download(remote('three'));
  downloading[0]?.progress(at(30));
  downloads.stop();
  await going;
  expect(downloads.state.value).toMatchObject({ lookup: { name: 'three', bytesHere: 30 }, download: null });
  expect(told).toHaveLength(1);
});
