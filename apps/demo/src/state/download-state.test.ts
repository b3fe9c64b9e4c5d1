/** A download as the page shows it: found, under way, cut, stored. */
import { expect, test } from 'vitest';
import type { RemoteModel } from '../store/store-api.ts';
import { noDownloads, reduceDownloads, secondsLeft } from './download-state.ts';

const REMOTE: RemoteModel = {
  source: { kind: 'url', url: 'https://a.example/m.gguf' },
  name: 'm',
  files: [],
  bytes: 1000,
  bytesHere: 0,
  parameters: null,
  wasmWeightBytes: null,
  quotaBytes: null,
  usedBytes: null,
  choices: [],
  obstacles: [],
};
const PROGRESS = { file: 'm.gguf', bytesDone: 400, bytesTotal: 1000, bytesPerSecond: 100, retrying: null, note: null };

test('what a cut download brought is offered to be resumed', () => {
  const found = reduceDownloads(noDownloads(null), { type: 'found', remote: REMOTE });
  const moving = reduceDownloads(reduceDownloads(found, { type: 'began', remote: REMOTE }), {
    type: 'progress',
    progress: PROGRESS,
  });
  expect(moving.download?.progress).toBe(PROGRESS);
  const cut = reduceDownloads(moving, { type: 'cut' });
  expect(cut.download).toBeNull();
  expect(cut.lookup).toMatchObject({ name: 'm', bytesHere: 400 });
});

test('a stored model is no longer looked at', () => {
  const moving = reduceDownloads(noDownloads(null), { type: 'began', remote: REMOTE });
  expect(reduceDownloads(moving, { type: 'stored' })).toMatchObject({ lookup: 'none', download: null });
});

test('progress without a download is late and dropped', () => {
  const state = noDownloads(null);
  expect(reduceDownloads(state, { type: 'progress', progress: PROGRESS })).toBe(state);
});

test('time left needs movement', () => {
  expect(secondsLeft(PROGRESS)).toBe(6);
  expect(secondsLeft({ ...PROGRESS, bytesPerSecond: 0 })).toBeNull();
});
