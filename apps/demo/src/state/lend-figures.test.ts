/** A lent tab in numbers and in words. */
import { expect, test } from 'vitest';
import type { LentWorker } from '../lend/lend-messages.ts';
import { lendFigures, lendStatusText, lendTitle, workerWords } from './lend-figures.ts';

const WORKER: LentWorker = {
  name: 'tab worker 1',
  state: 'serving',
  reason: null,
  usedBlocks: 3,
  blocks: 10,
  blockBytes: 1024,
  slots: 2,
  attends: 50,
  bytesIn: 2000,
  bytesOut: 1000,
  busyShare: 0.5,
};
const WAITING: LentWorker = { ...WORKER, state: 'waiting', reason: 'not reached', usedBlocks: 0, busyShare: 0 };

test('figures are sums, busy is the mean', () => {
  expect(lendFigures({ lending: true, workers: [WORKER, WAITING] })).toMatchObject({
    connected: 1,
    workers: 2,
    usedBlocks: 3,
    bytesHeld: 3072,
    attends: 100,
    busyShare: 0.25,
  });
  expect(lendFigures({ lending: false, workers: [] }).busyShare).toBe(0);
});

test('the status changes with states, not with numbers', () => {
  const text = (...workers: readonly LentWorker[]): string => lendStatusText({ lending: true, workers });
  expect(text(WORKER, WAITING)).toBe('Lending: 1 of 2 workers serving the job.');
  expect(text({ ...WORKER, attends: 99 }, WAITING)).toBe(text(WORKER, WAITING));
  expect(text({ ...WORKER, state: 'connected' })).toMatch(/^Connected/);
  expect(text({ ...WORKER, state: 'refused' })).toMatch(/refused/);
  expect(text(WAITING)).toMatch(/^Connecting/);
  expect(lendStatusText({ lending: false, workers: [WORKER] })).toMatch(/^Stopped/);
  expect(workerWords(WAITING)).toBe('waiting: not reached');
  expect(lendTitle({ lending: true, workers: [WORKER] })).toBe('1 lent: Glinthawk');
});
