import { expect, test } from 'vitest';
import { SPAN_FIELDS, SpanField } from '../engine/span.ts';
import { attention, dense, Pipeline, report, sampleAt, spansOf } from './sample.fixture.ts';
import { SampleLog, SERIES_POINTS } from './sample-log.ts';
import { SpanRing } from './span-ring.ts';

function logAt(): { readonly log: SampleLog; readonly frames: (() => void)[]; page: { nowMs: number } } {
  const frames: (() => void)[] = [];
  const page = { nowMs: 0 };
  const log = new SampleLog({ schedule: (callback) => frames.push(callback), now: () => page.nowMs, spanCapacity: 64 });
  return { log, frames, page };
}

function feed(log: SampleLog, ...samples: readonly ReturnType<typeof sampleAt>[]): void {
  for (const sample of samples) log.take({ type: 'sample', sample });
}

test('rates are of the time between two samples', () => {
  const { log } = logAt();
  feed(
    log,
    sampleAt(1000, { stats: { generatedTokens: 100, denseBusyMs: 500, rows: 10, steps: 5 }, tierBytesOut: 1000 }),
    sampleAt(1200, {
      stats: { generatedTokens: 150, denseBusyMs: 600, rows: 90, steps: 10, inFlight: 4 },
      tierBytesOut: 3000,
      tierBytesIn: 100,
    }),
  );
  expect(log.series).toHaveLength(1);
  expect(log.series[0]).toMatchObject({
    atMs: 1200,
    overMs: 200,
    tokensPerSecond: 250,
    denseShare: 0.5,
    bytesOutPerSecond: 10_000,
    bytesInPerSecond: 500,
    rowsPerMicroBatch: 16,
    inFlight: 4,
    hiddenShare: null,
  });
});

test('attention counts as busy while a node computes, not while things travel; latency behind dense work is hidden', () => {
  const { log } = logAt();
  const spans = spansOf(dense(0, 0, 0, 40), attention(1, 0, [10, 20, 30, 60]), dense(1, 60, 60, 80));
  feed(log, sampleAt(0), sampleAt(100, { spans }));
  expect(log.series[0]?.attentionShare).toBeCloseTo(0.1);
  expect(log.series[0]?.hiddenShare).toBeCloseTo(0.6);
  expect(log.nodeShare(0, 0, 50)).toBeCloseTo(0.2);
  expect(log.microBatches).toBe(2);
});

test('a counter that fell belongs to a new engine and counts from nothing', () => {
  const { log } = logAt();
  feed(log, sampleAt(0, { stats: { generatedTokens: 900 } }), sampleAt(1000, { stats: { generatedTokens: 40 } }));
  expect(log.series[0]?.tokensPerSecond).toBe(40);
});

test('other tiers begin with an empty timeline; nothing is joined across', () => {
  const { log } = logAt();
  feed(log, sampleAt(0), sampleAt(100, { spans: spansOf(dense(3, 0, 0, 50)) }));
  const model = undefined as never;
  log.take({ type: 'ready', model, tiers: report() });
  expect(log.spans.end).toBe(0);
  expect(log.microBatches).toBe(0);
  expect(log.denseBusy.starts).toEqual([]);
  expect(log.epoch).toBe(1);
  feed(log, sampleAt(300));
  expect(log.series).toHaveLength(1); // the one before
});

test('another worker, whose clock begins anew, begins another series', () => {
  const { log } = logAt();
  feed(log, sampleAt(5000), sampleAt(5200), sampleAt(10), sampleAt(210));
  expect(log.series.map(({ atMs }) => atMs)).toEqual([210]);
});

test('memory is bounded: points, spans and intervals', () => {
  const { log } = logAt();
  const pipeline = new Pipeline({ inFlight: 4, nodes: 2, latencyMs: 10, denseMs: 1 });
  for (let atMs = 0; atMs < 120_000; atMs += 200)
    feed(log, sampleAt(atMs, { spans: spansOf(...pipeline.until(atMs)) }));
  expect(log.series).toHaveLength(SERIES_POINTS);
  expect(log.spans.end - log.spans.first).toBe(64);
  expect(log.denseBusy.starts[0]).toBeGreaterThan(90_000);
});

test('listeners are told once a frame, and no more when they left', () => {
  const { log, frames } = logAt();
  let told = 0;
  const leave = log.subscribe(() => told++);
  feed(log, sampleAt(0), sampleAt(100), sampleAt(200));
  expect(frames).toHaveLength(1);
  frames[0]?.();
  expect(told).toBe(1);
  leave();
  feed(log, sampleAt(300));
  expect(frames).toHaveLength(1);
});

test("the worker's time goes on between samples, by the least delay seen", () => {
  const { log, page } = logAt();
  expect(log.workerNow()).toBeNull();
  page.nowMs = 1050; // 50 ms on the way
  feed(log, sampleAt(1000));
  page.nowMs = 1205; // 5 ms
  feed(log, sampleAt(1200));
  page.nowMs = 1300;
  expect(log.workerNow()).toBeCloseTo(1295);
});

test('records with numbers that are none are left out, and so is a piece of a record', () => {
  const ring = new SpanRing(4);
  const bad = spansOf(dense(0, 0, Number.NaN, 1), dense(1, 0, 0, 1));
  ring.push(bad);
  ring.push(new Float64Array(SPAN_FIELDS - 1));
  expect(ring.end).toBe(1);
  expect(ring.field(0, SpanField.microBatch)).toBe(1);
  for (let i = 0; i < 6; i++) ring.push(spansOf(dense(10 + i, 0, 0, 1)));
  expect(ring.first).toBe(3);
  expect(ring.field(6, SpanField.microBatch)).toBe(15);
});
