/**
 * The timeline's canvas, driven: size, theme, visibility, the time that is in view, and frames while they change anything. Where a
 * visitor prefers less motion, it moves on once a second instead of scrolling.
 */

import type { SampleLog } from './sample-log.ts';
import { spanAt } from './span-at.ts';
import { readTheme, type Theme, watchTheme } from './theme.ts';
import { layoutTimeline, type TimelineRow, type TimelineRows, timelineRowAt } from './timeline-rows.ts';
import { TimelineStrip } from './timeline-strip.ts';

export const SHORTEST_WINDOW_MS = 250;
export const LONGEST_WINDOW_MS = 4_000;
export const FIRST_WINDOW_MS = 500;
/** Samples come every 200 ms; the view lags behind them so that it needn't wait for one. */
const LAG_MS = 280;
const STEP_WITH_LESS_MOTION_MS = 1_000;
/** How near the pointer must be to a span, in CSS pixels. */
const TOLERANCE_PIXELS = 4;

/** What is on screen now, for what stands around the canvas. */
export interface Shown extends TimelineRows {
  readonly width: number;
}

export class TimelineView {
  readonly #canvas: HTMLCanvasElement;
  readonly #context: CanvasRenderingContext2D;
  readonly #log: SampleLog;
  readonly #onShown: (shown: Shown) => void;
  readonly #strip = new TimelineStrip();
  readonly #undo: (() => void)[] = [];
  readonly #lessMotion = matchMedia('(prefers-reduced-motion: reduce)');
  #theme: Theme;
  #shown: Shown = { ...layoutTimeline(1, 1), width: 0 };
  /** As the observer told it: asking the element would have the page laid out in every frame. */
  #width = 0;
  #windowMs = FIRST_WINDOW_MS;
  #pausedAt: number | null = null;
  #visible = false;
  #stale = true;
  #frame = 0;
  #drawnEnd = Number.NaN;
  #drawnVersion = -1;

  constructor(canvas: HTMLCanvasElement, log: SampleLog, { onShown }: { readonly onShown: (shown: Shown) => void }) {
    const context = canvas.getContext('2d');
    if (context === null) throw new Error('this browser gives no 2d canvas');
    this.#canvas = canvas;
    this.#context = context;
    this.#log = log;
    this.#onShown = onShown;
    this.#theme = readTheme(canvas.parentElement ?? document.body);
    const resize = new ResizeObserver((entries) => {
      this.#width = Math.floor(entries.at(-1)?.contentRect.width ?? 0);
      this.#wake();
    });
    resize.observe(canvas.parentElement ?? canvas);
    const sight = new IntersectionObserver((entries) => {
      this.#visible = entries.at(-1)?.isIntersecting ?? false;
      this.#wake();
    });
    sight.observe(canvas);
    this.#undo.push(
      () => resize.disconnect(),
      () => sight.disconnect(),
      log.subscribe(() => this.#wake()),
      watchTheme(() => this.#restyle()),
    );
    this.#restyle();
  }

  get rows(): readonly TimelineRow[] {
    return this.#shown.rows;
  }

  /** The worker's time in view; null before the first sample. */
  range(): { readonly from: number; readonly to: number } | null {
    const end = this.#end();
    return end === null ? null : { from: end - this.#windowMs, to: end };
  }

  setWindow(ms: number): void {
    // What is in the middle of a paused view stays there.
    if (this.#pausedAt !== null) this.#pausedAt = this.#clamp(this.#pausedAt - (this.#windowMs - ms) / 2);
    this.#windowMs = ms;
    this.#stale = true;
    this.#wake();
  }

  setPaused(paused: boolean): void {
    if (paused === (this.#pausedAt !== null)) return;
    this.#pausedAt = paused ? this.#end() : null;
    this.#wake();
  }

  /** Only when paused. */
  pan(ms: number): void {
    if (this.#pausedAt === null) return;
    this.#pausedAt = this.#clamp(this.#pausedAt + ms);
    this.#wake();
  }

  /** Pans until a time is in view. */
  reveal(atMs: number): void {
    const range = this.range();
    if (range === null || (atMs >= range.from && atMs <= range.to)) return;
    this.pan(atMs - (range.from + range.to) / 2);
  }

  xOf(atMs: number): number {
    const range = this.range();
    return range === null ? 0 : ((atMs - range.from) / this.#windowMs) * this.#shown.width;
  }

  msOf(pixels: number): number {
    return (pixels / Math.max(1, this.#shown.width)) * this.#windowMs;
  }

  /** The span under a point of the window. */
  hit(clientX: number, clientY: number): { readonly number: number; readonly x: number; readonly y: number } | null {
    const box = this.#canvas.getBoundingClientRect();
    const [x, y] = [clientX - box.left, clientY - box.top];
    const row = timelineRowAt(this.#shown.rows, y);
    const range = this.range();
    if (row === null || range === null || y < row.top) return null;
    const track = row.tracks === 1 ? null : Math.floor(((y - row.top) / row.height) * row.tracks);
    const toleranceMs = this.msOf(TOLERANCE_PIXELS);
    const number = spanAt(this.#log.spans, row, range.from + this.msOf(x), { track, toleranceMs });
    return number === null ? null : { number, x, y };
  }

  destroy(): void {
    cancelAnimationFrame(this.#frame);
    for (const undo of this.#undo.splice(0)) undo();
  }

  #end(): number | null {
    if (this.#pausedAt !== null) return this.#pausedAt;
    const now = this.#log.workerNow();
    const newest = this.#log.latest?.atMs;
    if (now === null || newest === undefined) return null;
    if (this.#lessMotion.matches) return Math.floor(newest / STEP_WITH_LESS_MOTION_MS) * STEP_WITH_LESS_MOTION_MS;
    return now - LAG_MS;
  }

  #clamp(endMs: number): number {
    const newest = this.#log.latest?.atMs ?? endMs;
    return Math.min(newest, Math.max(newest - 60_000, endMs));
  }

  #restyle(): void {
    this.#theme = readTheme(this.#canvas.parentElement ?? document.body);
    this.#stale = true;
    this.#wake();
  }

  #wake(): void {
    if (this.#frame !== 0 || (!this.#visible && !this.#stale && this.#width === this.#shown.width)) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  #draw(): void {
    this.#fit();
    const end = this.#end();
    const { version } = this.#log;
    if (end === null) {
      this.#drawGround();
      return;
    }
    if (end !== this.#drawnEnd || version !== this.#drawnVersion) {
      this.#strip.draw(this.#log, end, this.#log.latest?.atMs ?? end);
      this.#drawGround();
      this.#strip.copyTo(this.#context, end);
      this.#drawnEnd = end;
      this.#drawnVersion = version;
    }
    if (this.#visible && this.#pausedAt === null && !this.#lessMotion.matches && this.#moving(end)) this.#wake();
  }

  /** Whether anything is in view that would move. */
  #moving(end: number): boolean {
    const last = this.#log.denseBusy.ends.at(-1) ?? Number.NEGATIVE_INFINITY;
    const lastAway = this.#log.away.ends.at(-1) ?? Number.NEGATIVE_INFINITY;
    return Math.max(last, lastAway) > end - this.#windowMs;
  }

  /** Rows as many as there are nodes, canvas as large as its place. */
  #fit(): void {
    const width = this.#width;
    const layout = layoutTimeline(Math.max(1, this.#log.nodes.length), Math.max(1, this.#log.microBatches));
    const same =
      layout.height === this.#shown.height &&
      layout.rows.length === this.#shown.rows.length &&
      layout.rows[0]?.tracks === this.#shown.rows[0]?.tracks &&
      width === this.#shown.width;
    if (same && !this.#stale) return;
    this.#stale = false;
    const scale = Math.min(3, devicePixelRatio || 1);
    this.#shown = { ...layout, width };
    this.#canvas.width = Math.round(width * scale);
    this.#canvas.height = Math.round(layout.height * scale);
    this.#canvas.style.width = `${width}px`;
    this.#canvas.style.height = `${layout.height}px`;
    const shape = { rows: layout.rows, width: Math.max(1, width), height: layout.height, scale };
    this.#strip.reshape({ ...shape, windowMs: this.#windowMs, theme: this.#theme });
    this.#drawnEnd = Number.NaN;
    this.#onShown(this.#shown);
  }

  #drawGround(): void {
    const context = this.#context;
    const scale = this.#canvas.width / Math.max(1, this.#shown.width);
    context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    context.fillStyle = this.#theme.colours.sunken;
    for (const { top, height } of this.#shown.rows)
      context.fillRect(0, top * scale, this.#canvas.width, height * scale);
    this.#drawGrid(scale);
  }

  /** A hair line at every tenth or quarter of a second or so, which moves with the picture. */
  #drawGrid(scale: number): void {
    const range = this.range();
    if (range === null) return;
    const step = gridStep(this.#windowMs);
    this.#context.fillStyle = this.#theme.colours.line;
    for (let at = Math.ceil(range.from / step) * step; at <= range.to; at += step) {
      const x = Math.round(this.xOf(at) * scale);
      for (const { top, height } of this.#shown.rows) this.#context.fillRect(x, top * scale, 1, height * scale);
    }
  }
}

/** Of the window, so that there are five to ten lines. */
export function gridStep(windowMs: number): number {
  const steps = [25, 50, 100, 250, 500, 1000];
  return steps.find((step) => windowMs / step <= 10) ?? 1000;
}
