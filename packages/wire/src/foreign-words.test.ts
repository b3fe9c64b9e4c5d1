/** What strangers write stays one short line, whatever it is. */
import { ProtocolError } from '@glinthawk/core';
import { expect, it } from 'vitest';
import { byeFrame, decodeReason } from './control.ts';
import { decodeError, errorFrame, fromErrorMessage } from './error-frame.ts';
import { foreignWords, MAX_FOREIGN_CHARS } from './foreign-words.ts';
import type { OutgoingFrame } from './frame.ts';
import { ToldOnce } from './told-once.ts';

const payloadOf = ({ sections: [payload] }: OutgoingFrame): Uint8Array => payload as Uint8Array;

it('words of a stranger are one line without what a terminal obeys', () => {
  expect(foreignWords('full\r\nwarning: \u001b[2Jall is \u202elost\u2028\ud800!\n')).toBe(
    'full warning: [2Jall is lost !',
  );
  expect(foreignWords('Übergröße 木 🦅')).toBe('Übergröße 木 🦅');
  const long = foreignWords('🦅'.repeat(MAX_FOREIGN_CHARS));
  expect(long).toHaveLength(MAX_FOREIGN_CHARS);
  expect(long.isWellFormed()).toBe(true);
});

it('errors and reasons of the other end come as such words', () => {
  const told = { code: 'NO_ROOM', kind: 'capacity', message: 'no\nroom', hint: `a\u0007${'b'.repeat(4_000)}` } as const;
  const error = fromErrorMessage(decodeError(payloadOf(errorFrame(told))), 'tcp://node');
  expect(error.message).toBe('tcp://node: no room');
  expect(error.hint).toHaveLength(MAX_FOREIGN_CHARS);
  expect(decodeReason('BYE', payloadOf(byeFrame('closed\nerror: the job failed')))).toBe(
    'closed error: the job failed',
  );
});

it('a code that is none is refused', () => {
  for (const code of ['no room', 'NO\nROOM', '', 'X'.repeat(300)]) {
    const payload = payloadOf(errorFrame({ code, kind: 'capacity', message: 'm' }));
    expect(() => decodeError(payload), code).toThrow(ProtocolError);
  }
});

it('a cause is told once, and not endlessly many', () => {
  const told = new ToldOnce(2);
  expect(['a', 'a', 'b', 'c', 'b', 'c'].map((cause) => told.isNew(cause))).toEqual([
    true,
    false,
    true,
    false,
    false,
    false,
  ]);
});
