/** A download as the page shows it: found, under way, cut, stored. */
import { expect, test } from 'vitest';
import type { RemoteModel } from '../store/store-api.ts';
import {
  type DownloadAction,
  type DownloadState,
  noDownloads,
  reduceDownloads,
  secondsLeft,
} from './download-state.ts';

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

const BEGAN = { type: 'began', attempt: 1, remote: REMOTE } as const;
const MOVED = { type: 'progress', attempt: 1, progress: PROGRESS } as const;

function after(...actions: readonly DownloadAction[]): DownloadState {
  return actions.reduce(reduceDownloads, noDownloads(null));
}

test('what a cut download brought is offered to be resumed', () => {
  const moving = after({ type: 'found', remote: REMOTE }, BEGAN, MOVED);
  expect(moving.download?.progress).toBe(PROGRESS);
  const cut = reduceDownloads(moving, { type: 'cut', attempt: 1 });
  expect(cut.download).toBeNull();
  expect(cut.lookup).toMatchObject({ name: 'm', bytesHere: 400 });
});

test('a stored model is no longer looked at', () => {
  expect(after(BEGAN, { type: 'stored', attempt: 1 })).toMatchObject({ lookup: 'none', download: null });
});

test('a download that ends leaves another model that is looked at by then', () => {
  const other = { ...REMOTE, name: 'other' };
  for (const type of ['cut', 'stored'] as const) {
    const state = after(BEGAN, MOVED, { type: 'found', remote: other }, { type, attempt: 1 });
    expect(state).toMatchObject({ lookup: other, download: null });
  }
});

test('what comes late, of no download or of an earlier attempt, is dropped', () => {
  const none = noDownloads(null);
  expect(reduceDownloads(none, MOVED)).toBe(none);
  const second = after(BEGAN, { ...BEGAN, attempt: 2 });
  for (const late of [MOVED, { type: 'cut', attempt: 1 }, { type: 'stored', attempt: 1 }] as const) {
    expect(reduceDownloads(second, late)).toBe(second);
  }
});

test('time left needs movement', () => {
  expect(secondsLeft(PROGRESS)).toBe(6);
  expect(secondsLeft({ ...PROGRESS, bytesPerSecond: 0 })).toBeNull();
});
