/** A short soak with a fixed seed: every KV dtype, with windows and without, here and over a wire. `npm run soak` goes on for as long as told. */
import { describe, expect, it } from 'vitest';
import { noCounts } from './counts.ts';
import { type MemorySample, trendsOf } from './memory-trend.ts';
import { longPhaseOf, phaseOf, phaseText } from './phase.ts';
import { Random } from './random.ts';
import { runPhase } from './run-phase.ts';

const SEED = 20261124;

describe('random traffic agrees with plain arrays', () => {
  const phases = Array.from({ length: 10 }, (_, index) => phaseOf(SEED, index));

  it('in all dtypes, with and without windows, locally and over a wire', () => {
    expect(new Set(phases.map(({ kvDtype, geometry }) => `${kvDtype} ${geometry}`)).size).toBe(8);
    expect(new Set(phases.map(({ path }) => path)).size).toBe(3);
    expect(new Set(phases.map(({ fill }) => fill)).size).toBe(2);
  });

  it.each(phases.map((phase) => [phaseText(phase), phase] as const))('%s', async (_, phase) => {
    const counts = noCounts();
    await runPhase(phase, 150, counts, { stop: () => false });
    expect(counts.actions).toBe(150);
    expect(counts.compared).toBeGreaterThan(700);
    expect(counts.accounts).toBe(150);
    expect(Math.min(counts.forks, counts.frees, counts.visited, counts.preempted)).toBeGreaterThan(0);
  });

  it.each(['local', 'tcp'] as const)('where memory stays full (%s)', async (path) => {
    const counts = noCounts();
    await runPhase({ ...longPhaseOf(SEED, path), shards: 1, tokens: 4700 }, 500, counts, { stop: () => false });
    expect(Math.min(counts.full, counts.forks, counts.refused, counts.aborted)).toBeGreaterThan(5);
    expect(counts.accountsUnderWay).toBeGreaterThan(250);
  });
});

describe('memory', () => {
  const MIB = 2 ** 20;
  /** Half an hour of it: what garbage and caches do, and what grows by so many MiB a minute. */
  const samples = (growth: number, minutes = 30): MemorySample[] => {
    const random = new Random(7);
    let wave = 0;
    return Array.from({ length: (minutes * 60) / 2 }, (_, i) => {
      wave = 0.9 * wave + random.fraction() - 0.5;
      const atMs = 2000 * i;
      const bytes = (50 + 2 * wave + 30 * (1 - Math.exp(-i / 30)) + (growth * atMs) / 60_000) * MIB;
      return { atMs, heapBytes: bytes, residentBytes: 300 * MIB, wasmBytes: 20 * MIB };
    });
  };
  const verdicts = (of: readonly MemorySample[]) => trendsOf(of).map(({ verdict }) => verdict);

  it('that stays level is told so, however garbage comes and goes', () => {
    expect(verdicts(samples(0))).toEqual(['level', 'level', 'level']);
    expect(verdicts(samples(-1))[0]).toBe('level');
  });

  it('that leaks 1 MiB a minute is not', () => {
    expect(verdicts(samples(1))).toEqual(['grows', 'level', 'level']);
    expect(trendsOf(samples(1))[0]?.bytesPerMinute).toBeCloseTo(MIB, -6);
  });

  it('in a few minutes can not be told', () => {
    expect(verdicts(samples(0, 2))[0]).toBe('unknown');
    expect(trendsOf([])).toEqual([]);
  });
});
