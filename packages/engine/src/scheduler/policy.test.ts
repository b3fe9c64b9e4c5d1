import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  admits,
  autoMicroBatchRows,
  choosePreemption,
  composeRows,
  inFlightTarget,
  laneShare,
  pickStage,
  watermarkBlocks,
} from './policy.ts';

describe('composeRows', () => {
  const pendingOf = (pendingTokens: number, nodes: readonly number[], arrival: number, stepTokens = pendingTokens) => ({
    arrival,
    pendingTokens,
    stepTokens,
    nodes,
  });
  const compose = (pending: readonly number[], rows: number, prefillChunk = 512, headRows = rows) =>
    composeRows(
      pending.map((pendingTokens, arrival) => pendingOf(pendingTokens, [0], arrival)),
      { rows, headRows, prefillChunk },
    );

  it('no node gets more rows than it takes', () => {
    const pending = [1, 100, 1, 100, 1].map((pendingTokens, i) => pendingOf(pendingTokens, [i % 2], i));
    const budget = { rows: 64, headRows: 64, prefillChunk: 30 };
    expect(composeRows(pending, budget, new Map([[0, 2]]))).toEqual([1, 30, 1, 30, 0]);
    expect(composeRows(pending, budget, new Map([[1, 40]]))).toEqual([1, 30, 1, 10, 1]);
  });

  it('a context in several parts: rows at each of its nodes, and no chunk across the end of a part', () => {
    const budget = { rows: 64, headRows: 64, prefillChunk: 30 };
    const pending = [pendingOf(1, [0, 1], 0), pendingOf(50, [1, 1, 0], 1, 7), pendingOf(9, [1], 2)];
    expect(composeRows(pending, budget)).toEqual([1, 7, 9]);
    expect(composeRows(pending, budget, new Map([[1, 10]]))).toEqual([1, 4, 1]);
    expect(composeRows(pending, budget, new Map([[0, 3]]))).toEqual([1, 2, 9]);
    const twoLeft = new Map([
      [0, 2],
      [1, 1],
    ]);
    expect(composeRows(pending, budget, twoLeft)).toEqual([1, 0, 0]);
    // More parts than rows, yet alone.
    expect(composeRows(pending.slice(1), budget, twoLeft)).toEqual([1, 0]);
    expect(composeRows([pendingOf(50, [0], 0, 7), pendingOf(50, [0], 1, 7)], { ...budget, headRows: 0 })).toEqual([
      7, 7,
    ]);
  });

  it('decode rows first, then the oldest prompts’ chunks', () => {
    expect(compose([1, 100, 1, 100], 64)).toEqual([1, 62, 1, 0]);
    expect(compose([1, 100, 1, 100], 64, 20)).toEqual([1, 20, 1, 20]);
    expect(compose([5, 1, 1, 1], 2)).toEqual([0, 1, 1, 0]);
  });

  it('a prompt’s last token waits for a head row', () => {
    expect(compose([1, 5, 5], 64, 512, 2)).toEqual([1, 5, 4]);
    expect(compose([1, 1, 2], 64, 512, 1)).toEqual([1, 0, 1]);
  });

  it('never exceeds a budget, never leaves rows unused that somebody wants', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 50 }), { maxLength: 20 }),
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 1, max: 20 }),
        fc.integer({ min: 1, max: 40 }),
        (pending, rows, chunk, headRows) => {
          const given = compose(pending, rows, chunk, headRows);
          const used = given.reduce((a, b) => a + b, 0);
          const heads = given.filter((count, i) => count > 0 && count === pending[i]).length;
          expect(used).toBeLessThanOrEqual(rows);
          expect(heads).toBeLessThanOrEqual(headRows);
          given.forEach((count, i) => {
            expect(count).toBeLessThanOrEqual(Math.min(pending[i] ?? 0, Math.max(1, chunk)));
          });
          const wanted = pending.reduce((sum, tokens) => sum + Math.min(tokens, chunk), 0);
          if (headRows >= pending.length) expect(used).toBe(Math.min(rows, wanted));
          if (pending.length > 0) expect(used).toBeGreaterThan(0);
        },
      ),
    );
  });
});

describe('admission', () => {
  it('keeps a watermark free, but never refuses an empty shard what fits it', () => {
    expect(watermarkBlocks(1000, 4)).toBe(12);
    expect(admits({ blocks: 1000, freeBlocks: 20, residents: 4 }, 8)).toBe(true);
    expect(admits({ blocks: 1000, freeBlocks: 20, residents: 4 }, 9)).toBe(false);
    expect(admits({ blocks: 10, freeBlocks: 10, residents: 0 }, 10)).toBe(true);
    expect(admits({ blocks: 10, freeBlocks: 10, residents: 0 }, 11)).toBe(false);
  });

  it('sequences are shared out over micro-batches', () => {
    const budget = { rows: 8, headRows: 6, prefillChunk: 1 };
    expect(laneShare(3, 4, budget)).toBe(1);
    expect(laneShare(13, 4, budget)).toBe(4);
    expect(laneShare(100, 4, budget)).toBe(6);
  });
});

describe('preemption', () => {
  const resident = (arrival: number, blocks: number, leaving = false, paused = false) => ({
    arrival,
    blocks,
    leaving,
    paused,
  });

  it('a paused resident goes first, however old', () => {
    const [old, requester, newest] = [resident(1, 4, false, true), resident(2, 4), resident(3, 4)];
    expect(choosePreemption([old, requester, newest], requester, 1)).toBe(old);
    expect(choosePreemption([old, requester, newest], newest, 1)).toBe(old);
  });

  it('the newest goes; the requester itself when it is the newest; nobody while enough is coming', () => {
    const [a, b, c] = [resident(1, 4), resident(2, 4), resident(3, 4)];
    expect(choosePreemption([a, c, b], a, 1)).toBe(c);
    expect(choosePreemption([a, b, c], c, 1)).toBe(c);
    const leaving = resident(4, 2, true);
    expect(choosePreemption([a, b, c, leaving], a, 2)).toBe('wait');
    expect(choosePreemption([a, b, c, leaving], a, 3)).toBe(c);
  });
});

describe('stages', () => {
  const stage = (arrival: number, depth: number, outstandingRows: number) => ({ arrival, depth, outstandingRows });
  const waiting = [stage(3, 1, 0), stage(1, 0, 9), stage(2, 4, 5), stage(4, 4, 5)];

  it('each policy takes its own', () => {
    expect(pickStage('fcfs', waiting)).toBe(1);
    expect(pickStage('deepest-first', waiting)).toBe(2);
    expect(pickStage('starvation-first', waiting)).toBe(0);
  });
});

describe('in flight', () => {
  const times = (denseMs: number, attentionMs: number, attentionBusyMs = 0, attentionJitterMs = 0) => ({
    denseMs,
    attentionMs,
    attentionJitterMs,
    attentionBusyMs,
  });

  it('1 + attention / dense where attention is far away, few where it is the bottleneck', () => {
    expect(inFlightTarget(times(2, 10), 2, 32)).toBe(6);
    expect(inFlightTarget(times(2, 10, 10), 4, 32)).toBe(1);
    expect(inFlightTarget(times(5, 10, 9), 4, 32)).toBe(2);
    expect(inFlightTarget(times(10, 1), 2, 32)).toBe(1);
    expect(inFlightTarget(times(2, 10, 0, 4), 2, 32)).toBe(8);
    expect(inFlightTarget(times(0, 0), 2, 32)).toBe(1);
    expect(inFlightTarget(times(1, 1000), 2, 8)).toBe(8);
  });

  it('doesn’t waver between two numbers', () => {
    expect(inFlightTarget(times(10, 5.5), 1, 32)).toBe(1);
    expect(inFlightTarget(times(10, 4.5), 2, 32)).toBe(2);
    expect(inFlightTarget(times(10, 8), 1, 32)).toBe(2);
    expect(inFlightTarget(times(10, 4.5), 2, 1)).toBe(1);
  });

  it('rows from KV, within bounds', () => {
    expect(autoMicroBatchRows(1e3, 512, 2)).toBe(64);
    expect(autoMicroBatchRows(60_000, 512, 2)).toBe(128);
    expect(autoMicroBatchRows(1e9, 512, 2)).toBe(256);
  });
});
