/**
 * Draws spans into a canvas context: waiting hatched, work solid, travel pale. It knows rows, colours and a mapping of time to
 * x; nothing of scrolling, the DOM, or where spans come from but the ring.
 */
import { SpanField, SpanKind } from '../engine/span.ts';
import { microBatchColour, type Scheme, TRAVEL_OPACITY } from './palette.ts';
import type { SpanRing } from './span-ring.ts';
import { type TimelineRow, trackOf } from './timeline-rows.ts';

/** What is drawn on: a canvas's context, or a test's record of calls. */
export type Surface = Pick<CanvasRenderingContext2D, 'fillRect' | 'fillStyle' | 'globalAlpha' | 'clearRect'>;

export interface Paint {
  readonly scheme: Scheme;
  /** Hatching in a micro-batch's colour. */
  hatch(microBatch: number): CanvasRenderingContext2D['fillStyle'];
}

/** Thinner things would vanish. */
const MIN_WIDTH = 0.4;

export class SpanPainter {
  readonly #surface: Surface;
  readonly #paint: Paint;
  readonly #queue: TimelineRow | undefined;
  readonly #dense: TimelineRow | undefined;
  readonly #nodes: readonly TimelineRow[];
  readonly #scale: number;

  /** @param scale canvas pixels a CSS pixel */
  constructor(surface: Surface, rows: readonly TimelineRow[], paint: Paint, scale: number) {
    this.#surface = surface;
    this.#paint = paint;
    this.#scale = scale;
    this.#queue = rows.find((row) => row.kind === 'queue');
    this.#dense = rows.find((row) => row.kind === 'dense');
    this.#nodes = rows.filter((row) => row.kind === 'node');
  }

  /** @param x canvas pixels of a time; what lies outside [0, width] is left out */
  paint(spans: SpanRing, first: number, end: number, x: (ms: number) => number, width: number): void {
    for (let number = Math.max(first, spans.first); number < end; number++) {
      const from = x(spans.field(number, SpanField.sent));
      const to = x(spans.field(number, SpanField.back));
      if (to < 0 || from > width) continue;
      if (spans.field(number, SpanField.kind) === SpanKind.attention) this.#paintAttention(spans, number, x);
      else this.#paintDense(spans, number, x);
    }
  }

  #paintDense(spans: SpanRing, number: number, x: (ms: number) => number): void {
    const microBatch = spans.field(number, SpanField.microBatch);
    const sent = x(spans.field(number, SpanField.sent));
    const began = x(spans.field(number, SpanField.began));
    const ended = x(spans.field(number, SpanField.ended));
    const surface = this.#surface;
    if (this.#queue !== undefined && began - sent > 0.5) {
      surface.fillStyle = this.#paint.hatch(microBatch);
      this.#rect(this.#queue, microBatch, sent, began, 0);
    }
    if (this.#dense !== undefined) {
      surface.fillStyle = microBatchColour(microBatch, this.#paint.scheme);
      this.#rect(this.#dense, microBatch, began, ended, 0);
    }
  }

  #paintAttention(spans: SpanRing, number: number, x: (ms: number) => number): void {
    const row = this.#nodes[spans.field(number, SpanField.node)];
    if (row === undefined) return;
    const microBatch = spans.field(number, SpanField.microBatch);
    const sent = x(spans.field(number, SpanField.sent));
    const began = x(spans.field(number, SpanField.began));
    const ended = x(spans.field(number, SpanField.ended));
    const back = x(spans.field(number, SpanField.back));
    const surface = this.#surface;
    surface.fillStyle = microBatchColour(microBatch, this.#paint.scheme);
    surface.globalAlpha = TRAVEL_OPACITY[this.#paint.scheme];
    if (began - sent > 0.2) this.#rect(row, microBatch, sent, began, 0.25);
    if (back - ended > 0.2) this.#rect(row, microBatch, ended, back, 0.25);
    surface.globalAlpha = 1;
    this.#rect(row, microBatch, began, ended, 0);
  }

  /** @param inset share of the track's height left free above and below */
  #rect(row: TimelineRow, microBatch: number, from: number, to: number, inset: number): void {
    const { top, height } = trackOf(row, microBatch);
    const gap = height >= 4 ? Math.max(inset * height, 0.5) : inset * height;
    const scale = this.#scale;
    this.#surface.fillRect(from, (top + gap) * scale, Math.max(MIN_WIDTH, to - from), (height - 2 * gap) * scale);
  }
}
