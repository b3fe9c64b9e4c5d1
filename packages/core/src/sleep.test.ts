import { getEventListeners } from 'node:events';
import { expect, it } from 'vitest';
import { sleep } from './sleep.ts';

it('ends after its time, early when aborted, at once when it was aborted before; nothing stays behind', async () => {
  const abort = new AbortController();
  const began = performance.now();
  await sleep(20, abort.signal);
  expect(performance.now() - began).toBeGreaterThan(18);
  expect(getEventListeners(abort.signal, 'abort')).toEqual([]);
  const long = sleep(60_000, abort.signal);
  abort.abort();
  await long;
  await sleep(60_000, abort.signal);
  expect(getEventListeners(abort.signal, 'abort')).toEqual([]);
  expect(performance.now() - began).toBeLessThan(10_000);
});
