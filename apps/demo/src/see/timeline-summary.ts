/** The timeline in words and figures, for captions, screen readers and the table. */

import { hiddenShare } from './hiding.ts';
import type { SampleLog } from './sample-log.ts';

export interface TimelineFigures {
  readonly denseShare: number;
  /** By node. */
  readonly nodeShares: readonly number[];
  /** Of the time away; null when nothing was away. */
  readonly hiddenShare: number | null;
  readonly tokensPerSecond: number;
  readonly inFlight: number;
  readonly rowsPerMicroBatch: number;
}

/** @param from worker's time, ms */
export function figuresOver(log: SampleLog, from: number, to: number): TimelineFigures {
  const length = Math.max(1e-9, to - from);
  const points = log.series.filter(({ atMs }) => atMs > from && atMs <= to + 1);
  const overMs = points.reduce((sum, point) => sum + point.overMs, 0);
  const mean = (of: (point: (typeof points)[number]) => number) =>
    overMs > 0 ? points.reduce((sum, point) => sum + of(point) * point.overMs, 0) / overMs : 0;
  const last = points.at(-1);
  return {
    denseShare: log.denseBusy.coveredMs(from, to) / length,
    nodeShares: log.nodes.map((_, node) => log.nodeShare(node, from, to)),
    hiddenShare: hiddenShare(log.hiding(from, to)),
    tokensPerSecond: mean((point) => point.tokensPerSecond),
    inFlight: last?.inFlight ?? 0,
    rowsPerMicroBatch: mean((point) => point.rowsPerMicroBatch),
  };
}

export function percent(share: number): string {
  return `${Math.round(100 * share)} %`;
}

/** One or two sentences; what a glance at the picture tells. */
export function describeTimeline(figures: TimelineFigures, oneTier: boolean, nodeNames: readonly string[]): string {
  if (figures.tokensPerSecond === 0 && figures.denseShare === 0) return 'Timeline of both tiers: nothing is running.';
  const { inFlight } = figures;
  const first =
    `Timeline of both tiers, last second: ${Math.round(figures.tokensPerSecond)} tokens a second with ${inFlight} ` +
    `${inFlight === 1 ? 'micro-batch' : 'micro-batches'} in flight. The dense tier was busy ${percent(figures.denseShare)} of the time`;
  const nodes = figures.nodeShares.map((share, node) => `${nodeNames[node] ?? `node ${node + 1}`} ${percent(share)}`);
  const attention = nodes.length === 0 ? '' : `, attention at ${nodes.join(', ')}`;
  const hidden =
    oneTier || figures.hiddenShare === null
      ? ''
      : ` ${percent(figures.hiddenShare)} of the time that micro-batches were away was hidden behind work on others.`;
  return `${first}${attention}.${hidden}`;
}
