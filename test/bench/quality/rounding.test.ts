/** What bench:quality rounds with: levels are hit, errors are what so many steps allow, and rotations are undone. */
import { describe, expect, it } from 'vitest';
import { fillNormal, randomSource } from '../../kernels/attention-cases.ts';
import { channelsToInt4, hadamard, type Rounding, rotated, toInt4, toInt8 } from './rounding.ts';

const normal = (length: number, seed = 7) => fillNormal(new Float32Array(length), randomSource(seed));
const largestError = (given: Float32Array, found: Float32Array) =>
  given.reduce((most, x, i) => Math.max(most, Math.abs(x - (found[i] as number))), 0);

function rounded(given: Float32Array, rounding: Rounding): Float32Array {
  const copy = given.slice();
  rounding(copy);
  return copy;
}

it('int8 keeps the largest magnitude and errs by half a step', () => {
  const given = normal(64);
  const largest = Math.max(...given.map(Math.abs));
  const found = rounded(given, toInt8);
  expect(Math.max(...found.map(Math.abs))).toBeCloseTo(largest, 5);
  expect(largestError(given, found)).toBeLessThanOrEqual((largest / 127 / 2) * 1.001);
  expect(rounded(new Float32Array(8), toInt8)).toEqual(new Float32Array(8));
});

describe('int4', () => {
  it('has 16 levels a group, and errs by about half a step', () => {
    const given = normal(64);
    const found = rounded(given, toInt4(32));
    for (const at of [0, 32]) {
      const [before, after] = [given.slice(at, at + 32), found.slice(at, at + 32)];
      expect(new Set(after).size).toBeLessThanOrEqual(16);
      const step = (Math.max(...before) - Math.min(...before)) / 15;
      expect(largestError(before, after)).toBeLessThan(0.51 * step); // scales are f16
    }
  });

  it('leaves what is all alike', () => {
    expect(rounded(new Float32Array(32).fill(0.5), toInt4(32))).toEqual(new Float32Array(32).fill(0.5));
    expect(rounded(new Float32Array(32), toInt4(32))).toEqual(new Float32Array(32));
  });

  it('by channel is not disturbed by one that stands out', () => {
    const rows = normal(32 * 8);
    for (let t = 0; t < 32; t++) rows[t * 8 + 3] = 100 + (rows[t * 8 + 3] as number);
    const found = rows.slice();
    channelsToInt4(found, 8);
    expect(largestError(rows, found)).toBeLessThan(0.25);
    const byToken = rows.slice();
    for (let t = 0; t < 32; t++) toInt4(8)(byToken.subarray(t * 8, t * 8 + 8));
    expect(largestError(rows, byToken)).toBeGreaterThan(1);
  });
});

describe('rotation', () => {
  it('keeps dot products, and is its own inverse', () => {
    const [a, b] = [normal(64, 1), normal(64, 2)];
    const dot = (x: Float32Array, y: Float32Array) => x.reduce((sum, v, i) => sum + v * (y[i] as number), 0);
    const [turnedA, turnedB] = [rounded(a, hadamard), rounded(b, hadamard)];
    expect(dot(turnedA, turnedB)).toBeCloseTo(dot(a, b), 4);
    expect(largestError(a, rounded(turnedA, hadamard))).toBeLessThan(1e-5);
    expect(() => hadamard(new Float32Array(48))).toThrow(RangeError);
  });

  it('spreads an outlier over all channels, so that the others keep their digits', () => {
    const given = normal(64);
    given[5] = 30;
    const square = (found: Float32Array) => given.reduce((sum, x, i) => sum + (x - (found[i] as number)) ** 2, 0);
    expect(square(rounded(given, rotated(toInt4(64))))).toBeLessThan(square(rounded(given, toInt4(64))) / 3);
  });
});
