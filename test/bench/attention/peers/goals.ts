/**
 * How far ahead we are, beside what is wanted: 3x of every library in WebAssembly, and ahead of the native one where KV is smaller
 * than its f32. A ratio comes with the *ceiling*: what it would be at this machine's roofline, of 128-bit vectors.
 */
import type { KvDtype } from '@glinthawk/core';
import { type Ceilings, operationCeiling } from '../measure.ts';
import { operations, type Work, workName } from '../work.ts';
import type { PeerResult } from './compare.ts';

/** Milliseconds of a layer that neither reads KV nor computes faster than the ceilings. */
export function leastMs(work: Work, kvDtype: KvDtype, bytes: number, ceilings: Ceilings): number {
  const reading = bytes / Math.max(ceilings.read, ceilings.readTwo);
  return Math.max(reading, operations(work) / operationCeiling(kvDtype, ceilings)) / 1e6;
}

const GOALS = [
  { of: 'every WASM peer', names: ['tfjs', 'onnx-web'], least: 3, dtypes: ['f32', 'bf16', 'f16', 'int8'] },
  { of: 'native onnxruntime', names: ['onnx-node', 'onnx-node GQA'], least: 1, dtypes: ['bf16', 'f16', 'int8'] },
] as const;

export interface GoalRatio {
  readonly goal: string;
  readonly least: number;
  readonly kv: string;
  /** The fastest of those that the goal names. */
  readonly peer: string;
  readonly ratio: number;
  /** What the ratio would be at the roofline. */
  readonly ceiling: number;
}

/** @param results of one shape and number of threads; where no peer of a goal could run there is nothing of it */
export function goalRatios(results: readonly PeerResult[]): GoalRatio[] {
  const best = ({ milliseconds }: PeerResult) => Math.min(...milliseconds);
  return GOALS.flatMap(({ of, names, least, dtypes }) => {
    const peers = results.filter(({ name }) => names.some((known) => known === name));
    const [fastest] = peers.toSorted((a, b) => best(a) - best(b));
    if (fastest === undefined) return [];
    const ours = results.filter(({ name, kv }) => name === 'glinthawk' && dtypes.some((known) => known === kv));
    return ours.map((our) => ({
      goal: `≥ ${least}x of ${of}`,
      least,
      kv: our.kv,
      peer: fastest.name,
      ratio: best(fastest) / best(our),
      ceiling: best(fastest) / Math.min(our.leastMs ?? Number.NaN, best(our)),
    }));
  });
}

const times = (ratio: number) => `${ratio.toFixed(ratio < 9.95 ? 1 : 0)}x`;

/** A line a goal: what each KV dtype reaches of it. */
export function goalLines(results: readonly PeerResult[]): string[] {
  const threads = results[0]?.threads;
  const all = goalRatios(results);
  return [...new Set(all.map(({ goal }) => goal))].map((goal) => {
    const mine = all.filter((one) => one.goal === goal);
    const reached = mine.map(({ kv, ratio, ceiling }) => `${kv} ${times(ratio)} (ceiling ${times(ceiling)})`);
    const by = mine.filter(({ ratio, least }) => ratio >= least).map(({ kv }) => kv);
    const verdict = by.length === 0 ? 'MISSED' : by.length === mine.length ? 'met' : `met by ${by.join(', ')}`;
    return `${threads} ${threads === 1 ? 'thread' : 'threads'}, goal ${goal}: ${verdict}; of ${mine[0]?.peer}: ${reached.join(', ')}`;
  });
}

/** Of all shapes together: in how many each KV dtype reaches a goal, and which are left. */
export function goalSummary(results: readonly PeerResult[]): string[] {
  const cases = Map.groupBy(results, ({ work, threads }) => `${workName(work)}, ${threads} thr`);
  const all = [...cases].flatMap(([shape, of]) => goalRatios(of).map((ratio) => ({ shape, ...ratio })));
  return [...Map.groupBy(all, ({ goal, kv }) => `${goal}, ${kv}`)].map(([name, of]) => {
    const behind = of.filter(({ ratio, least }) => ratio < least).toSorted((a, b) => a.ratio - b.ratio);
    const list = behind.map(
      ({ shape, ratio, ceiling, peer }) => `  ${times(ratio)} of ${peer}, ceiling ${times(ceiling)}: ${shape}`,
    );
    return [
      `${name}: in ${of.length - behind.length} of ${of.length}${behind.length > 0 ? '; not in' : ''}`,
      ...list,
    ].join('\n');
  });
}
