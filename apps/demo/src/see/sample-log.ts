/**
 * What the engine worker told about its tiers lately: spans, series, residents, nodes, in bounded memory. The page feeds it every
 * event of the protocol; views read it and are told at most once per animation frame that something is new. Framework-free;
 * it draws nothing and keeps no text.
 */
import type { EngineStats } from '@glinthawk/engine';
import type { Event, NodeSample, Resident, Sample } from '../engine/protocol.ts';
import { SPAN_FIELDS, SpanField, SpanKind } from '../engine/span.ts';
import { hiddenShare, hidingOver } from './hiding.ts';
import { IntervalUnion } from './interval-union.ts';
import { SpanRing } from './span-ring.ts';
import { WorkerClock } from './worker-clock.ts';

/** Points of the series: a minute at five samples a second, and some. */
export const SERIES_POINTS = 330;
/** Busy and away times are kept this long, for the timeline and its figures. */
const KEEP_INTERVALS_MS = 20_000;

/** One point: rates and shares over the time since the point before. */
export interface SeriesPoint {
  readonly atMs: number;
  /** Length of the time that rates are over. */
  readonly overMs: number;
  readonly tokensPerSecond: number;
  /** 0 to 1: of the time, the dense tier worked. */
  readonly denseShare: number;
  /** 0 to 1: of the time, a node computed (the mean over nodes; travel is not computing). */
  readonly attentionShare: number;
  readonly bytesOutPerSecond: number;
  readonly bytesInPerSecond: number;
  readonly kvUsedBytes: number;
  readonly inFlight: number;
  readonly running: number;
  readonly waiting: number;
  /** Mean over the steps of this time; 0 when there was none. */
  readonly rowsPerMicroBatch: number;
  /** Of the time that micro-batches were away, the dense tier worked on others; null when none was away. */
  readonly hiddenShare: number | null;
}

type Counters = Pick<EngineStats, 'generatedTokens' | 'denseBusyMs' | 'rows' | 'steps'> & {
  readonly bytesOut: number;
  readonly bytesIn: number;
};
const NOTHING: Counters = { generatedTokens: 0, denseBusyMs: 0, rows: 0, steps: 0, bytesOut: 0, bytesIn: 0 };

export interface SampleLogOptions {
  /** Calls back at the next frame; tests pass their own. */
  readonly schedule?: (callback: () => void) => void;
  /** The page's clock. */
  readonly now?: () => number;
  readonly spanCapacity?: number;
}

export class SampleLog {
  readonly spans: SpanRing;
  /** When the dense tier worked, and when at least one micro-batch was away. */
  readonly denseBusy = new IntervalUnion();
  readonly away = new IntervalUnion();
  /** Micro-batches seen since the tiers were opened: one more than the highest index. */
  microBatches = 0;
  /** Grows with every sample. */
  version = 0;
  /** Grows when what was here belongs to another worker or other tiers, so that it must not be joined to what comes. */
  epoch = 0;
  /** Spans that the worker left out, since the tiers were opened. */
  droppedSpans = 0;
  readonly #schedule: (callback: () => void) => void;
  readonly #now: () => number;
  readonly #clock = new WorkerClock();
  readonly #nodeBusy: IntervalUnion[] = [];
  readonly #points: SeriesPoint[] = [];
  readonly #frameListeners = new Set<() => void>();
  readonly #eventListeners = new Set<(event: Event) => void>();
  #latest: Sample | null = null;
  #before: Counters = NOTHING;
  #notifying = false;

  constructor(options: SampleLogOptions = {}) {
    this.spans = new SpanRing(options.spanCapacity);
    this.#schedule = options.schedule ?? ((callback) => requestAnimationFrame(callback));
    this.#now = options.now ?? (() => performance.now());
  }

  get latest(): Sample | null {
    return this.#latest;
  }

  get residents(): readonly Resident[] {
    return this.#latest?.residents ?? [];
  }

  get nodes(): readonly NodeSample[] {
    return this.#latest?.nodes ?? [];
  }

  /** Oldest first, SERIES_POINTS at most. */
  get series(): readonly SeriesPoint[] {
    return this.#points;
  }

  /** The worker's time now; null before the first sample. */
  workerNow(): number | null {
    return this.#clock.at(this.#now());
  }

  /** Told once per animation frame in which something was new; returns what ends the subscription. */
  subscribe(listener: () => void): () => void {
    this.#frameListeners.add(listener);
    return () => this.#frameListeners.delete(listener);
  }

  /** Told of every event as it comes, after the log took it; returns what ends the subscription. */
  listen(listener: (event: Event) => void): () => void {
    this.#eventListeners.add(listener);
    return () => this.#eventListeners.delete(listener);
  }

  take(event: Event): void {
    if (event.type === 'sample') this.#takeSample(event.sample);
    else if (event.type === 'ready') this.#startAnew();
    else if (event.type === 'closed' || event.type === 'failed') this.#latest = null;
    for (const listener of this.#eventListeners) listener(event);
    this.#notify();
  }

  /** Shares and rates over [from, to] of the worker's time, for captions and summaries. */
  hiding(from: number, to: number, visit?: (start: number, end: number, hidden: boolean) => void) {
    return hidingOver(this.denseBusy, this.away, from, to, visit);
  }

  /** Share of [from, to] in which a node computed. */
  nodeShare(node: number, from: number, to: number): number {
    return to > from ? (this.#nodeBusy[node]?.coveredMs(from, to) ?? 0) / (to - from) : 0;
  }

  #takeSample(sample: Sample): void {
    const before = this.#latest;
    // Another worker: its clock begins anew.
    if (before !== null && sample.atMs < before.atMs) this.#startAnew();
    if (sample.atMs < (this.#points.at(-1)?.atMs ?? 0)) this.#points.length = 0;
    this.#clock.heard(sample.atMs, this.#now());
    this.spans.push(sample.spans);
    this.#note(sample.spans);
    this.droppedSpans += sample.droppedSpans;
    const previousMs = this.#latest?.atMs ?? null;
    this.#latest = sample;
    this.version++;
    const counters = countersOf(sample);
    if (previousMs !== null && sample.atMs > previousMs) this.#addPoint(sample, counters, previousMs);
    this.#before = counters;
    const oldest = sample.atMs - KEEP_INTERVALS_MS;
    for (const union of [this.denseBusy, this.away, ...this.#nodeBusy]) union.forgetBefore(oldest);
  }

  #note(spans: Float64Array): void {
    for (let at = 0; at + SPAN_FIELDS <= spans.length; at += SPAN_FIELDS) {
      const field = (name: keyof typeof SpanField) => spans[at + SpanField[name]] ?? 0;
      this.microBatches = Math.max(this.microBatches, field('microBatch') + 1);
      if (field('kind') !== SpanKind.attention) {
        this.denseBusy.add(field('began'), field('ended'));
        continue;
      }
      this.away.add(field('sent'), field('back'));
      const node = field('node');
      if (!(node >= 0 && node < 1024)) continue;
      while (this.#nodeBusy.length <= node) this.#nodeBusy.push(new IntervalUnion());
      this.#nodeBusy[node]?.add(field('began'), field('ended'));
    }
  }

  #addPoint(sample: Sample, counters: Counters, fromMs: number): void {
    const overMs = sample.atMs - fromMs;
    // A counter that fell belongs to a new engine: it counts from 0.
    const since = (name: keyof Counters) =>
      counters[name] - (counters[name] < this.#before[name] ? 0 : this.#before[name]);
    const perSecond = (name: keyof Counters) => (since(name) / overMs) * 1000;
    const nodes = Math.max(1, sample.nodes.length);
    let attentionShare = 0;
    for (let node = 0; node < nodes; node++) attentionShare += this.nodeShare(node, fromMs, sample.atMs) / nodes;
    const { stats } = sample;
    this.#points.push({
      atMs: sample.atMs,
      overMs,
      tokensPerSecond: perSecond('generatedTokens'),
      denseShare: Math.min(1, since('denseBusyMs') / overMs),
      attentionShare,
      bytesOutPerSecond: perSecond('bytesOut'),
      bytesInPerSecond: perSecond('bytesIn'),
      kvUsedBytes: stats.kvBytes,
      inFlight: stats.inFlight,
      running: stats.running,
      waiting: stats.waiting,
      rowsPerMicroBatch: since('steps') > 0 ? since('rows') / since('steps') : 0,
      hiddenShare: hiddenShare(this.hiding(fromMs, sample.atMs)),
    });
    if (this.#points.length > SERIES_POINTS) this.#points.splice(0, this.#points.length - SERIES_POINTS);
  }

  /** Other tiers: spans and series stay to be looked at, but nothing is joined across. */
  #startAnew(): void {
    const restarted = this.#latest !== null;
    this.#latest = null;
    this.#before = NOTHING;
    this.microBatches = 0;
    this.droppedSpans = 0;
    if (!restarted) return;
    this.epoch++;
    this.spans.clear();
    for (const union of [this.denseBusy, this.away, ...this.#nodeBusy]) union.clear();
  }

  #notify(): void {
    if (this.#notifying || this.#frameListeners.size === 0) return;
    this.#notifying = true;
    this.#schedule(() => {
      this.#notifying = false;
      for (const listener of this.#frameListeners) listener();
    });
  }
}

function countersOf({ stats, tierBytesOut, tierBytesIn }: Sample): Counters {
  const { generatedTokens, denseBusyMs, rows, steps } = stats;
  return { generatedTokens, denseBusyMs, rows, steps, bytesOut: tierBytesOut, bytesIn: tierBytesIn };
}
