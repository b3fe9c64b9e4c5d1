/**
 * Contexts beyond SPLIT_TOKENS: folded split by split they are what the definition says, with the same bits however a step was
 * cut into tasks, whoever ran them, in whatever order. And what only a step's description decides: visits, windows, dead entries,
 * log-sum-exps, layer groups.
 */
import type { KvDtype } from '@glinthawk/core';
import { describe, expect, it } from 'vitest';
import { SPLIT_TOKENS } from '../../packages/attention/src/plan-tasks.ts';
import { type KernelEntry, passesOfLayer } from '../../packages/attention/src/step-layout.ts';
import { roundKv } from '../reference/attention.ts';
import { fillNormal, kernelVariants, naiveAttention, randomSource } from './attention-cases.ts';
import { bytesOf, KernelRig } from './kernel-rig.ts';
import { errorOf, tolerances, withinTolerance } from './tolerances.ts';

const shape = { kvHeads: 2, groupSize: 3, headDim: 8, softmaxScale: 1 / Math.sqrt(8), maxContextTokens: 8192 };
const HEADS = shape.kvHeads * shape.groupSize;
const KV = shape.kvHeads * shape.headDim;
const QKV = (shape.groupSize + 2) * KV;
const OUT = shape.groupSize * KV;
const [all, late] = [0, 2500];
const geometry = { ...shape, layers: 3, windows: [all, late, all] };

/** Contexts that end in the first, at, and behind the second split's end. */
const CONTEXTS = [70, SPLIT_TOKENS - 1, SPLIT_TOKENS, SPLIT_TOKENS + 1, 2 * SPLIT_TOKENS, 4500] as const;

const variants = kernelVariants.flatMap((variant) =>
  [false, true].map((shared) => ({ ...variant, shared, name: `${variant.name}${shared ? ', shared' : ''}` })),
);

interface Context {
  readonly tables: number;
  readonly tokens: number;
  /** [tokens][KV], as stored */
  readonly keys: Float64Array[];
  readonly values: Float64Array[];
}

function append(rig: KernelRig, kvDtype: KvDtype, layer: number, tokens: number, random: () => number): Context {
  const tables = rig.slot();
  const qkv = fillNormal(new Float32Array(tokens * QKV), random);
  rig.run({
    entries: [{ tables, position: 0, count: tokens, stored: tokens, visit: false }],
    qkv: bytesOf(qkv),
    layer,
  });
  const at = (from: number) => (_: unknown, t: number) => {
    const start = t * QKV + OUT + from;
    return roundKv(qkv.slice(start, start + KV), kvDtype, shape.headDim);
  };
  return {
    tables,
    tokens,
    keys: Array.from({ length: tokens }, at(0)),
    values: Array.from({ length: tokens }, at(KV)),
  };
}

function naiveLogSumExp(q: Float32Array, keys: readonly Float64Array[], at: number, from: number, to: number): number {
  const scores = keys.slice(from, to).map((k) => {
    let dot = 0;
    for (let d = 0; d < q.length; d++) dot += (q[d] as number) * (k[at + d] as number);
    return dot * shape.softmaxScale;
  });
  const largest = scores.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  return largest + Math.log(scores.reduce((sum, score) => sum + Math.exp(score - largest), 0));
}

describe.each(variants)('$name', ({ kvDtype, build, int8, shared }) => {
  const rigOf = () => KernelRig.create({ geometry, kvDtype, build, int8, shared });
  const tolerance = tolerances.attention[kvDtype === 'int8' && int8 === 'dot' ? 'int8Dot' : kvDtype];

  for (const layer of [0, 1]) {
    it(`${layer === 0 ? 'the whole context' : `a window of ${late}`}: right, and the same bits however it is cut`, async () => {
      const rig = await rigOf();
      const random = randomSource(7);
      const contexts = CONTEXTS.map((tokens) => append(rig, kvDtype, layer, tokens, random));
      const chunks = [1, 5, 2, 1, 30, 3];
      const entries = contexts.map(({ tables, tokens }, i): KernelEntry => {
        const count = chunks[i] as number;
        return { tables, position: tokens, count, stored: tokens + count, visit: false };
      });
      const rows = chunks.reduce((a, b) => a + b);
      const qkv = fillNormal(new Float32Array(rows * QKV), random);
      const whole = rig.run({ entries, qkv: bytesOf(qkv), layer });
      const passes = passesOfLayer(whole.layout, layer);
      expect(passes.map(({ tasks }) => tasks.length)).toEqual([1]);

      const cuts = [2, 5, 40].map((workers) => rig.run({ entries, qkv: bytesOf(qkv), layer, workers }));
      // As a whole they have cuts by entry, head, row and split.
      const plans = cuts.map(({ layout }) => layout.plans[layout.planOfLayer[layer] ?? 0]?.plan);
      expect(plans.some((plan) => (plan?.counters ?? 0) > 0)).toBe(true);
      expect(plans.some((plan) => (plan?.append.length ?? 0) > 0)).toBe(true);
      for (const cut of cuts) {
        expect(bytesOf(cut.logSumExp)).toEqual(bytesOf(whole.logSumExp));
        expect(cut.output).toEqual(whole.output);
      }

      const [actual, expected, sums, expectedSums]: number[][] = [[], [], [], []];
      const output = new Float32Array(whole.output.buffer);
      let row = 0;
      for (const [i, { position, count }] of entries.entries()) {
        const { keys, values } = contexts[i] as Context;
        for (let t = 0; t < count; t++, row++) {
          const k = row * QKV + OUT;
          keys.push(roundKv(qkv.slice(k, k + KV), kvDtype, shape.headDim));
          values.push(roundKv(qkv.slice(k + KV, k + 2 * KV), kvDtype, shape.headDim));
          if (t !== 0 && t !== count - 1) continue;
          const end = position + t + 1;
          const from = layer === 1 ? Math.max(0, end - late) : 0;
          for (let head = 0; head < HEADS; head++) {
            const q = qkv.subarray(row * QKV + head * shape.headDim).subarray(0, shape.headDim);
            const at = Math.floor(head / shape.groupSize) * shape.headDim;
            const o = (row * HEADS + head) * shape.headDim;
            actual?.push(...output.subarray(o, o + shape.headDim));
            expected?.push(...naiveAttention(q, keys, values, at, [from, end], shape.softmaxScale));
            sums?.push(whole.logSumExp[row * HEADS + head] as number);
            expectedSums?.push(naiveLogSumExp(q, keys, at, from, end));
          }
        }
      }
      const error = errorOf(actual ?? [], expected ?? []);
      expect(withinTolerance(error, tolerance), JSON.stringify(error)).toBe(true);
      const ofSums = errorOf(sums ?? [], expectedSums ?? []);
      expect(ofSums.maxAbs, JSON.stringify(ofSums)).toBeLessThan(int8 === 'dot' && kvDtype === 'int8' ? 0.1 : 2e-3);
    });
  }

  it('a visit sees what is stored, leaves it as it is, and nothing where its window has passed', async () => {
    const rig = await rigOf();
    const random = randomSource(9);
    const contexts = [0, 1].map((layer) => append(rig, kvDtype, layer, 2200, random));
    const qkv = fillNormal(new Float32Array(4 * QKV), random);
    const stored = 2200;
    for (const [layer, position] of [
      [0, 3000],
      [1, 3000],
      [1, 4697],
      [1, 5000],
    ] as const) {
      const { tables, keys, values } = contexts[layer] as Context;
      const entries = [{ tables, position, count: 4, stored, visit: true }];
      const whole = rig.run({ entries, qkv: bytesOf(qkv), layer });
      const cut = rig.run({ entries, qkv: bytesOf(qkv), layer, workers: 40 });
      expect(cut.output).toEqual(whole.output);
      expect(cut.logSumExp).toEqual(whole.logSumExp);
      const output = new Float32Array(whole.output.buffer);
      const expected: number[] = [];
      for (let i = 0; i < 4 * HEADS; i++) {
        const row = Math.floor(i / HEADS);
        const head = i % HEADS;
        const from = layer === 1 ? Math.max(0, position + row + 1 - late) : 0;
        if (from >= stored) {
          expected.push(...new Float64Array(shape.headDim));
          expect(whole.logSumExp[i]).toBe(Number.NEGATIVE_INFINITY);
          continue;
        }
        const q = qkv.subarray(row * QKV + head * shape.headDim).subarray(0, shape.headDim);
        const at = Math.floor(head / shape.groupSize) * shape.headDim;
        expected.push(...naiveAttention(q, keys, values, at, [from, stored], shape.softmaxScale));
      }
      const error = errorOf(output, expected);
      expect(withinTolerance(error, tolerance), JSON.stringify({ layer, position, error })).toBe(true);
    }
  });

  it('a dead entry gives zeros, however it is cut, and its slot stays as it is', async () => {
    const rig = await rigOf();
    const random = randomSource(11);
    const { tables, tokens } = append(rig, kvDtype, 0, 4500, random);
    const look = fillNormal(new Float32Array(QKV), random);
    const visit = [{ tables, position: tokens, count: 1, stored: tokens, visit: true }];
    const before = rig.run({ entries: visit, qkv: bytesOf(look) });
    const qkv = fillNormal(new Float32Array(2 * QKV), random);
    const entries = [{ tables, position: tokens - 2, count: 2, stored: tokens, visit: false }];
    for (const workers of [1, 40]) {
      const { output, logSumExp } = rig.run({ entries, qkv: bytesOf(qkv), workers, dead: [0] });
      expect(output.every((byte) => byte === 0)).toBe(true);
      expect(logSumExp.every((sum) => sum === Number.NEGATIVE_INFINITY)).toBe(true);
    }
    expect(rig.run({ entries: visit, qkv: bytesOf(look) }).output).toEqual(before.output);
  });

  it('layers of other groups, and places in a group, have KV of their own', async () => {
    const rig = await rigOf();
    const random = randomSource(13);
    const tables = rig.slot();
    const entries = [{ tables, position: 0, count: 9, stored: 9, visit: false }];
    const rows = [0, 1, 2].map(() => fillNormal(new Float32Array(9 * QKV), random));
    const first = rows.map((qkv, layer) => rig.run({ entries, qkv: bytesOf(qkv), layer }).output);
    const visit = [{ tables, position: 9, count: 1, stored: 9, visit: true }];
    for (const [layer, qkv] of rows.entries()) {
      // The last row again, as a visitor: it sees the same nine tokens.
      const again = rig.run({ entries: visit, qkv: bytesOf(qkv.subarray(8 * QKV)), layer }).output;
      expect(again).toEqual(first[layer]?.subarray(8 * OUT * 4));
    }
  });
});
