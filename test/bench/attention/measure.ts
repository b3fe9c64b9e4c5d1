/**
 * Times a team's attention between measurements of the ceilings, again and again, because on a shared machine both move.
 * A repetition counts only where the ceilings before and after it agree, and where no other program took the processor from
 * it; from too few of those no share is given. Every
 * ceiling is the best of several tries: what disturbs a microkernel only ever makes it slower, and a low ceiling flatters.
 */
import type { KvDtype } from '@glinthawk/core';
import type { Placement } from './placement.ts';
import type { Team } from './team.ts';
import { operations, type Work } from './work.ts';

/** What the threads together reach, in 1e9 a second. */
export interface Ceilings {
  /** Bytes read in order, from the memory that attention reads; by one stream a thread, and by two. */
  readonly read: number;
  readonly readTwo: number;
  /** f32 operations; integer ones by dots of int16, and of int8 where there is relaxed SIMD (0 without). */
  readonly fma: number;
  readonly dotI16: number;
  readonly dotI8: number;
  /** False where no try had the processors to itself. */
  readonly undisturbed: boolean;
}

export interface Sample {
  readonly milliseconds: number; // of one layer, from what a part of its rows took
  /** How much of that time its threads had a processor. */
  readonly onProcessor: number;
  readonly before: Ceilings;
  readonly after: Ceilings;
}

export interface Result {
  readonly work: Work;
  readonly kvDtype: KvDtype;
  readonly threads: number;
  readonly layers: number;
  readonly placement: Placement;
  readonly blockTokens: number;
  readonly pageBytes: number;
  readonly kvMegabytes: number;
  /** Of one attend. */
  readonly bytes: number;
  readonly operations: number;
  readonly samples: readonly Sample[];
}

/** A thread that had a processor for less of the time shared it with another program. */
const LEAST_ON_PROCESSOR = 0.97;

const READ_TRY_BYTES = 32 << 20;
const PEAK_TRY_ROUNDS = 20_000; // about half a millisecond
const TRIES = 3;
const MOST_TRIES = 8;
const PEAK_CHAINS = 12; // CHAINS in kernels/peaks.c
const OPERATIONS_A_ROUND = { fma: 8 * PEAK_CHAINS, dotI16: 16 * PEAK_CHAINS, dotI8: 32 * PEAK_CHAINS } as const;
/** V8 compiles anew what is hot; until then a kernel runs at half its speed. */
const WARM_UP_MS = 150;
const SAMPLE_MS = 2;
/** As many repetitions are made at most to have the wanted number of valid ones. */
const MOST_ATTEMPTS = 3;

export async function measureCeilings(team: Team): Promise<Ceilings> {
  let undisturbed = true;
  const best = async (
    operation: 'read' | 'readTwo' | keyof typeof OPERATIONS_A_ROUND,
    argument: number,
    amount: number,
  ) => {
    let [most, clean] = [0, 0];
    for (let i = 0; i < MOST_TRIES && clean < TRIES; i++) {
      const rate = (team.threads * amount) / (await team.run(operation, argument)) / 1e6;
      if (team.onProcessor < LEAST_ON_PROCESSOR) continue;
      most = Math.max(most, rate);
      clean++;
    }
    if (clean === 0) undisturbed = false;
    return most;
  };
  const peak = (operation: keyof typeof OPERATIONS_A_ROUND) =>
    best(operation, PEAK_TRY_ROUNDS, PEAK_TRY_ROUNDS * OPERATIONS_A_ROUND[operation]);
  const read = (operation: 'read' | 'readTwo') => best(operation, READ_TRY_BYTES, READ_TRY_BYTES);
  const [one, two] = [await read('read'), await read('readTwo')];
  const [fma, dotI16, dotI8] = [await peak('fma'), await peak('dotI16'), await peak('dotI8')];
  return { read: one, readTwo: two, fma, dotI16, dotI8, undisturbed };
}

/** What KV of one token and KV head takes, padding of pages aside. */
export function tokenBytes({ layout }: Team, kvDtype: KvDtype): number {
  const scales = kvDtype.startsWith('int') ? 2 * 4 : 0;
  return layout.scaleOffset / layout.pageTokens + scales;
}

export async function measure(
  team: Team,
  work: Work,
  kvDtype: KvDtype,
  how: { readonly layers: number; readonly placement: Placement; readonly repetitions: number; readonly bound: number },
): Promise<Result> {
  const { layers, placement, repetitions, bound } = how;
  let once = await team.run('attend', 1);
  for (const until = performance.now() + WARM_UP_MS; performance.now() < until; ) {
    await measureCeilings(team);
    once = Math.min(once, await team.run('attend', 1));
  }
  const pieces = Math.max(1, Math.round(SAMPLE_MS / once));
  const samples: Sample[] = [];
  let before = await measureCeilings(team);
  for (let valid = 0; valid < repetitions && samples.length < MOST_ATTEMPTS * repetitions; ) {
    const milliseconds = ((await team.run('attend', pieces)) / pieces) * team.pieces;
    const { onProcessor } = team;
    const after = await measureCeilings(team);
    const sample = { milliseconds, onProcessor, before, after };
    samples.push(sample);
    if (isValid(sample, kvDtype, bound)) valid++;
    before = after;
  }
  return {
    work,
    kvDtype,
    threads: team.threads,
    layers,
    placement,
    blockTokens: team.layout.blockTokens,
    pageBytes: team.layout.pageBytes,
    kvMegabytes: team.kvBytes / 1e6,
    bytes: work.sequences * work.kvHeads * work.context * tokenBytes(team, kvDtype),
    operations: operations(work),
    samples,
  };
}

/** The faster of the integer dots: which one pays is the machine's business. */
export function operationCeiling(kvDtype: KvDtype, { fma, dotI16, dotI8 }: Ceilings): number {
  return kvDtype.startsWith('int') ? Math.max(dotI16, dotI8) : fma;
}

export interface Spread {
  readonly median: number;
  readonly best: number;
  readonly low: number; // a quarter is below
  readonly high: number; // a quarter is above
}

export function spreadOf(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
  return { median: at(0.5), best: sorted.at(-1) ?? Number.NaN, low: at(0.25), high: at(0.75) };
}

/** Ceilings that moved by more than this within a repetition make it void. */
export const DEFAULT_BOUND = 0.1;
const LEAST_SAMPLES = 5;

/** The ceilings that count, before and after: reading in one stream, the fastest way of reading, operations. */
function ceilingPairs({ before, after }: Sample, kvDtype: KvDtype): readonly (readonly [number, number])[] {
  return [
    [before.read, after.read],
    [Math.max(before.read, before.readTwo), Math.max(after.read, after.readTwo)],
    [operationCeiling(kvDtype, before), operationCeiling(kvDtype, after)],
  ];
}

export function isValid(sample: Sample, kvDtype: KvDtype, bound: number): boolean {
  if (sample.onProcessor < LEAST_ON_PROCESSOR) return false;
  if (!sample.before.undisturbed || !sample.after.undisturbed) return false;
  return ceilingPairs(sample, kvDtype).every(([a, b]) => Math.abs(a - b) <= bound * Math.max(a, b));
}

export interface Shares {
  readonly kept: number;
  /** Null when too few repetitions are valid. */
  readonly figures: ShareFigures | null;
}

export interface ShareFigures {
  /** Share of the roofline: of whichever ceiling binds. */
  readonly roofline: Spread;
  /** Of reading in one stream, and of whichever way reads fastest; medians. */
  readonly ofRead: number;
  readonly ofFastestRead: number;
  readonly ofOperations: number;
  readonly binds: 'read' | 'operations';
}

export function sharesOf({ kvDtype, bytes, operations: ops, samples }: Result, bound: number): Shares {
  const roofline: number[] = [];
  const ofRead: number[] = [];
  const ofFastestRead: number[] = [];
  const ofOperations: number[] = [];
  for (const sample of samples) {
    if (!isValid(sample, kvDtype, bound)) continue;
    const { milliseconds } = sample;
    const means = ceilingPairs(sample, kvDtype).map(([a, b]) => (a + b) / 2);
    const [read, fastestRead, operation] = means as [number, number, number];
    ofRead.push(bytes / milliseconds / 1e6 / read);
    ofFastestRead.push(bytes / milliseconds / 1e6 / fastestRead);
    ofOperations.push(ops / milliseconds / 1e6 / operation);
    roofline.push(Math.max(ofFastestRead.at(-1) as number, ofOperations.at(-1) as number));
  }
  const kept = roofline.length;
  if (kept < LEAST_SAMPLES) return { kept, figures: null };
  const [fastest, operation] = [spreadOf(ofFastestRead).median, spreadOf(ofOperations).median];
  return {
    kept,
    figures: {
      roofline: spreadOf(roofline),
      ofRead: spreadOf(ofRead).median,
      ofFastestRead: fastest,
      ofOperations: operation,
      binds: fastest >= operation ? 'read' : 'operations',
    },
  };
}

/** How far a ceiling moved over all repetitions, as a share of its largest; of what was measured undisturbed. */
export function movement(result: Result): number {
  const range = (values: readonly number[]) =>
    values.length === 0 ? 1 : 1 - Math.min(...values) / Math.max(...values);
  const all = result.samples.flatMap(({ before, after }) => [before, after]).filter((ceilings) => ceilings.undisturbed);
  return Math.max(
    range(all.map(({ read, readTwo }) => Math.max(read, readTwo))),
    range(all.map((ceilings) => operationCeiling(result.kvDtype, ceilings))),
  );
}
