import { expect, it } from 'vitest';
import { randomModel } from '../../../../test/kernels/random-model.ts';
import { overlap, panelColumns, panelCount, panelRange, workerShare } from './partition.ts';

it('shares of all workers are neighbours and cover everything once', () => {
  const { config } = randomModel({ hiddenSize: 60, intermediateSize: 172 });
  for (const workers of [1, 2, 3, 5, 40]) {
    const shares = Array.from({ length: workers }, (_, worker) => workerShare(config, worker, workers));
    for (const [key, total] of [
      ['qkvHeads', config.heads + 2 * config.kvHeads],
      ['hidden', 60],
      ['intermediate', 172],
      ['panels', panelCount(config.vocabSize)],
    ] as const) {
      let end = 0;
      for (const share of shares) {
        expect(share[key].start).toBe(end);
        end = share[key].end;
        if (key === 'hidden' && end < total) expect(end % 8).toBe(0);
      }
      expect(end).toBe(total);
    }
  }
});

it('panels cover the vocabulary in multiples of the tile', () => {
  for (const vocab of [1, 8, 40, 257, 512, 49152, 151936]) {
    expect(panelColumns(vocab) % 8).toBe(0);
    const last = panelRange(vocab, panelCount(vocab) - 1);
    expect(last.end).toBe(vocab);
    expect(last.end).toBeGreaterThan(last.start);
  }
});

it('overlap counts from the start of the second range', () => {
  expect(overlap({ start: 7, end: 15 }, { start: 0, end: 9 })).toEqual({ start: 7, end: 9 });
  expect(overlap({ start: 7, end: 15 }, { start: 9, end: 12 })).toEqual({ start: 0, end: 3 });
  expect(overlap({ start: 0, end: 7 }, { start: 9, end: 12 })).toEqual({ start: 0, end: 0 });
});
