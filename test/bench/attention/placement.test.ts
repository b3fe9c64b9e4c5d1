import { expect, test } from 'vitest';
import { randomSource } from '../../kernels/attention-cases.ts';
import { FRAMED, placementName, placeRuns } from './placement.ts';

const RUNS = 40;
const place = (apart: number, rotated = false) => placeRuns(RUNS, 8, { apart, rotated }, randomSource(1));
const sorted = (runs: readonly (readonly number[])[]) => runs.flat().toSorted((a, b) => a - b);
const neighbours = (run: readonly number[]) =>
  run.filter((block, i) => i > 0 && block === (run[i - 1] ?? 0) + 1).length;

test('every block belongs to one run, however they lie', () => {
  const all = Array.from({ length: 8 * RUNS }, (_, i) => i);
  for (const runs of [place(0), place(0.25), place(1), place(0, true)]) {
    expect(runs.every((run) => run.length === 8)).toBe(true);
    expect(sorted(runs)).toEqual(all);
  }
});

test('framed runs are frames in random order; of the share that is apart no run is', () => {
  expect(placeRuns(RUNS, 8, FRAMED, randomSource(1)).map(neighbours)).toEqual(Array(RUNS).fill(7));
  const framedOf = (runs: readonly (readonly number[])[]) => runs.filter((run) => neighbours(run) === 7).length;
  expect(framedOf(place(0.25))).toBe(30);
  expect(framedOf(place(1))).toBe(0);
  expect(place(0)).not.toEqual(Array.from({ length: RUNS }, (_, r) => Array.from({ length: 8 }, (_, i) => 8 * r + i)));
});

test('rotated runs lie in a frame, but are no row of neighbours', () => {
  for (const run of place(0, true)) {
    const [first = 0] = run;
    expect(run).toEqual([first, first + 1, first + 2, first + 3, first + 4, first + 5, first + 6, first - 1]);
    expect(first % 8).toBe(1);
  }
});

test('tables name where blocks lie', () => {
  expect([FRAMED, { apart: 0.01, rotated: false }, { apart: 0, rotated: true }].map(placementName)).toEqual([
    '0 %',
    '1 %',
    'rotated',
  ]);
});
