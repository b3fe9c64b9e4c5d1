import { expect, it } from 'vitest';
import { Candidates, logSumExp, mergeCandidates, PANEL_SUMS, panelSums } from './candidates.ts';

/** Naive: all ids, best first, of equal logits the lower id first. */
function best(logits: ArrayLike<number>, limit: number): number[] {
  const ids = Array.from(logits, (_, id) => id).filter((id) => !Number.isNaN(logits[id]));
  return ids.sort((a, b) => (logits[b] as number) - (logits[a] as number) || a - b).slice(0, limit);
}

function take(logits: Float32Array, limit: number, panel: number): number[] {
  const candidates = new Candidates(limit);
  for (let at = 0; at < logits.length; at += panel) {
    candidates.offer(logits, at, Math.min(panel, logits.length - at), at);
  }
  const ids = new Uint32Array(limit);
  const values = new Float32Array(limit);
  const count = candidates.write(ids, values, 0);
  for (let i = 0; i < count; i++) expect(values[i]).toBe(logits[ids[i] as number]);
  return Array.from(ids.subarray(0, count));
}

it('keeps the best, ties by id, for any number of logits and panels', () => {
  for (const count of [0, 1, 2, 63, 64, 65, 257, 1000]) {
    // Few distinct values, so that ties are the rule.
    const logits = Float32Array.from({ length: count }, (_, i) => Math.imul(i + 1, 2654435761) % 37);
    for (const limit of [1, 5, 64]) {
      for (const panel of [1, 7, 64, 1000]) expect(take(logits, limit, panel)).toEqual(best(logits, limit));
    }
  }
});

it('never takes NaN, and takes infinities in their order', () => {
  const logits = Float32Array.from([Number.NaN, -Infinity, 3, Infinity, Number.NaN, 3]);
  expect(take(logits, 4, 2)).toEqual([3, 2, 5, 1]);
});

it('merges the lists of workers best first, ties by id, some of them empty', () => {
  const stride = 4;
  const ids = Uint32Array.from([5, 1, 9, 0, /**/ 0, 0, 0, 0, /**/ 2, 7, 3, 8]);
  const logits = Float32Array.from([9, 8, 1, 0, /**/ 0, 0, 0, 0, /**/ 9, 8, 8, 0]);
  const counts = Uint32Array.from([3, 0, 4]);
  const { ids: merged, logits: values } = mergeCandidates(ids, logits, 0, stride, counts, 5);
  expect(Array.from(merged)).toEqual([2, 5, 1, 7, 3]);
  expect(Array.from(values)).toEqual([9, 9, 8, 8, 8]);
});

it('sums over panels give log-sum-exp, also of −∞, of large and of NaN logits', () => {
  const sumOf = (logits: number[], panel: number, inverseTemperature: number, which: 'plain' | 'scaled') => {
    const values = Float32Array.from(logits);
    const panels = Math.ceil(values.length / panel);
    const sums = new Float64Array(panels * PANEL_SUMS);
    for (let p = 0; p < panels; p++) {
      const count = Math.min(panel, values.length - p * panel);
      panelSums(values, p * panel, count, inverseTemperature, sums, p * PANEL_SUMS);
    }
    return logSumExp(sums, 0, panels, inverseTemperature, which);
  };
  const logits = Array.from({ length: 100 }, (_, i) => Math.fround(10 * Math.sin(i)));
  const naive = (t: number) => Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit * t), 0));
  for (const panel of [1, 8, 100]) {
    expect(sumOf(logits, panel, 0.3, 'plain')).toBeCloseTo(naive(1), 12);
    expect(sumOf(logits, panel, 0.3, 'scaled')).toBeCloseTo(naive(0.3), 12);
    expect(sumOf(logits, panel, 1, 'scaled')).toBe(sumOf(logits, panel, 1, 'plain'));
  }
  expect(sumOf([-Infinity, -Infinity, 1000, 1000], 2, 2, 'plain')).toBeCloseTo(1000 + Math.LN2, 10);
  expect(sumOf([-Infinity, -Infinity, 1000, 1000], 2, 2, 'scaled')).toBeCloseTo(2000 + Math.LN2, 10);
  expect(sumOf([1, Number.NaN, 2, 3], 2, 1, 'plain')).toBeNaN();
});
