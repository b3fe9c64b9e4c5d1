import { describe, expect, it } from 'vitest';
import { AttentionMerge, type PartialAttention } from './attention-merge.ts';

const HEADS = 3;
const HEAD_DIM = 4;
const WIDTH = HEADS * HEAD_DIM;

/** Attention of one head in double precision: what it gives, and its log-sum-exp. */
function attend(scores: readonly number[], values: readonly (readonly number[])[]) {
  const most = Math.max(...scores);
  const weights = scores.map((score) => Math.exp(score - most));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const output = Array.from({ length: HEAD_DIM }, (_, d) =>
    weights.reduce((sum, weight, t) => sum + (weight / total) * (values[t]?.[d] ?? 0), 0),
  );
  return scores.length === 0
    ? { output: new Array<number>(HEAD_DIM).fill(0), logSumExp: Number.NEGATIVE_INFINITY }
    : { output, logSumExp: most + Math.log(total) };
}

/** Numbers that look random and are the same each time. */
function numbers(seed: number) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  };
}

/** Contexts of random scores cut at `ends`; what each part gives and what the whole gives. */
function cut(rows: number, ends: readonly number[], scoreRange: number, rowOffset = 0) {
  const next = numbers(ends.length * 100 + rows);
  const tokens = ends.at(-1) ?? 0;
  const whole = new Float64Array(rows * WIDTH);
  const parts: PartialAttention[] = ends.map(() => ({
    output: new Float32Array((rowOffset + rows) * WIDTH).fill(Number.NaN),
    logSumExp: new Float32Array((rowOffset + rows) * HEADS),
    row: rowOffset,
  }));
  for (let at = 0; at < rows * HEADS; at++) {
    const scores = Array.from({ length: tokens }, () => scoreRange * next());
    const values = scores.map(() => Array.from({ length: HEAD_DIM }, next));
    whole.set(attend(scores, values).output, at * HEAD_DIM);
    for (const [p, part] of parts.entries()) {
      const from = ends[p - 1] ?? 0;
      const { output, logSumExp } = attend(scores.slice(from, ends[p]), values.slice(from, ends[p]));
      part.output.set(output, (rowOffset * HEADS + at) * HEAD_DIM);
      part.logSumExp[rowOffset * HEADS + at] = logSumExp;
    }
  }
  return { whole, parts };
}

describe('merge', () => {
  const merge = new AttentionMerge(HEADS, HEAD_DIM);

  for (const ends of [[5], [1, 2], [7, 9, 40], [0, 3, 3, 11], Array.from({ length: 64 }, (_, i) => 1 + 3 * i)]) {
    for (const scoreRange of [1, 80, 1e4]) {
      it(`${ends.length} parts, scores to ${scoreRange}: as one softmax over the whole`, () => {
        const { whole, parts } = cut(3, ends, scoreRange);
        const target = new Float32Array(4 * WIDTH).fill(Number.NaN);
        merge.merge(parts, 3, target, 1);
        // A log-sum-exp of 1e4 has an error of 5e-4 in f32.
        const tolerance = scoreRange > 100 ? 2e-3 : 2e-5;
        whole.forEach((value, i) => {
          expect(Math.abs((target[WIDTH + i] as number) - value)).toBeLessThan(tolerance);
        });
        expect(target.subarray(0, WIDTH).every(Number.isNaN)).toBe(true);
      });
    }
  }

  it('parts stand at rows of their own, one of them where the result goes', () => {
    const { whole, parts } = cut(2, [4, 6], 3);
    const far = cut(2, [4, 6], 3, 5).parts;
    const [first, last] = [far[0] as PartialAttention, parts[1] as PartialAttention];
    merge.merge([first, last], 2, last.output, 0);
    whole.forEach((value, i) => {
      expect(Math.abs((last.output[i] as number) - value)).toBeLessThan(1e-6);
    });
  });

  it('a part that saw nothing changes no bit, whatever lies there; nothing at all is zeros', () => {
    const { parts } = cut(1, [9], 3);
    const [seen] = parts as [PartialAttention];
    const nothing = {
      output: new Float32Array(WIDTH).fill(Number.NaN),
      logSumExp: new Float32Array(HEADS).fill(Number.NEGATIVE_INFINITY),
      row: 0,
    };
    const target = new Float32Array(WIDTH);
    merge.merge([nothing, seen, nothing], 1, target, 0);
    expect(target).toEqual(seen.output);
    merge.merge([nothing, nothing], 1, target, 0);
    expect(target).toEqual(new Float32Array(WIDTH));
  });

  it('what is not a number stays visible', () => {
    const { parts } = cut(1, [4, 9], 3);
    const [first] = parts as [PartialAttention];
    first.logSumExp[1] = Number.NaN;
    const target = new Float32Array(WIDTH);
    merge.merge(parts, 1, target, 0);
    expect(target.subarray(HEAD_DIM, 2 * HEAD_DIM).every(Number.isNaN)).toBe(true);
    expect(target.subarray(0, HEAD_DIM).every(Number.isFinite)).toBe(true);
  });
});
