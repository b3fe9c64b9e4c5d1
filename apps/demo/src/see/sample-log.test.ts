import { expect, test } from 'vitest';
import { SPAN_FIELDS, SpanField, SpanKind } from '../engine/span.ts';
import { attention, dense, Pipeline, report, SETTINGS, type SpanSpec, sampleAt, spansOf } from './sample.fixture.ts';
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
    sampleAt(1000, { stats: { generatedTokens: 100, rows: 10, steps: 5, preemptions: 2 }, tierBytesOut: 1000 }),
    sampleAt(1200, {
      stats: { generatedTokens: 150, rows: 90, steps: 10, preemptions: 5, inFlight: 4 },
      residents: [
        { id: '1.0', node: 0, blocks: 1, tokens: 10 },
        { id: '1.1', node: 0, blocks: 4, tokens: 50 },
      ],
      tierBytesOut: 3000,
      tierBytesIn: 100,
    }),
  );
  expect(log.series).toHaveLength(1);
  expect(log.series[0]?.atMs).toBe(1200);
  expect(log.series[0]?.recent).toMatchObject({
    overMs: 200,
    tokensPerSecond: 250,
    bytesOutPerSecond: 10_000,
    bytesInPerSecond: 500,
    decodeRows: 10,
    prefillRows: 6,
    preemptionsPerSecond: 15,
    contextTokens: 30,
    inFlight: 4,
    hiddenShare: null,
  });
});

test('attention counts as computing while a node computes, not while things travel; latency behind dense work is hidden', () => {
  const { log } = logAt();
  const spans = spansOf(dense(0, 0, 0, 40), attention(1, 0, [10, 20, 30, 60]), dense(1, 60, 60, 80));
  feed(log, sampleAt(0), sampleAt(100, { spans }));
  const { denseShare, attentionShare, hiddenShare } = log.figuresOver(0, 100);
  expect([denseShare, attentionShare, hiddenShare]).toEqual([0.6, 0.1, 0.6]);
  expect(log.series[0]?.recent).toMatchObject({ denseShare, attentionShare, hiddenShare });
  expect(log.figuresOver(0, 50).nodeShares).toEqual([0.2]);
  expect(log.microBatches).toBe(2);
});

/** Spans as a worker tells them: when they have ended, each sample saying when the oldest call under way began. */
function told(log: SampleLog, spans: readonly SpanSpec[], untilMs: number): void {
  const startOf = ({ kind, sent, began }: SpanSpec) => (kind === SpanKind.attention ? sent : began);
  const endOf = ({ ended, back }: SpanSpec) => back ?? ended;
  for (let atMs = 0; atMs <= untilMs; atMs += 200) {
    const fresh = spans.filter((span) => endOf(span) <= atMs && endOf(span) > atMs - 200);
    const under = spans.filter((span) => startOf(span) < atMs && endOf(span) > atMs).map(startOf);
    feed(log, sampleAt(atMs, { spans: spansOf(...fresh), completeUntilMs: Math.min(atMs, ...under) }));
  }
}

test.each([
  [2, 20],
  [60, 20],
  [150, 20],
  [400, 50],
  [90, 700],
])('dense calls of %i ms and trips of %i ms that never leave it idle are all hidden, in every point', (call, trip) => {
  const { log } = logAt();
  const spans: SpanSpec[] = [];
  for (let at = 0; at < 6_000; at += call) spans.push(dense(0, at, at, at + call));
  for (let at = 0; at < 6_000; at += trip)
    spans.push(attention(1, 0, [at, at + trip / 2 - 1, at + trip / 2 + 1, at + trip]));
  told(log, spans, 5_400);
  expect(log.series.length).toBeGreaterThan(20);
  for (const { stretch, recent } of log.series) {
    expect(recent.hiddenShare).toBeCloseTo(1);
    expect(recent.denseShare).toBeCloseTo(1);
    expect(stretch.nodeMs[0] ?? 0).toBeLessThan(stretch.overMs * 0.11);
  }
  // Nor do captions and the table take what is not told yet for idle time.
  expect(log.figuresOver(4_400, 5_400).denseShare).toBeCloseTo(1);
  let exposedMs = 0;
  log.hiding(0, 5_400, (start, end, hidden) => {
    exposedMs += hidden ? 0 : end - start;
  });
  expect(exposedMs).toBe(0);
});

test('a point is made when all of its time is told, and late ones one by one', () => {
  const { log } = logAt();
  feed(log, sampleAt(0), sampleAt(200, { completeUntilMs: 50 }), sampleAt(400, { completeUntilMs: 50 }));
  expect(log.series).toEqual([]);
  feed(log, sampleAt(600, { completeUntilMs: 450, spans: spansOf(dense(0, 50, 50, 450)) }));
  expect(log.series.map(({ atMs, stretch }) => [atMs, stretch.denseMs])).toEqual([
    [200, 150],
    [400, 200],
  ]);
  expect(log.pointsMade).toBe(2);
});

test('one tier has nothing between tiers', () => {
  const { log } = logAt();
  log.take({ type: 'ready', model: undefined as never, tiers: report({ ...SETTINGS, mode: 'one-tier' }) });
  feed(log, sampleAt(0), sampleAt(200, { tierBytesOut: 5000, tierBytesIn: 700 }));
  expect(log.series[0]?.recent).toMatchObject({ bytesOutPerSecond: 0, bytesInPerSecond: 0 });
});

test('a counter that fell counts from nothing', () => {
  const { log } = logAt();
  feed(log, sampleAt(0, { stats: { generatedTokens: 900 } }), sampleAt(1000, { stats: { generatedTokens: 40 } }));
  expect(log.series[0]?.recent.tokensPerSecond).toBe(40);
});

test('another engine begins with an empty timeline; nothing is joined across', () => {
  const { log } = logAt();
  feed(
    log,
    sampleAt(0),
    sampleAt(100, { spans: spansOf(dense(3, 0, 0, 50)) }),
    sampleAt(200, { completeUntilMs: 150 }),
  );
  feed(log, sampleAt(300, { epoch: 'another' }));
  expect(log.spans.end - log.spans.first).toBe(0);
  expect(log.microBatches).toBe(0);
  expect(log.denseBusy.starts).toEqual([]);
  expect(log.epoch).toBe(1);
  expect(log.series).toHaveLength(1); // the one before
  feed(log, sampleAt(500, { epoch: 'another' }));
  expect(log.series).toHaveLength(2);
});

test('the spans of a worker that died are not joined to those of the next, whose clock begins anew', () => {
  const { log } = logAt();
  feed(log, sampleAt(5000), sampleAt(5200, { spans: spansOf(dense(0, 0, 100, 5150)) }));
  log.take({ type: 'failed', error: { code: 'ENGINE_WORKER_DIED', message: 'x', hint: null } });
  feed(log, sampleAt(10, { epoch: 'another' }), sampleAt(210, { epoch: 'another' }));
  expect(log.series.map(({ atMs, stretch }) => [atMs, stretch.denseMs])).toEqual([[210, 0]]);
  expect(log.denseBusy.ends).toEqual([]);
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
