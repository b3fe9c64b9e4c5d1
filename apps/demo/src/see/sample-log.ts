/**
 * What the engine worker told about its tiers lately: spans, series, residents, nodes, in bounded memory. The page feeds it every
 * event of the protocol; views read it and are told at most once per animation frame that something is new. Framework-free;
 * it draws nothing and keeps no text.
 */
import type { EngineStats } from '@glinthawk/engine';
import type { Event, NodeSample, Resident, Sample } from '../engine/protocol.ts';
import { SPAN_FIELDS, SpanField, SpanKind } from '../engine/span.ts';
import { type Figures, figuresOf, type Stretch, sharesOf, type TierTimes } from './figures.ts';
import { hidingOver } from './hiding.ts';
import { IntervalUnion } from './interval-union.ts';
import { SpanRing } from './span-ring.ts';
import { WorkerClock } from './worker-clock.ts';

/** Points of the series: a minute at five samples a second, and some. */
export const SERIES_POINTS = 330;
/** Figures of the moment are means over so long. */
export const SMOOTH_MS = 1_000;
/** Busy and away times are kept this long, for the timeline and its figures. */
const KEEP_INTERVALS_MS = 20_000;

/** One point of the series: what happened since the point before. */
export interface SeriesPoint {
  readonly atMs: number;
  readonly stretch: Stretch;
  /** Over the last SMOOTH_MS: micro-batches end in bursts. */
  readonly recent: Figures;
}

/** A point whose counters are known and whose spans are not all there yet. */
interface Unsettled {
  readonly fromMs: number;
  readonly toMs: number;
  readonly counted: Omit<Stretch, keyof TierTimes>;
}

type Counters = Pick<EngineStats, 'generatedTokens' | 'rows' | 'steps' | 'preemptions'> & {
  readonly bytesOut: number;
  readonly bytesIn: number;
};
const NOTHING: Counters = { generatedTokens: 0, rows: 0, steps: 0, preemptions: 0, bytesOut: 0, bytesIn: 0 };

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
  /** Grows when what was here belongs to another engine, so that it must not be joined to what comes. */
  epoch = 0;
  /** Worker's time before which all spans are here: what is computed or drawn of busy and idle times ends here. */
  settledMs = Number.NEGATIVE_INFINITY;
  /** Points ever made; the series holds the last of them. */
  pointsMade = 0;
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
  #engine: string | null = null;
  #oneTier = false;
  readonly #unsettled: Unsettled[] = [];
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
    else if (event.type === 'ready') this.#oneTier = event.tiers.settings.mode === 'one-tier';
    else if (event.type === 'closed' || event.type === 'failed') this.#latest = null;
    for (const listener of this.#eventListeners) listener(event);
    this.#notify();
  }

  /** Where latency was hidden in [from, to] of the worker's time, as far as it is settled. */
  hiding(from: number, to: number, visit?: (start: number, end: number, hidden: boolean) => void) {
    return hidingOver(this.denseBusy, this.away, from, Math.min(to, this.settledMs), visit);
  }

  /** Figures over [from, to] of the worker's time, or as long a time that ends where spans are settled. */
  figuresOver(from: number, to: number): Figures {
    const end = Math.min(to, this.settledMs);
    const start = end - (to - from);
    const points = this.#points.filter(({ atMs }) => atMs > start && atMs <= end + 1);
    return { ...figuresOf(points.map(({ stretch }) => stretch)), ...sharesOf([this.#times(start, end)]) };
  }

  #times(from: number, to: number): TierTimes {
    const nodeMs = this.nodes.map((_, node) => this.#nodeBusy[node]?.coveredMs(from, to) ?? 0);
    const denseMs = this.denseBusy.coveredMs(from, to);
    return { overMs: to - from, denseMs, nodeMs, ...hidingOver(this.denseBusy, this.away, from, to) };
  }

  #takeSample(sample: Sample): void {
    if (sample.epoch !== this.#engine) this.#startAnew(sample);
    this.#clock.heard(sample.atMs, this.#now());
    this.spans.push(sample.spans);
    this.#note(sample.spans);
    this.droppedSpans += sample.droppedSpans;
    this.settledMs = Math.max(this.settledMs, Math.min(sample.atMs, sample.completeUntilMs));
    const before = this.#latest;
    this.#latest = sample;
    this.version++;
    const counters = this.#countersOf(sample);
    if (before !== null && sample.atMs > before.atMs)
      this.#unsettled.push({ fromMs: before.atMs, toMs: sample.atMs, counted: this.#count(sample, counters) });
    this.#before = counters;
    this.#settle();
    const oldest = Math.min(this.settledMs, this.#unsettled[0]?.fromMs ?? sample.atMs) - KEEP_INTERVALS_MS;
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

  #count(sample: Sample, counters: Counters): Unsettled['counted'] {
    const { stats, residents } = sample;
    // A counter that fell counts from 0.
    const since = (name: keyof Counters) =>
      counters[name] - (counters[name] < this.#before[name] ? 0 : this.#before[name]);
    // A sequence may have parts at several nodes.
    const sequences = new Set(residents.map(({ id }) => id)).size;
    const contextTokens = residents.reduce((total, { tokens }) => total + tokens, 0) / Math.max(1, sequences);
    return {
      generatedTokens: since('generatedTokens'),
      steps: since('steps'),
      rows: since('rows'),
      preemptions: since('preemptions'),
      bytesOut: since('bytesOut'),
      bytesIn: since('bytesIn'),
      kvUsedBytes: stats.kvBytes,
      inFlight: stats.inFlight,
      running: stats.running,
      contextTokens,
    };
  }

  /** Points are made when all spans of their time are here: a call that is under way may be most of it. */
  #settle(): void {
    for (let next = this.#unsettled[0]; next !== undefined && next.toMs <= this.settledMs; next = this.#unsettled[0]) {
      this.#unsettled.shift();
      const stretch = { ...next.counted, ...this.#times(next.fromMs, next.toMs) };
      const recent = [stretch];
      for (let i = this.#points.length - 1; i >= 0; i--) {
        const point = this.#points[i];
        if (point === undefined || point.atMs <= next.toMs - SMOOTH_MS) break;
        recent.unshift(point.stretch);
      }
      this.#points.push({ atMs: next.toMs, stretch, recent: figuresOf(recent) });
      this.pointsMade++;
    }
    if (this.#unsettled.length > SERIES_POINTS) this.#unsettled.shift();
    if (this.#points.length > SERIES_POINTS) this.#points.splice(0, this.#points.length - SERIES_POINTS);
  }

  /** One tier has nothing between tiers. */
  #countersOf({ stats, tierBytesOut, tierBytesIn }: Sample): Counters {
    const { generatedTokens, rows, steps, preemptions } = stats;
    const bytes = this.#oneTier ? { bytesOut: 0, bytesIn: 0 } : { bytesOut: tierBytesOut, bytesIn: tierBytesIn };
    return { generatedTokens, rows, steps, preemptions, ...bytes };
  }

  /** Another engine: the series stays to be looked at, unless another worker's clock began anew; nothing is joined across. */
  #startAnew(sample: Sample): void {
    if (this.#engine !== null) this.epoch++;
    this.#engine = sample.epoch;
    this.#latest = null;
    this.#before = NOTHING;
    this.#unsettled.length = 0;
    this.settledMs = Number.NEGATIVE_INFINITY;
    this.microBatches = 0;
    this.droppedSpans = 0;
    if (sample.atMs < (this.#points.at(-1)?.atMs ?? 0)) this.#points.length = 0;
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
