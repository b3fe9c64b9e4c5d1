import { expect, it } from 'vitest';
import { exponential } from './exponential.ts';

it('is within 1e-15 of Math.exp, relatively', () => {
  let largest = 0;
  for (let i = -70000; i <= 70000; i++) {
    const x = i / 100 + 0.00123;
    if (Math.abs(x) > 700) continue;
    largest = Math.max(largest, Math.abs(exponential(x) / Math.exp(x) - 1));
  }
  expect(largest).toBeLessThan(1e-15);
  expect(exponential(0)).toBe(1);
});

it('takes arguments beyond ±700 as ±700, and keeps NaN', () => {
  expect(exponential(Number.NEGATIVE_INFINITY)).toBe(exponential(-700));
  expect(exponential(-700)).toBeLessThan(1e-300);
  expect(exponential(1e9)).toBe(exponential(700));
  expect(exponential(Number.NaN)).toBeNaN();
});
