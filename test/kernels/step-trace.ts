/** One step of a dense backend on random rows and random attention output, and all that it gave: to compare backends with. */
import type { ModelConfig } from '@glinthawk/core';
import type { DenseBackend, DenseStep, HeadRow } from '@glinthawk/dense';
import { randomNormal, randomSource } from './random-model.ts';
import { errorOf, tolerances, withinTolerance } from './tolerances.ts';

/** Everything that one step gives, in the order in which it comes. */
export interface StepTrace {
  readonly qkv: readonly Float32Array[]; // [layers][rows, (heads + 2 kvHeads) headDim]
  readonly heads: readonly HeadRow[];
  readonly logits: readonly Float32Array[]; // [headRows][vocab]
}

export function randomStep(config: ModelConfig, rows: number, seed: number): DenseStep {
  const random = randomSource(seed);
  const headRows = Uint32Array.from({ length: rows }, (_, row) => row).filter((row) => row === 0 || row % 3 !== 1);
  return {
    tokenIds: Uint32Array.from({ length: rows }, () => Math.floor(random() * config.vocabSize)),
    positions: Uint32Array.from({ length: rows }, () => Math.floor(random() * config.contextTokens)),
    headRows,
    inverseTemperatures: Float32Array.from(headRows, (_, i) => (i % 2 === 0 ? 1 : 0.5 + random())),
  };
}

/** Attention outputs for each layer, [rows, heads · headDim]. */
export function randomAttended(config: ModelConfig, rows: number, seed: number): readonly Float32Array[] {
  const random = randomSource(seed);
  return Array.from({ length: config.layers }, () => randomNormal(random, rows * config.heads * config.headDim));
}

/** One step through all layers. `batch` is destroyed. */
export async function traceStep(
  backend: DenseBackend,
  step: DenseStep,
  attended: readonly Float32Array[],
  maxRows = step.tokenIds.length,
): Promise<StepTrace> {
  const { layers, heads, kvHeads, headDim } = backend.config;
  const batch = await backend.createBatch({ maxRows, maxHeadRows: Math.max(1, step.headRows.length) });
  try {
    const floats = step.tokenIds.length * (heads + 2 * kvHeads) * headDim;
    const qkv: Float32Array[] = [];
    await batch.begin(step);
    for (let layer = 0; layer < layers; layer++) {
      qkv.push(batch.qkv.slice(0, floats));
      batch.attended.set(attended[layer] as Float32Array);
      if (layer < layers - 1) await batch.advance(layer);
    }
    const rows = await batch.finish();
    const logits: Float32Array[] = [];
    for (const i of rows.keys()) logits.push((await batch.logits(i)).slice());
    return { qkv, heads: rows, logits };
  } finally {
    batch.destroy();
  }
}

/** What is wrong with `got`, in words; null when it is within tolerance of `expected`. */
export function traceDifference(got: StepTrace, expected: StepTrace): string | null {
  for (const [layer, tensor] of expected.qkv.entries()) {
    const difference = tensorDifference(got.qkv[layer] as Float32Array, tensor);
    if (difference !== null) return `qkv of layer ${layer} differs by ${difference}`;
  }
  if (got.heads.length !== expected.heads.length) return `${got.heads.length} head rows`;
  for (const [row, head] of expected.heads.entries()) {
    const ours = got.heads[row] as HeadRow;
    const logits = got.logits[row] as Float32Array;
    const difference = tensorDifference(logits, expected.logits[row] as Float32Array);
    if (difference !== null) return `logits of head row ${row} differ by ${difference}`;
    if (!(Math.abs(ours.logSumExp - head.logSumExp) <= SUM_TOLERANCE)) return `logSumExp ${ours.logSumExp}`;
    if (!(Math.abs(ours.scaledLogSumExp - head.scaledLogSumExp) <= SUM_TOLERANCE)) {
      return `scaledLogSumExp ${ours.scaledLogSumExp}, expected ${head.scaledLogSumExp}`;
    }
    if (ours.ids.length !== head.ids.length) return `${ours.ids.length} candidates, expected ${head.ids.length}`;
    // Candidates must be exactly the best of the logits that were returned.
    const best = Array.from(logits.keys()).sort((a, b) => (logits[b] as number) - (logits[a] as number) || a - b);
    for (const [i, id] of ours.ids.entries()) {
      if (id !== best[i] || ours.logits[i] !== logits[id]) return `candidate ${i} of head row ${row} is ${id}`;
    }
  }
  return null;
}

/** Of logSumExp, which is a double: what f32 logits and their sums in double precision leave. */
const SUM_TOLERANCE = 2e-5;

function tensorDifference(got: Float32Array, expected: Float32Array): string | null {
  const error = errorOf(got, expected);
  return got.length === expected.length && withinTolerance(error, tolerances.denseStep.f32)
    ? null
    : JSON.stringify(error);
}

export function sameBits(a: StepTrace, b: StepTrace): boolean {
  const numbers = (trace: StepTrace) => [
    ...trace.qkv,
    ...trace.logits,
    ...trace.heads.flatMap((head) => [head.ids, head.logits, [head.logSumExp, head.scaledLogSumExp]]),
  ];
  const other = numbers(b);
  return numbers(a).every((values, i) => {
    const others = other[i] as ArrayLike<number>;
    return values.length === others.length && Array.prototype.every.call(values, (v, j) => Object.is(v, others[j]));
  });
}
