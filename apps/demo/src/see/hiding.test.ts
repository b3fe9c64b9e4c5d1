import { expect, test } from 'vitest';
import { hidingOver } from './hiding.ts';
import { IntervalUnion } from './interval-union.ts';

function union(...intervals: readonly (readonly [number, number])[]): IntervalUnion {
  const made = new IntervalUnion();
  for (const [start, end] of intervals) made.add(start, end);
  return made;
}

test('intervals that touch or overlap become one, in whatever order they come', () => {
  const made = union([0, 2], [5, 6], [8, 9], [1, 5.5], [20, 21], [10, 30]);
  expect(made.starts).toEqual([0, 8, 10]);
  expect(made.ends).toEqual([6, 9, 30]);
  expect(made.coveredMs(1, 8.5)).toBeCloseTo(5.5);
  expect(made.coveredMs(6, 8)).toBe(0);
  expect(made.coveredMs(40, 50)).toBe(0);
});

test('a piece before all others is put first, an empty one is left out', () => {
  const made = union([10, 11], [3, 4], [7, 7], [9, 8]);
  expect(made.starts).toEqual([3, 10]);
});

test('a union equals marking every tick, for random intervals', () => {
  let state = 7;
  const random = (below: number) => {
    state = (state * 1103515245 + 12345) % 2147483648;
    return state % below;
  };
  for (let round = 0; round < 50; round++) {
    const made = new IntervalUnion();
    const ticks = new Array<boolean>(100).fill(false);
    for (let i = 0; i < 20; i++) {
      const start = random(95);
      const end = start + 1 + random(5);
      made.add(start, end);
      ticks.fill(true, start, end);
    }
    expect(made.coveredMs(0, 100)).toBe(ticks.filter(Boolean).length);
    for (let i = 1; i < made.starts.length; i++) expect(made.starts[i]).toBeGreaterThan(made.ends[i - 1] ?? 0);
  }
});

test('what ended before is forgotten', () => {
  const made = union([0, 1], [2, 3], [4, 9]);
  made.forgetBefore(5);
  expect(made.starts).toEqual([4]);
});

test('time away is hidden where the dense tier works, exposed where it stands idle', () => {
  const pieces: unknown[] = [];
  const hiding = hidingOver(union([0, 10], [14, 16]), union([5, 20], [30, 40]), 0, 35, (...piece) =>
    pieces.push(piece),
  );
  expect(hiding).toEqual({ hiddenMs: 7, exposedMs: 13 });
  expect(pieces).toEqual([
    [5, 10, true],
    [10, 14, false],
    [14, 16, true],
    [16, 20, false],
    [30, 35, false],
  ]);
});

test('with nothing away, nothing is hidden', () => {
  expect(hidingOver(union([0, 10]), union(), 0, 10)).toEqual({ hiddenMs: 0, exposedMs: 0 });
});
