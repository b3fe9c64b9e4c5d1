/** Which span lies under a point of the timeline, and what a span is in words. */
import { SpanField, SpanKind } from '../engine/span.ts';
import type { SpanRing } from './span-ring.ts';
import type { TimelineRow } from './timeline-rows.ts';

/** Spans arrive as they end, and none lasts longer than this as far as looking for one goes. */
const LONGEST_SPAN_MS = 5_000;

/** Whether a span is drawn in a row, and over which time. */
export function extentIn(
  row: TimelineRow,
  spans: SpanRing,
  number: number,
): { readonly from: number; readonly to: number } | null {
  const attention = spans.field(number, SpanField.kind) === SpanKind.attention;
  switch (row.kind) {
    case 'queue':
      return attention ? null : { from: spans.field(number, SpanField.sent), to: spans.field(number, SpanField.began) };
    case 'dense':
      return attention
        ? null
        : { from: spans.field(number, SpanField.began), to: spans.field(number, SpanField.ended) };
    case 'node':
      if (!attention || spans.field(number, SpanField.node) !== row.node) return null;
      return { from: spans.field(number, SpanField.sent), to: spans.field(number, SpanField.back) };
    case 'hiding':
      return null;
    default:
      return row.kind satisfies never;
  }
}

/**
 * The number of the span at `atMs` in a row (on a track, where the row has several), the nearest within `toleranceMs`; null
 * when there is none.
 */
export function spanAt(
  spans: SpanRing,
  row: TimelineRow,
  atMs: number,
  { track, toleranceMs }: { readonly track: number | null; readonly toleranceMs: number },
): number | null {
  let best: number | null = null;
  let bestDistance = toleranceMs;
  for (let number = spans.end - 1; number >= spans.first; number--) {
    if (spans.field(number, SpanField.back) < atMs - LONGEST_SPAN_MS) break;
    if (track !== null && spans.field(number, SpanField.microBatch) % row.tracks !== track) continue;
    const extent = extentIn(row, spans, number);
    if (extent === null) continue;
    const distance = Math.max(0, extent.from - atMs, atMs - extent.to);
    if (distance > bestDistance || (distance === bestDistance && best !== null)) continue;
    best = number;
    bestDistance = distance;
    if (distance === 0) break;
  }
  return best;
}

/** The next span of a row in time, or the one before it. */
export function neighbour(spans: SpanRing, row: TimelineRow, atMs: number, direction: 1 | -1): number | null {
  let best: number | null = null;
  let bestDistance = Number.POSITIVE_INFINITY;
  for (let number = spans.first; number < spans.end; number++) {
    const extent = extentIn(row, spans, number);
    if (extent === null || extent.to <= extent.from) continue;
    const distance = (middle(extent) - atMs) * direction;
    if (distance > 1e-6 && distance < bestDistance) {
      best = number;
      bestDistance = distance;
    }
  }
  return best;
}

export function middle({ from, to }: { readonly from: number; readonly to: number }): number {
  return (from + to) / 2;
}

/** `Micro-batch 3 · layer 2 · 16 rows`, then what took how long. */
export function describeSpan(
  spans: SpanRing,
  number: number,
  nodeName: (node: number) => string,
): { readonly title: string; readonly lines: readonly string[] } {
  const field = (name: keyof typeof SpanField) => spans.field(number, SpanField[name]);
  const kind = field('kind');
  const rows = `${field('rows')} ${field('rows') === 1 ? 'row' : 'rows'}`;
  const micro = `Micro-batch ${field('microBatch') + 1}`;
  const [sent, began, ended, back] = [field('sent'), field('began'), field('ended'), field('back')];
  if (kind === SpanKind.attention) {
    return {
      title: `${micro} · attention of layer ${field('layer') + 1} · ${rows}`,
      lines: [
        `at ${nodeName(field('node'))}`,
        `${ms(began - sent)} on the way there, ${ms(ended - began)} computing, ${ms(back - ended)} on the way back`,
        ...(field('bytes') > 0 ? [`${(field('bytes') / 1024).toFixed(1)} KiB of q, k, v and o`] : []),
      ],
    };
  }
  const what =
    kind === SpanKind.head ? 'last layer and head' : `dense call up to q, k, v of layer ${field('layer') + 1}`;
  return { title: `${micro} · ${what} · ${rows}`, lines: [`waited ${ms(began - sent)}, took ${ms(ended - began)}`] };
}

function ms(value: number): string {
  return `${value < 10 ? value.toFixed(2) : value.toFixed(1)} ms`;
}
