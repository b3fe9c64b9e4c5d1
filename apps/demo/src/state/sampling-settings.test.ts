/** What is typed into the sampling fields. */
import { expect, test } from 'vitest';
import { readNumber, readSeed, readStops, SAMPLING, withModelDefaults } from './sampling-settings.ts';

test.each([
  ['temperature', '0', 0],
  ['temperature', '2.01', null],
  ['temperature', '', null],
  ['topP', '0', null],
  ['topK', '1.5', null],
  ['topK', '40', 40],
  ['maxTokens', '1e3', 1000],
  ['minP', 'x', null],
] as const)('%s %o', (field, typed, expected) => {
  expect(readNumber(field, typed)).toBe(expected);
});

test.each([
  ['', null],
  [' 7 ', 7n],
  ['-9223372036854775808', -9223372036854775808n],
  ['18446744073709551615', 18446744073709551615n],
  ['18446744073709551616', undefined],
  ['1.5', undefined],
  ['seven', undefined],
])('seed %o', (typed, expected) => {
  expect(readSeed(typed)).toBe(expected);
});

test('stop texts are lines, with \\n for a line end, four at most', () => {
  expect(readStops('END\n\\n\\n\n\n.\na\nb')).toEqual(['END', '\n\n', '.', 'a']);
  expect(readStops('')).toEqual([]);
});

test("a model's defaults replace only what it names", () => {
  expect(withModelDefaults(SAMPLING, { topK: 20 })).toEqual({ ...SAMPLING, topK: 20 });
});
