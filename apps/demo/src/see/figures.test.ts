import { expect, test } from 'vitest';
import { figuresOf, sharesOf } from './figures.ts';
import { stretchOf } from './sample.fixture.ts';

test('shares weigh by time: what was hidden of a long time away counts for more than of a short one', () => {
  const times = [
    stretchOf({ overMs: 100, hiddenMs: 1, exposedMs: 0 }),
    stretchOf({ overMs: 300, hiddenMs: 0, exposedMs: 299, denseMs: 100 }),
  ];
  expect(sharesOf(times).hiddenShare).toBeCloseTo(1 / 300);
  expect(sharesOf(times).denseShare).toBe(0.25);
});

test('rows are of all steps together, those that write apart from those that read', () => {
  const figures = figuresOf([
    stretchOf({ overMs: 200, steps: 1, rows: 8, generatedTokens: 8 }),
    stretchOf({ overMs: 200, steps: 3, rows: 96, generatedTokens: 12, preemptions: 2 }),
  ]);
  expect(figures).toMatchObject({ decodeRows: 5, prefillRows: 21, tokensPerSecond: 50, preemptionsPerSecond: 5 });
});

test('levels are means over the time, and no time gives no figures', () => {
  const figures = figuresOf([stretchOf({ overMs: 100, running: 4 }), stretchOf({ overMs: 300, running: 8 })]);
  expect(figures.running).toBe(7);
  expect(figuresOf([])).toMatchObject({
    overMs: 0,
    tokensPerSecond: 0,
    denseShare: 0,
    nodeShares: [],
    hiddenShare: null,
  });
});

test('nodes that come are counted from when they came', () => {
  const times = [stretchOf({ overMs: 100, nodeMs: [50] }), stretchOf({ overMs: 100, nodeMs: [50, 100] })];
  expect(sharesOf(times)).toMatchObject({ nodeShares: [0.5, 0.5], attentionShare: 0.5 });
});
