/** What flows between the tiers now, from two samples that follow each other: shares of time and bytes a second. */
import type { Sample } from '../engine/protocol.ts';

export interface TierFlow {
  /** Of the time between the samples, 0 to 1. */
  readonly denseBusy: number;
  readonly attentionBusy: number;
  readonly outPerSecond: number;
  readonly inPerSecond: number;
  readonly tokensPerSecond: number;
}

export const STILL: TierFlow = {
  denseBusy: 0,
  attentionBusy: 0,
  outPerSecond: 0,
  inPerSecond: 0,
  tokensPerSecond: 0,
};

export function tierFlow(before: Sample | null, now: Sample | null): TierFlow {
  if (before === null || now === null) return STILL;
  const ms = now.atMs - before.atMs;
  // Counters begin anew with a new engine.
  if (ms <= 0 || now.stats.steps < before.stats.steps || now.tierBytesOut < before.tierBytesOut) return STILL;
  const share = (busyMs: number): number => Math.min(1, Math.max(0, busyMs / ms));
  const rate = (count: number): number => (Math.max(0, count) / ms) * 1000;
  return {
    denseBusy: share(now.stats.denseBusyMs - before.stats.denseBusyMs),
    attentionBusy: share(now.stats.attentionBusyMs - before.stats.attentionBusyMs),
    outPerSecond: rate(now.tierBytesOut - before.tierBytesOut),
    inPerSecond: rate(now.tierBytesIn - before.tierBytesIn),
    tokensPerSecond: rate(now.stats.generatedTokens - before.stats.generatedTokens),
  };
}
