import { expect, it } from 'vitest';
import { bytes, count, duration, millions } from './format.ts';

it('shortens parameter counts to three digits', () => {
  expect([999, 1000, 189_888, 100_000_000, 134_515_008, 1_443_456, 70_000_000_000].map(millions)).toEqual([
    '999',
    '1 K',
    '190 K',
    '100 M',
    '135 M',
    '1.44 M',
    '70 B',
  ]);
});

it('writes counts, bytes and durations for people', () => {
  expect(count(1_234_567)).toBe('1,234,567');
  expect([0, 1536, 100 * 2 ** 20, 7.5 * 2 ** 30].map(bytes)).toEqual(['0 bytes', '1.5 KiB', '100 MiB', '7.5 GiB']);
  expect([0, 41, 725, 10_800].map(duration)).toEqual(['0:00', '0:41', '12:05', '3:00:00']);
});
