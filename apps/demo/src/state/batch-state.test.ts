/** A batch as the worker tells of it. */
import { expect, test } from 'vitest';
import { batchShare, beginBatch, reduceBatch } from './batch-state.ts';
import { titleText } from './page-title.ts';

const SUMMARY = { requests: 8, invalid: 0, promptTokens: 40, errors: [] };
const counted = { type: 'batch', run: 2, summary: SUMMARY, succeeded: 3, failed: 1, generatedTokens: 99 } as const;

test('the share is unknown until the input was read, then of all requests', () => {
  const begun = beginBatch(2);
  expect(batchShare(begun)).toBeNull();
  const half = reduceBatch(begun, counted);
  expect(batchShare(half)).toBe(0.5);
  expect(titleText(null, half)).toBe('50 % of the batch: Glinthawk');
  expect(batchShare({ ...half, summary: { ...SUMMARY, requests: 0 } })).toBe(1);
});

test('another run changes nothing', () => {
  const begun = beginBatch(1);
  expect(reduceBatch(begun, counted)).toBe(begun);
});

test('files come before and with the end, and stay when the engine fails', () => {
  const results = new Blob(['{}\n']);
  const errors = new Blob([]);
  const partly = reduceBatch(beginBatch(2), { type: 'batchResults', run: 2, results, errors, complete: false });
  const error = { code: 'LOST', message: 'gone', hint: null };
  const state = reduceBatch(partly, { type: 'failed', error });
  expect(state.files).toEqual({ results, errors, complete: false });
  expect(state.ended).toMatchObject({ how: 'failed', error });
  expect(titleText(null, state)).toBe('Glinthawk');
});
