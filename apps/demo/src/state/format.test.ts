/** Numbers as people read them. */
import { expect, test } from 'vitest';
import { formatBytes, formatDuration, formatParameters, formatRate, plural, shortHash } from './format.ts';

test.each([
  [0, '0 B'],
  [1023, '1023 B'],
  [1536, '1.50 KiB'],
  [64 * 2 ** 20, '64 MiB'],
  [138 * 2 ** 20, '138 MiB'],
  [3.25 * 2 ** 30, '3.25 GiB'],
])('%i bytes', (bytes, text) => {
  expect(formatBytes(bytes)).toBe(text);
});

test('counts, rates, times, hashes', () => {
  expect(formatParameters(1_443_456)).toBe('1.44 million');
  expect(formatParameters(8_030_000_000)).toBe('8.03 billion');
  expect(formatRate(1234.5)).toBe('1,235');
  expect(formatRate(9.96)).toBe('10.0');
  expect([formatDuration(860), formatDuration(59_400), formatDuration(200_000)]).toEqual([
    '0.9 s',
    '59 s',
    '3 min 20 s',
  ]);
  expect([plural(1, 'worker'), plural(1200, 'worker')]).toEqual(['1 worker', '1,200 workers']);
  expect(shortHash('0123456789abcdef0123456789abcdef')).toBe('01234567…abcdef');
});
