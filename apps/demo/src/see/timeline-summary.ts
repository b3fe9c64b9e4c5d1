/** The timeline in words and figures, for captions, screen readers and the table. */
import type { Figures } from './figures.ts';

export function percent(share: number): string {
  return `${Math.round(100 * share)} %`;
}

/** One or two sentences; what a glance at the picture tells. */
export function describeTimeline(figures: Figures, oneTier: boolean, nodeNames: readonly string[]): string {
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
