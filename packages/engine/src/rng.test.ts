import { expect, it } from 'vitest';
import { mix64, uniform } from './rng.ts';

it('is SplitMix64: the published first outputs for seed 1234567', () => {
  // The reference generator's state advances by the golden gamma before each mix.
  const outputs = [6457827717110365317n, 3203168211198807973n, 9817491932198370423n];
  const gamma = 0x9e3779b97f4a7c15n;
  outputs.forEach((expected, i) => {
    expect(mix64(1234567n + gamma * BigInt(i + 1))).toBe(expected);
  });
});

it('depends on seed and index only, and stays in [0, 1)', () => {
  const seeds = [0n, 1n, 42n, 2n ** 63n, 2n ** 64n - 1n];
  for (const seed of seeds) {
    for (const index of [0, 1, 1000, 2 ** 31]) {
      const u = uniform(seed, index);
      expect(u).toBe(uniform(seed, index));
      expect(u).toBeGreaterThanOrEqual(0);
      expect(u).toBeLessThan(1);
    }
  }
  expect(uniform(0n, 0)).toBe(uniform(2n ** 64n, 0));
});

it('neighbouring seeds and indexes are unrelated: means, and correlation of streams', () => {
  const n = 20_000;
  const streams = [7n, 8n, 7n + 0x9e3779b97f4a7c15n].map((seed) =>
    Float64Array.from({ length: n }, (_, i) => uniform(seed, i) - 0.5),
  );
  const correlation = (a: Float64Array, b: Float64Array, lag: number) => {
    let sum = 0;
    for (let i = 0; i + lag < n; i++) sum += (a[i] as number) * (b[i + lag] as number);
    return (12 * sum) / (n - lag);
  };
  const limit = 4.5 / Math.sqrt(n); // 4.5 standard deviations
  for (const [i, a] of streams.entries()) {
    expect(Math.abs(a.reduce((x, y) => x + y, 0) / n)).toBeLessThan(limit * Math.sqrt(1 / 12));
    for (const [j, b] of streams.entries()) {
      for (const lag of [0, 1, 2]) {
        if (i !== j || lag > 0) expect(Math.abs(correlation(a, b, lag))).toBeLessThan(limit);
      }
    }
  }
});
