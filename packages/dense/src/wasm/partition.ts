/**
 * Who computes what: every weight matrix is split over the workers by its outputs. A column of a product is a sum over inputs
 * in their order whatever its neighbours are, so the split changes no bit. Pure arithmetic; tests and the capacity check use it too.
 */
import type { ModelConfig, RowRange } from '@glinthawk/core';

/** Columns of XNNPACK's f32 tile: splits on its multiples leave no worker a ragged edge but the last. */
const COLUMN_TILE = 8;
/** The head is computed and reduced panel by panel, so that a panel's logits are still in cache when they are read. */
const HEAD_PANELS = 32;

/** What one worker computes of every layer, as ranges of output columns. */
export interface WorkerShare {
  /** Heads of [q heads | k heads | v heads]: whole heads, as q/k-norm and RoPE work on heads. */
  readonly qkvHeads: RowRange;
  /** Of the hidden size: the output projection and the down projection. */
  readonly hidden: RowRange;
  /** Of the intermediate size: gate and up, and so the activated columns. */
  readonly intermediate: RowRange;
  /** Panels of the vocabulary. */
  readonly panels: RowRange;
}

/** The width of a head panel; a function of the vocabulary alone, so that reductions don't depend on the number of workers. */
export function panelColumns(vocabSize: number): number {
  return Math.ceil(vocabSize / HEAD_PANELS / COLUMN_TILE) * COLUMN_TILE;
}

export function panelCount(vocabSize: number): number {
  return Math.ceil(vocabSize / panelColumns(vocabSize));
}

export function panelRange(vocabSize: number, panel: number): RowRange {
  const columns = panelColumns(vocabSize);
  return { start: panel * columns, end: Math.min(vocabSize, (panel + 1) * columns) };
}

export function workerShare(config: ModelConfig, worker: number, workers: number): WorkerShare {
  return {
    qkvHeads: split(config.heads + 2 * config.kvHeads, 1, worker, workers),
    hidden: split(config.hiddenSize, COLUMN_TILE, worker, workers),
    intermediate: split(config.intermediateSize, COLUMN_TILE, worker, workers),
    panels: split(panelCount(config.vocabSize), 1, worker, workers),
  };
}

export function length(range: RowRange): number {
  return range.end - range.start;
}

/** The part of `range` that lies in `within`, counted from the start of `within`; empty when they don't meet. */
export function overlap(range: RowRange, within: RowRange): RowRange {
  const start = Math.max(range.start, within.start);
  const end = Math.min(range.end, within.end);
  return end <= start ? { start: 0, end: 0 } : { start: start - within.start, end: end - within.start };
}

function split(count: number, unit: number, worker: number, workers: number): RowRange {
  const units = Math.ceil(count / unit);
  const edge = (w: number) => Math.min(count, Math.floor((w * units) / workers) * unit);
  return { start: edge(worker), end: edge(worker + 1) };
}
