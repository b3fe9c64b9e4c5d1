/**
 * The three settings that the experiment compares, as tier settings. What is simulated and what isn't: one tier runs attention in
 * the dense tier's own place and in turns with it, with no distance, but with little KV memory, as a GPU has once the weights
 * are in; two tiers have the KV memory of all workers, at the distance of the slider's round trip. Everything else is measured.
 */
import type { TierReport, TierSettings } from '../engine/protocol.ts';
import { MAX_IN_FLIGHT, MIB } from '../limits.ts';
import { BEGINNING_TOKENS, STORY_TOKENS } from './story-load.ts';

export const SETUPS = ['one-tier', 'one-in-flight', 'many-in-flight'] as const;
export type Setup = (typeof SETUPS)[number];

export interface Knobs {
  /** Round trip added between two tiers. */
  readonly latencyMs: number;
  /** Micro-batches in flight where there are many. */
  readonly inFlight: number;
  /** Rows of a micro-batch at most, with one in flight and with many alike. */
  readonly rows: number;
  /** How many stories the KV memory of one tier has room for at their full length; of those under way it holds more. */
  readonly oneTierStories: number;
}

/** Measured with the example model on two cores; see verdict.ts for how the page words what comes out. */
export const DEFAULT_KNOBS: Knobs = { latencyMs: 10, inFlight: 16, rows: 32, oneTierStories: 2 };

export const MAX_ROUND_TRIP_MS = 50;
export const MIN_MANY = 2;
export const MAX_MANY = MAX_IN_FLIGHT;
export const ROW_CHOICES: readonly number[] = [4, 8, 16, 32, 64];
export const STORY_CHOICES: readonly number[] = [1, 2, 4, 8, 16, 32, 64, 128];

const BLOCK_TOKENS = 16;
/** Admission leaves some blocks free for sequences to grow into. */
const SLACK = 1.2;
const MAX_EXPERIMENT_KV_BYTES = 1024 * MIB;

/** KV of that many whole stories, given the bytes of a token's KV. */
export function storyKvBytes(stories: number, tokenBytes: number): number {
  const blocks = Math.ceil((BEGINNING_TOKENS + STORY_TOKENS) / BLOCK_TOKENS);
  return Math.ceil((Math.ceil(stories * blocks * SLACK) + 1) * BLOCK_TOKENS * tokenBytes);
}

export function tokenBytesOf(report: TierReport): number {
  return report.kvCapacityTokens > 0 ? report.kvCapacityBytes / report.kvCapacityTokens : 1;
}

/** How many stories are under way at once when all in flight is full. */
export function storiesInFlight({ inFlight, rows }: Knobs): number {
  return inFlight * rows;
}

/** About how many stories a setting writes at once: in one tier's memory those under way are half written on average. */
export function storiesAtOnce(setup: Setup, knobs: Knobs): number {
  if (setup === 'one-tier') return 2 * knobs.oneTierStories;
  return setup === 'one-in-flight' ? knobs.rows : storiesInFlight(knobs);
}

/** @param base what the visitor has; workers, remotes and dtypes are kept. `kvBytes` of two tiers is never made less. */
export function settingsFor(setup: Setup, knobs: Knobs, base: TierSettings, tokenBytes: number): TierSettings {
  const { latencyMs } = knobs;
  if (setup === 'one-tier') {
    const kvBytes = Math.round(storyKvBytes(knobs.oneTierStories, tokenBytes));
    // More rows would admit stories that soon have to make room for each other, and be read in again: it would only be slower.
    const microBatchRows = storiesAtOnce(setup, knobs);
    return { ...base, mode: 'one-tier', kvBytes, inFlight: 1, microBatchRows, latencyMs };
  }
  const wanted = Math.min(MAX_EXPERIMENT_KV_BYTES, storyKvBytes(storiesInFlight(knobs), tokenBytes));
  const kvBytes = Math.max(base.mode === 'two-tiers' ? base.kvBytes : 0, Math.ceil(wanted / MIB) * MIB);
  const inFlight = setup === 'one-in-flight' ? 1 : knobs.inFlight;
  const workers = base.workers === 0 && base.remotes.length === 0 ? 1 : base.workers;
  return { ...base, workers, mode: 'two-tiers', kvBytes, inFlight, microBatchRows: knobs.rows, latencyMs };
}

/** Which of the three is open as the knobs say; null when the tiers are something else, as set by hand. */
export function setupOf(settings: TierSettings, knobs: Knobs, tokenBytes: number): Setup | null {
  return SETUPS.find((setup) => sameTiers(settings, settingsFor(setup, knobs, settings, tokenBytes))) ?? null;
}

/** Whether tiers were opened as asked; latency is changed live and left out. */
export function sameTiers(a: TierSettings, b: TierSettings): boolean {
  return (
    a.mode === b.mode && a.kvBytes === b.kvBytes && a.inFlight === b.inFlight && a.microBatchRows === b.microBatchRows
  );
}

export const SETUP_NAMES: Readonly<Record<Setup, string>> = {
  'one-tier': 'One tier',
  'one-in-flight': 'Two tiers, 1 in flight',
  'many-in-flight': 'Two tiers, many in flight',
};
