/** Shares and rates between two samples. */
import { expect, test } from 'vitest';
import { sampleAt } from './state.fixture.ts';
import { STILL, tierFlow } from './tier-flow.ts';

test('shares are of the time between samples, rates are per second', () => {
  const before = sampleAt(1000, { steps: 10, denseBusyMs: 500, attentionBusyMs: 100, generatedTokens: 40 }, 1000);
  const now = sampleAt(1200, { steps: 12, denseBusyMs: 650, attentionBusyMs: 120, generatedTokens: 60 }, 3000);
  const flow = tierFlow(before, now);
  expect(flow.denseBusy).toBeCloseTo(0.75);
  expect(flow.attentionBusy).toBeCloseTo(0.1);
  expect(flow.outPerSecond).toBeCloseTo(10_000);
  expect(flow.inPerSecond).toBeCloseTo(5000);
  expect(flow.tokensPerSecond).toBeCloseTo(100);
});

test('a call that ends between samples may count more than their distance: never over all of it', () => {
  const flow = tierFlow(sampleAt(0, { steps: 1 }), sampleAt(200, { steps: 2, denseBusyMs: 900 }));
  expect(flow.denseBusy).toBe(1);
});

test('nothing is known of one sample, or across a new engine', () => {
  expect(tierFlow(null, sampleAt(1, {}))).toBe(STILL);
  expect(tierFlow(sampleAt(0, { steps: 9 }, 100), sampleAt(200, { steps: 1 }, 5))).toBe(STILL);
  expect(tierFlow(sampleAt(5, {}), sampleAt(5, {}))).toBe(STILL);
});
