/**
 * The record of one stay of a micro-batch somewhere, as numbers side by side, so that thousands a second can be transferred to
 * the page without making an object each.
 */

/** Fields of a span, in order. Times are performance.now() of the worker, in ms. */
export const SpanField = {
  kind: 0,
  /** Which micro-batch. */
  microBatch: 1,
  /** The layer whose attention this is or that a dense call leads to; the number of layers for the head. */
  layer: 2,
  /** Dense: -1. Attention: the node's index. */
  node: 3,
  rows: 4,
  /** Dense: since when it waited in the tier's queue. Attention: when it left the engine. */
  sent: 5,
  /** When work on it began: at the node, after the way there. */
  began: 6,
  ended: 7,
  /** Attention: when the answer was back. Dense: as ended. */
  back: 8,
  /** Bytes of q, k, v out and o back (attention). */
  bytes: 9,
} as const;
export const SPAN_FIELDS = 10;

export const SpanKind = { layer: 0, head: 1, attention: 2 } as const;
