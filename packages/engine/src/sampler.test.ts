import type { HeadRow } from '@glinthawk/dense';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { greedy } from '../../../test/golden/engine.ts';
import { headRowOf } from '../../../test/reference/dense.ts';
import type { SamplingParams } from './request.ts';
import { uniform } from './rng.ts';
import {
  applyPenalties,
  argmax,
  inverseTemperature,
  isFiniteRow,
  logprobsOf,
  rank,
  sampleCandidates,
  sampleFull,
  samplePenalised,
} from './sampler.ts';

const sampled = (params: Partial<SamplingParams>): SamplingParams => ({ ...greedy, temperature: 1, ...params });

/** The distribution after temperature and filters, by the book: sort, softmax, cut, renormalise. */
function distribution(logits: ArrayLike<number>, sampling: SamplingParams): Map<number, number> {
  let kept = Array.from(logits, (logit, id) => ({ id, scaled: logit * inverseTemperature(sampling) }));
  kept.sort((a, b) => b.scaled - a.scaled || a.id - b.id);
  if (sampling.topK > 0) kept = kept.slice(0, sampling.topK);
  const softmax = () => {
    const max = kept[0]?.scaled ?? 0;
    const weights = kept.map(({ scaled }) => Math.exp(scaled - max));
    const total = weights.reduce((a, b) => a + b, 0);
    return weights.map((weight) => weight / total);
  };
  if (sampling.topP < 1) {
    const probabilities = softmax();
    let mass = 0;
    let count = 0;
    while (count < kept.length && mass < sampling.topP) mass += probabilities[count++] ?? 0;
    kept = kept.slice(0, count);
  }
  const probabilities = softmax();
  kept = kept.filter((_, i) => i === 0 || (probabilities[i] ?? 0) >= sampling.minP * (probabilities[0] ?? 0));
  const final = softmax();
  return new Map(kept.map(({ id }, i) => [id, final[i] ?? 0]));
}

/** As the engine does it: candidates first, then the full row. */
function sampler(logits: Float32Array, sampling: SamplingParams) {
  const row = headRowOf(logits, inverseTemperature(sampling));
  return (draw: number): { readonly token: number; readonly full: boolean } => {
    const token = sampleCandidates(row, sampling, logits.length, draw);
    if (token !== null) return { token, full: false };
    return { token: sampleFull(row, logits, sampling, draw), full: true };
  };
}

/** Deterministic, uneven logits. */
function logitsOf(vocab: number, seed: bigint, spread: number): Float32Array {
  return Float32Array.from({ length: vocab }, (_, i) => (uniform(seed, i) - 0.5) * spread);
}

const params = fc.record({
  temperature: fc.constantFrom(0.05, 0.5, 1, 1.7, 30),
  topP: fc.constantFrom(1, 0.999999, 0.95, 0.5, 0.01),
  topK: fc.constantFrom(0, 1, 3, 64, 65, 200, 1000),
  minP: fc.constantFrom(0, 0.001, 0.1, 0.9, 1),
});
const rows = fc.record({
  vocab: fc.constantFrom(1, 2, 63, 64, 65, 300),
  seed: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  spread: fc.constantFrom(0, 0.01, 4, 40),
  ties: fc.boolean(),
});

describe('candidates and full row', () => {
  it('agree exactly wherever candidates decide', () => {
    let decided = 0;
    fc.assert(
      fc.property(
        rows,
        params,
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        (given, filters, draw) => {
          const raw = logitsOf(given.vocab, given.seed, given.spread);
          const logits = given.ties ? raw.map((x) => Math.round(x)) : raw;
          const sampling = sampled(filters);
          const row = headRowOf(logits, inverseTemperature(sampling));
          const token = sampleCandidates(row, sampling, logits.length, draw);
          const full = sampleFull(row, logits, sampling, draw);
          if (token !== null) {
            decided++;
            expect(token).toBe(full);
          }
          // A hair wider, as whether a token lies exactly on a filter's edge is a matter of rounding.
          const wider = { topP: Math.min(1, filters.topP + 1e-9), minP: filters.minP * (1 - 1e-9) };
          expect(distribution(logits, { ...sampling, ...wider }).has(full)).toBe(true);
        },
      ),
      { numRuns: 3000 },
    );
    expect(decided).toBeGreaterThan(1500);
  });

  it('a head’s rounded sum changes nothing but the last places', () => {
    const logits = logitsOf(300, 5n, 6);
    for (const filters of [{}, { topP: 0.9 }, { topP: 0.9, minP: 0.05 }, { topK: 100 }]) {
      const sampling = sampled(filters);
      const exact = headRowOf(logits, 1);
      for (const error of [-1e-5, 1e-5]) {
        const rounded: HeadRow = { ...exact, scaledLogSumExp: exact.scaledLogSumExp + error };
        for (let i = 0; i < 500; i++) {
          const draw = uniform(3n, i);
          const token = sampleCandidates(rounded, sampling, 300, draw);
          const full = sampleFull(rounded, logits, sampling, draw);
          if (token !== null) expect(token).toBe(full);
        }
      }
    }
  });

  it('at the lowest temperatures a head’s f32 sum is not trusted', () => {
    const logits = Float32Array.from({ length: 300 }, (_, i) => 20 - i * 0.001);
    const sampling = sampled({ temperature: 0.001 });
    const row = { ...headRowOf(logits, 1000), scaledLogSumExp: 20_000 + 3 };
    const counts = new Map<number, number>();
    for (let i = 0; i < 4000; i++) {
      const token = sampleCandidates(row, sampling, 300, uniform(1n, i)) ?? -1;
      counts.set(token, (counts.get(token) ?? 0) + 1);
    }
    expect((counts.get(0) ?? 0) / 4000).toBeCloseTo(1 - Math.exp(-1), 1);
  });
});

describe('the distribution', () => {
  const cases: readonly (readonly [string, Partial<SamplingParams>])[] = [
    ['plain', {}],
    ['cold', { temperature: 0.6 }],
    ['hot', { temperature: 3 }],
    ['top_k 5', { topK: 5 }],
    ['top_k 100', { topK: 100 }],
    ['top_p 0.7', { topP: 0.7 }],
    ['min_p 0.2', { minP: 0.2 }],
    ['all filters', { temperature: 1.5, topK: 80, topP: 0.9, minP: 0.02 }],
  ];
  for (const [name, filters] of cases) {
    it(`${name}: chi-square against softmax by the book`, () => {
      const logits = logitsOf(150, 11n, 6);
      const sampling = sampled(filters);
      const expected = distribution(logits, sampling);
      const sample = sampler(logits, sampling);
      const draws = 8000;
      const counts = new Map<number, number>();
      for (let i = 0; i < draws; i++) {
        const { token } = sample(uniform(99n, i));
        counts.set(token, (counts.get(token) ?? 0) + 1);
      }
      for (const token of counts.keys()) expect(expected.has(token)).toBe(true);
      // Rare tokens are pooled, so that each cell expects at least 5.
      let statistic = 0;
      let cells = 0;
      let rareExpected = 0;
      let rareCount = 0;
      for (const [token, probability] of expected) {
        const count = counts.get(token) ?? 0;
        if (probability * draws < 5) {
          rareExpected += probability * draws;
          rareCount += count;
          continue;
        }
        statistic += (count - probability * draws) ** 2 / (probability * draws);
        cells++;
      }
      if (rareExpected > 0) {
        statistic += (rareCount - rareExpected) ** 2 / Math.max(rareExpected, 1);
        cells++;
      }
      // Mean cells - 1, variance 2 (cells - 1); the draws are fixed, so this can't flake.
      expect(statistic).toBeLessThan(cells - 1 + 4 * Math.sqrt(2 * Math.max(1, cells - 1)));
    });
  }

  it('candidates decide nine times of ten where probabilities fall as words do', () => {
    const logits = Float32Array.from({ length: 5000 }, (_, i) => -1.6 * Math.log(1 + ((i * 7919) % 5000)));
    const sample = sampler(logits, sampled({ topP: 0.95 }));
    let full = 0;
    for (let i = 0; i < 300; i++) if (sample(uniform(4n, i)).full) full++;
    expect(full).toBeGreaterThan(0);
    expect(full).toBeLessThan(30);
  });
});

describe('greedy', () => {
  it('the highest logit, the lowest id of equals', () => {
    const logits = Float32Array.of(1, 7, 3, 7, -2);
    expect(sampler(logits, greedy)(0.9).token).toBe(1);
    expect(sampler(logits, sampled({ topK: 1 }))(0.9).token).toBe(1);
    expect(argmax(logits)).toBe(1);
  });
});

describe('penalties', () => {
  const counts = { prompt: new Set([0, 1]), generated: new Map([[1, 2], [2, 1]]) }; // biome-ignore format: a table

  it('bias, then repetition once per token, then frequency and presence of generated ones', () => {
    const logits = Float32Array.of(2, -2, 4, 1);
    const sampling = sampled({
      logitBias: new Map([[3, 5], [2, -1]]), // biome-ignore format: a table
      repetitionPenalty: 2,
      frequencyPenalty: 0.5,
      presencePenalty: 0.25,
    });
    expect([...applyPenalties(logits, counts, sampling)]).toEqual([1, -4 - 1 - 0.25, 1.5 - 0.5 - 0.25, 6]);
    expect([...logits]).toEqual([2, -2, 4, 1]);
  });

  it('greedy and sampled choices are made from the changed row', () => {
    const logits = Float32Array.of(2, 1, 0, 0);
    const banned = { logitBias: new Map([[0, -100]]) };
    expect(samplePenalised(logits, counts, { ...greedy, ...banned }, 0.5)).toBe(1);
    for (let i = 0; i < 100; i++) {
      expect(samplePenalised(logits, counts, sampled(banned), uniform(1n, i))).not.toBe(0);
    }
    expect(samplePenalised(logits.fill(Number.NaN), counts, sampled(banned), 0.5)).toBe(null);
    expect(samplePenalised(logits, counts, { ...greedy, ...banned }, 0.5)).toBe(null);
  });
});

describe('rows', () => {
  it('rank sorts by logit, then id, with signs, zeros and infinities', () => {
    const logits = Float32Array.of(-0, 3, Number.NEGATIVE_INFINITY, 0, -1.5, 3, 1e-40, -1e-40);
    expect([...rank(logits).ids]).toEqual([1, 5, 6, 0, 3, 7, 4, 2]);
  });

  it('what is not finite is seen', () => {
    expect(isFiniteRow(headRowOf(Float32Array.of(1, 2), 1))).toBe(true);
    expect(isFiniteRow(headRowOf(Float32Array.of(1, Number.NaN), 1))).toBe(false);
    expect(isFiniteRow(headRowOf(Float32Array.of(1, Number.POSITIVE_INFINITY), 1))).toBe(false);
  });

  it('log-probabilities are of the raw distribution', () => {
    const logits = Float32Array.from({ length: 100 }, (_, i) => -i / 10);
    const row = headRowOf(logits, 2);
    const total = logits.reduce((sum, x) => sum + Math.exp(x), 0);
    const got = logprobsOf(row, 90, 2, logits[90]);
    expect(got.logprob).toBeCloseTo(-9 - Math.log(total), 5);
    expect(got.top.map(({ tokenId }) => tokenId)).toEqual([0, 1]);
    expect(got.top[0]?.logprob).toBeCloseTo(-Math.log(total), 5);
    expect(logprobsOf(row, 0, 0).top).toEqual([]);
  });
});

describe('a head’s sum is rounded up', () => {
  const sampling = sampled({});
  const logits = Float32Array.from({ length: 400 }, (_, i) => (i < 200 ? 20 + i / 1000 : -1000));
  const exact = headRowOf(logits, 1);
  const row = { ...exact, scaledLogSumExp: exact.scaledLogSumExp + 1e-4 };

  it('a draw beyond all tokens is spread over them, and never a token without weight', () => {
    const gap = 1 - Math.exp(-1e-4);
    const counts = new Map<number, number>();
    for (let i = 0; i < 4000; i++) {
      const token = sampleFull(row, logits, sampling, 1 - gap * 0.999 + (gap * 0.998 * i) / 4000);
      counts.set(token, (counts.get(token) ?? 0) + 1);
    }
    expect(Math.max(...counts.keys())).toBeLessThan(200);
    expect(counts.size).toBe(200);
    expect(Math.max(...counts.values())).toBeLessThan(30);
  });

  it('top_p keeps such a row whole', () => {
    const nearly = sampled({ topP: 1 - 1e-9 });
    for (const draw of [0.9999, 0.99995, 0.999999]) expect(sampleFull(row, logits, nearly, draw)).toBeLessThan(200);
  });

  it('candidates and full row still agree', () => {
    for (let i = 0; i < 2000; i++) {
      const token = sampleCandidates(row, sampling, logits.length, i / 2000);
      if (token !== null) expect(sampleFull(row, logits, sampling, i / 2000)).toBe(token);
    }
  });
});
