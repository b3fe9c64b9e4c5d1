/**
 * What the tiers did over a stretch of time, as sums that add up, and the rates and shares that they come to. Every figure of
 * the page is computed here, so that two of them can't contradict each other; the log says what the sums are.
 */

/** When which tier worked, in ms of the stretch. */
export interface TierTimes {
  readonly overMs: number;
  readonly denseMs: number;
  /** By node: time in which it computed; travel is not computing. */
  readonly nodeMs: readonly number[];
  /** Time in which at least one micro-batch was away, and the dense tier worked on others (hidden) or stood idle (exposed). */
  readonly hiddenMs: number;
  readonly exposedMs: number;
}

export interface Stretch extends TierTimes {
  readonly generatedTokens: number;
  /** Micro-batches that went through all layers, and their rows. */
  readonly steps: number;
  readonly rows: number;
  readonly preemptions: number;
  readonly bytesOut: number;
  readonly bytesIn: number;
  /** As it was at the end. */
  readonly kvUsedBytes: number;
  readonly inFlight: number;
  readonly running: number;
  /** Mean tokens in the KV of a sequence that has some. */
  readonly contextTokens: number;
}

export interface Shares {
  /** 0 to 1: of the time, the dense tier worked. */
  readonly denseShare: number;
  readonly nodeShares: readonly number[];
  /** The mean over nodes. */
  readonly attentionShare: number;
  /** Of the time away, hidden; null when nothing was away. */
  readonly hiddenShare: number | null;
}

export interface Figures extends Shares {
  readonly overMs: number;
  /** Generated ones only: neither prompts nor what is prefilled again. */
  readonly tokensPerSecond: number;
  /** Rows of a micro-batch that gave a token each. */
  readonly decodeRows: number;
  /** Rows of a micro-batch that read a prompt, or read again what a preemption had dropped. */
  readonly prefillRows: number;
  readonly preemptionsPerSecond: number;
  readonly bytesOutPerSecond: number;
  readonly bytesInPerSecond: number;
  /** Means over the time. */
  readonly kvUsedBytes: number;
  readonly running: number;
  readonly contextTokens: number;
  /** At the end. */
  readonly inFlight: number;
}

export function sharesOf(times: readonly TierTimes[]): Shares {
  const overMs = sum(times, (each) => each.overMs);
  const ofTime = (ms: number) => (overMs > 0 ? Math.min(1, ms / overMs) : 0);
  const nodes = Math.max(0, ...times.map(({ nodeMs }) => nodeMs.length));
  const nodeShares = Array.from({ length: nodes }, (_, node) => ofTime(sum(times, ({ nodeMs }) => nodeMs[node] ?? 0)));
  const hiddenMs = sum(times, (each) => each.hiddenMs);
  const awayMs = hiddenMs + sum(times, (each) => each.exposedMs);
  return {
    denseShare: ofTime(sum(times, (each) => each.denseMs)),
    nodeShares,
    attentionShare: nodes === 0 ? 0 : sum(nodeShares, (share) => share) / nodes,
    hiddenShare: awayMs > 0 ? hiddenMs / awayMs : null,
  };
}

export function figuresOf(stretches: readonly Stretch[]): Figures {
  const overMs = sum(stretches, (each) => each.overMs);
  const perSecond = (count: number) => (overMs > 0 ? (count / overMs) * 1000 : 0);
  const mean = (of: (each: Stretch) => number) =>
    overMs > 0 ? sum(stretches, (each) => of(each) * each.overMs) / overMs : 0;
  const steps = sum(stretches, (each) => each.steps);
  const tokens = sum(stretches, (each) => each.generatedTokens);
  const aStep = (rows: number) => (steps > 0 ? Math.max(0, rows) / steps : 0);
  return {
    ...sharesOf(stretches),
    overMs,
    tokensPerSecond: perSecond(tokens),
    decodeRows: aStep(tokens),
    prefillRows: aStep(sum(stretches, (each) => each.rows) - tokens),
    preemptionsPerSecond: perSecond(sum(stretches, (each) => each.preemptions)),
    bytesOutPerSecond: perSecond(sum(stretches, (each) => each.bytesOut)),
    bytesInPerSecond: perSecond(sum(stretches, (each) => each.bytesIn)),
    kvUsedBytes: mean((each) => each.kvUsedBytes),
    running: mean((each) => each.running),
    contextTokens: mean((each) => each.contextTokens),
    inFlight: stretches.at(-1)?.inFlight ?? 0,
  };
}

function sum<T>(of: readonly T[], value: (each: T) => number): number {
  return of.reduce((total, each) => total + value(each), 0);
}
