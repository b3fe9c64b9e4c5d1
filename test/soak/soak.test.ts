/** A short soak with a fixed seed: every KV dtype, with windows and without, here and over a wire. `npm run soak` goes on for as long as told. */
import { describe, expect, it } from 'vitest';
import { trendsOf } from './memory-watch.ts';
import { phaseOf, phaseText } from './phase.ts';
import { runPhase } from './run-phase.ts';
import { noCounts } from './traffic.ts';

const SEED = 20261124;
const ACTIONS = 150;

describe('random traffic agrees with plain arrays', () => {
  const phases = Array.from({ length: 10 }, (_, index) => phaseOf(SEED, index));

  it('in all dtypes, with and without windows, locally and over a wire', () => {
    expect(new Set(phases.map(({ kvDtype, geometry }) => `${kvDtype} ${geometry}`)).size).toBe(8);
    expect(new Set(phases.map(({ path }) => path)).size).toBe(3);
  });

  it.each(phases.map((phase) => [phaseText(phase), phase] as const))('%s', async (_, phase) => {
    const counts = noCounts();
    await runPhase(phase, ACTIONS, counts, () => false);
    expect(counts.actions).toBe(ACTIONS);
    expect(counts.compared).toBeGreaterThan(1000);
    expect(Math.min(counts.forks, counts.frees, counts.visited, counts.preempted)).toBeGreaterThan(0);
  });
});

describe('memory', () => {
  const samples = (bytes: (i: number) => number) =>
    Array.from({ length: 100 }, (_, i) => ({ heapBytes: bytes(i), residentBytes: 1e9 }));

  it('that stays level is flat, however garbage comes and goes', () => {
    expect(trendsOf(samples((i) => 50e6 + (i % 7) * 10e6)).map(({ isFlat }) => isFlat)).toEqual([true, true]);
  });

  it('that leaks is not', () => {
    expect(trendsOf(samples((i) => 50e6 + i * 1e6)).map(({ isFlat }) => isFlat)).toEqual([false, true]);
  });
});
