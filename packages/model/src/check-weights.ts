/** Reads every weight once and reports those that no computation survives: NaN and infinity. */
import type { WeightName } from '@glinthawk/core';
import type { Model } from './model.ts';
import { elementCount, weightShapes } from './weight-shapes.ts';

/** Elements held at once. */
const PIECE_ELEMENTS = 4 * 2 ** 20;

export interface WeightCheck {
  readonly name: WeightName;
  readonly stored: string;
  readonly elements: number;
  readonly nan: number;
  readonly infinite: number;
  /** Index of the first element that isn't finite, or null. */
  readonly firstBad: number | null;
  /** The largest finite magnitude; beyond 65504 it doesn't fit f16. */
  readonly maxAbs: number;
}

/**
 * One report for each weight, in the order of the computation.
 * @throws ModelFormatError when a file is truncated or unreadable
 */
export async function* checkWeights(model: Model): AsyncGenerator<WeightCheck> {
  for (const [name, shape] of weightShapes(model.config)) {
    const rows = shape[0] ?? 0;
    const rowElements = elementCount(shape.slice(1));
    const step = Math.max(1, Math.floor(PIECE_ELEMENTS / rowElements));
    const counts = { nan: 0, infinite: 0, firstBad: -1, maxAbs: 0 };
    for (let start = 0; start < rows; start += step) {
      const values = await model.weights.read(name, { start, end: Math.min(rows, start + step) });
      countBad(values, start * rowElements, counts);
    }
    yield {
      name,
      stored: model.weights.info(name).stored,
      elements: elementCount(shape),
      nan: counts.nan,
      infinite: counts.infinite,
      firstBad: counts.firstBad < 0 ? null : counts.firstBad,
      maxAbs: counts.maxAbs,
    };
  }
}

function countBad(
  values: Float32Array,
  base: number,
  counts: { nan: number; infinite: number; firstBad: number; maxAbs: number },
): void {
  for (let i = 0; i < values.length; i++) {
    const magnitude = Math.abs(values[i] as number);
    if (magnitude < Number.POSITIVE_INFINITY) {
      if (magnitude > counts.maxAbs) counts.maxAbs = magnitude;
      continue;
    }
    if (Number.isNaN(magnitude)) counts.nan++;
    else counts.infinite++;
    if (counts.firstBad < 0) counts.firstBad = base + i;
  }
}
