/** The first look at pasted requests. */
import { expect, test } from 'vitest';
import { checkJsonl, MAX_CHECKED_CHARACTERS } from './batch-input.ts';

test('requests are counted; blank lines, CRLF and a BOM are nothing', () => {
  expect(checkJsonl('\uFEFF{"prompt":"a"}\r\n\r\n{"body":{"messages":[]}}\n')).toEqual({
    requests: 2,
    faults: [],
    moreFaults: 0,
    partly: false,
  });
});

test('faults have the line where they are', () => {
  const { requests, faults } = checkJsonl('{"prompt":"a"}\n{"prompt":\n[1]\n{"text":"b"}\n{"body":3}');
  expect(requests).toBe(1);
  expect(faults.map(({ line }) => line)).toEqual([2, 3, 4, 5]);
  expect(faults[0]?.message).toMatch(/^not JSON/);
  expect(faults[2]?.message).toBe('neither "prompt" nor "messages"');
});

test('many faults are counted rather than listed', () => {
  expect(checkJsonl('x\n'.repeat(9))).toMatchObject({ faults: { length: 5 }, moreFaults: 4 });
});

test('of a long text only the first part is looked at, and the line that it cuts is not called wrong', () => {
  const line = '{"prompt":"Once upon a time"}\n';
  const check = checkJsonl(line.repeat(Math.ceil(MAX_CHECKED_CHARACTERS / line.length) + 5));
  expect(check.partly).toBe(true);
  expect(check.faults).toEqual([]);
});
