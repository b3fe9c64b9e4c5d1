/** What is said, how often, and for how long. */
import { InputError } from '@glinthawk/core';
import { expect, test } from 'vitest';
import { addNotice, dismissNotice, MAX_NOTICES, type Notice, noticeOf, noticeOfThrown } from './notices.ts';

const said = (text: string) => ({ level: 'error', text, hint: null }) as const;

test('the same again is counted, with the newest hint', () => {
  const once = addNotice([], said('a'), 1000);
  const twice = addNotice(once, { ...said('a'), hint: 'try b' }, 2000);
  expect(twice).toEqual([{ id: 1, level: 'error', text: 'a', hint: 'try b', count: 2, atMs: 2000 }]);
  expect(addNotice(once, said('a'), 1100)).toMatchObject([{ count: 1 }]);
});

test('only the latest few are kept, and an id is never used for two at once', () => {
  let notices: readonly Notice[] = [];
  for (let i = 0; i < MAX_NOTICES + 3; i++) notices = addNotice(notices, said(String(i)), i);
  expect(notices.map(({ text }) => text)).toEqual(['3', '4', '5', '6', '7', '8']);
  const fewer = dismissNotice(notices, notices[1]?.id ?? 0);
  const added = addNotice(fewer, said('new'), 99);
  expect(new Set(added.map(({ id }) => id)).size).toBe(added.length);
});

test('errors become sentences and keep their hints', () => {
  const thrown = new InputError('X', 'no model is named', { hint: 'give one' });
  expect(noticeOfThrown(thrown)).toEqual({ level: 'error', text: 'No model is named.', hint: 'Give one.' });
  const unknown = new InputError('NO_CHAT_TEMPLATE', 'no template', { hint: 'leave out --chat' });
  expect(noticeOfThrown(unknown).hint, 'a hint of the page, not of the command line').toMatch(/plain prompt/);
  expect(noticeOfThrown('odd')).toEqual({ level: 'error', text: 'Odd.', hint: null });
  for (const name of ['model.safetensors: too short', 'huggingface.co answered 404', 'ws://a:1 is lost']) {
    expect(noticeOfThrown(new Error(name)).text, 'names stay as they are').toBe(`${name}.`);
  }
  expect(noticeOfThrown(new Error('https://a.example/ answered 404'))).toMatchObject({
    text: 'https://a.example/ answered 404.',
  });
});

test('a run that was stopped or done says nothing; one that failed does', () => {
  const ended = { type: 'ended', run: 1, wallMs: 1, generatedTokens: 1 } as const;
  expect(noticeOf({ ...ended, how: 'done', error: null })).toBeNull();
  const error = { code: 'X', message: 'gone', hint: null };
  expect(noticeOf({ ...ended, how: 'failed', error })).toMatchObject({ text: 'Gone.' });
  expect(noticeOf({ type: 'notice', notice: { level: 'warn', text: 'lost' } })).toMatchObject({ level: 'warn' });
});
