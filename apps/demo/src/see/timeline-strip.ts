/**
 * The timeline's picture as a ring: a canvas somewhat wider than the view, on which time runs round and round. Each span is drawn
 * once, when it arrives; a frame of the live view then copies two pieces, whatever the number of spans. What can't be continued
 * (another zoom, size, theme or place in time) is drawn anew.
 */

import { microBatchColour } from './palette.ts';
import type { SampleLog } from './sample-log.ts';
import { SpanPainter } from './span-painter.ts';
import type { Theme } from './theme.ts';
import type { TimelineRow } from './timeline-rows.ts';

/** Drawn ahead of the view, which lags behind the newest sample. */
const AHEAD_MS = 700;
const MAX_WIDTH = 12_000;

export interface StripShape {
  readonly rows: readonly TimelineRow[];
  /** CSS pixels. */
  readonly width: number;
  readonly height: number;
  /** Canvas pixels a CSS pixel. */
  readonly scale: number;
  readonly windowMs: number;
  readonly theme: Theme;
}

export class TimelineStrip {
  readonly #canvas = document.createElement('canvas');
  readonly #context: CanvasRenderingContext2D;
  #shape: StripShape | null = null;
  #painter: SpanPainter | null = null;
  #pixelsPerMs = 1;
  /** Time of position 0. Positions are canvas pixels that grow for ever; x on the canvas is position mod width. */
  #zeroMs = 0;
  #end = 0;
  #spansDrawn = 0;
  #hidingDrawnMs = Number.NEGATIVE_INFINITY;
  #epoch = -1;

  constructor() {
    const context = this.#canvas.getContext('2d');
    if (context === null) throw new Error('this browser gives no 2d canvas');
    this.#context = context;
  }

  /** Must be called before anything else, and when something of it changed; forgets what was drawn. */
  reshape(shape: StripShape): void {
    const { width, height, scale, windowMs, theme, rows } = shape;
    this.#shape = shape;
    this.#pixelsPerMs = (width * scale) / windowMs;
    this.#canvas.width = Math.min(MAX_WIDTH, Math.ceil((windowMs + AHEAD_MS) * this.#pixelsPerMs));
    this.#canvas.height = Math.ceil(height * scale);
    const hatches = new Map<string, CanvasPattern | string>();
    const hatch = (microBatch: number) => {
      const colour = microBatchColour(microBatch, theme.scheme);
      const pattern = hatches.get(colour) ?? hatching(this.#context, colour, scale);
      hatches.set(colour, pattern);
      return pattern;
    };
    this.#painter = new SpanPainter(this.#context, rows, { scheme: theme.scheme, hatch }, scale);
    this.#epoch = -1;
  }

  /** Makes sure that [endMs − window, endMs] is drawn, as far as the log has it. */
  draw(log: SampleLog, endMs: number, newestMs: number): void {
    if (this.#shape === null) return;
    const from = this.#position(endMs - this.#shape.windowMs);
    const newest = this.#position(newestMs);
    const joins =
      log.epoch === this.#epoch && from >= this.#end - this.#canvas.width && newest - this.#end <= this.#canvas.width;
    // What is newer than the view's end by more than the ring holds would overwrite the view: a view of the past is drawn as of then.
    const past = newest - from > this.#canvas.width;
    if (joins && past && this.#position(endMs) <= this.#end) return;
    if (joins && !past) this.#continue(log, newestMs);
    else this.#drawAnew(log, past ? endMs + AHEAD_MS / 2 : newestMs);
  }

  /** Copies [endMs − window, endMs] to a context of the view's size. */
  copyTo(target: CanvasRenderingContext2D, endMs: number): void {
    const shape = this.#shape;
    if (shape === null) return;
    const { width, height } = this.#canvas;
    const viewWidth = Math.round(shape.width * shape.scale);
    const end = Math.round(this.#position(endMs));
    const until = Math.min(end, Math.floor(this.#end));
    let at = Math.max(end - viewWidth, Math.ceil(this.#end) - width);
    while (at < until) {
      const x = modulo(at, width);
      const piece = Math.min(until - at, width - x);
      target.drawImage(this.#canvas, x, 0, piece, height, at - (end - viewWidth), 0, piece, height);
      at += piece;
    }
  }

  #position(ms: number): number {
    return (ms - this.#zeroMs) * this.#pixelsPerMs;
  }

  #drawAnew(log: SampleLog, endMs: number): void {
    this.#context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    this.#epoch = log.epoch;
    this.#zeroMs = endMs - this.#canvas.width / this.#pixelsPerMs;
    this.#end = 0;
    this.#hidingDrawnMs = Number.NEGATIVE_INFINITY;
    this.#spansDrawn = log.spans.first;
    this.#continue(log, endMs);
  }

  #continue(log: SampleLog, endMs: number): void {
    const { width, height } = this.#canvas;
    const end = this.#position(endMs);
    if (end > this.#end) this.#pieces(this.#end, end, (x, w) => this.#context.clearRect(x, 0, w, height));
    this.#end = Math.max(this.#end, end);
    const oldest = this.#end - width;
    for (let page = Math.floor(Math.max(0, oldest) / width); page <= Math.floor(this.#end / width); page++) {
      const x = (ms: number) => Math.min(this.#end, Math.max(oldest, this.#position(ms))) - page * width;
      this.#painter?.paint(log.spans, this.#spansDrawn, log.spans.end, x, width);
    }
    this.#spansDrawn = log.spans.end;
    // Hidden or exposed is known only when all spans of the time are there.
    const settledMs = Math.min(endMs, log.settledMs);
    this.#drawHiding(log, Math.max(endMs - width / this.#pixelsPerMs, this.#hidingDrawnMs), settledMs);
    this.#hidingDrawnMs = Math.max(this.#hidingDrawnMs, settledMs);
  }

  #drawHiding(log: SampleLog, from: number, to: number): void {
    if (!(to > from)) return;
    const row = this.#shape?.rows.find(({ kind }) => kind === 'hiding');
    if (row === undefined || this.#shape === null) return;
    const { scale, theme } = this.#shape;
    const [top, height] = [row.top * scale, row.height * scale];
    this.#pieces(this.#position(from), this.#position(to), (x, w) => this.#context.clearRect(x, top, w, height));
    log.hiding(from, to, (start, end, hidden) => {
      this.#context.fillStyle = hidden ? theme.colours.good : theme.colours.bad;
      // Told apart by height as well as by colour: hidden is a line at the foot, exposed fills the strip.
      const drawn = hidden ? height * 0.35 : height;
      this.#pieces(this.#position(start), this.#position(end), (x, w) =>
        this.#context.fillRect(x, top + height - drawn, w, drawn),
      );
    });
  }

  /** [from, to) of positions as pieces of the canvas. */
  #pieces(from: number, to: number, each: (x: number, width: number) => void): void {
    const { width } = this.#canvas;
    let at = Math.max(from, to - width);
    while (at < to) {
      const x = modulo(at, width);
      const piece = Math.min(to - at, width - x);
      if (!(piece > 0)) return;
      each(x, piece);
      at += piece;
    }
  }
}

function modulo(value: number, by: number): number {
  return ((value % by) + by) % by;
}

/** Diagonal lines of a colour, for what waits. */
function hatching(context: CanvasRenderingContext2D, colour: string, scale: number): CanvasPattern | string {
  const size = Math.max(4, Math.round(5 * scale));
  const tile = document.createElement('canvas');
  tile.width = size;
  tile.height = size;
  const pen = tile.getContext('2d');
  if (pen === null) return colour;
  pen.globalAlpha = 0.16;
  pen.fillStyle = colour;
  pen.fillRect(0, 0, size, size);
  pen.globalAlpha = 0.85;
  pen.strokeStyle = colour;
  pen.lineWidth = Math.max(1, scale);
  pen.beginPath();
  for (const shift of [-size, 0, size]) {
    pen.moveTo(shift, size);
    pen.lineTo(shift + size, 0);
  }
  pen.stroke();
  return context.createPattern(tile, 'repeat') ?? colour;
}
