/**
 * Where the timeline's rows lie, top to bottom: how latency is hidden, the dense tier's queue, the dense tier, then one row a
 * node. In the queue and at the nodes each micro-batch has a track of its own, so that those on their way at once don't cover
 * each other. Plain geometry in CSS pixels; nothing is drawn here.
 */

export type TimelineRowKind = 'hiding' | 'queue' | 'dense' | 'node';

export interface TimelineRow {
  readonly kind: TimelineRowKind;
  /** Index of the node; -1 elsewhere. */
  readonly node: number;
  /** Where the label's line begins. */
  readonly labelTop: number;
  /** Where what is drawn begins, below the label. */
  readonly top: number;
  readonly height: number;
  readonly tracks: number;
}

export interface TimelineRows {
  readonly rows: readonly TimelineRow[];
  readonly height: number;
  /** Nodes that have no row, as there are too many. */
  readonly nodesLeftOut: number;
}

export const MAX_NODE_ROWS = 12;
const LABEL_HEIGHT = 18;
const GAP = 10;
const HIDING_HEIGHT = 8;
const DENSE_HEIGHT = 30;
const TRACK_HEIGHT = 5;
const MIN_HEIGHT = 14;
/** All rows of tracks together, so that the whole stays on a screen. */
const TRACKS_HEIGHT = 300;

export function layoutTimeline(nodes: number, microBatches: number): TimelineRows {
  const shown = Math.min(nodes, MAX_NODE_ROWS);
  const tracks = Math.max(1, microBatches);
  const room = Math.max(MIN_HEIGHT, TRACKS_HEIGHT / (shown + 1));
  const height = Math.round(Math.min(room, Math.max(MIN_HEIGHT, tracks * TRACK_HEIGHT)));
  const rows: TimelineRow[] = [];
  let top = 0;
  const add = (kind: TimelineRowKind, node: number, rowHeight: number, rowTracks: number) => {
    rows.push({ kind, node, labelTop: top, top: top + LABEL_HEIGHT, height: rowHeight, tracks: rowTracks });
    top += LABEL_HEIGHT + rowHeight + GAP;
  };
  add('queue', -1, Math.min(height, 48), tracks);
  add('dense', -1, DENSE_HEIGHT, 1);
  add('hiding', -1, HIDING_HEIGHT, 1);
  for (let node = 0; node < shown; node++) add('node', node, height, tracks);
  return { rows, height: Math.max(0, top - GAP), nodesLeftOut: nodes - shown };
}

/** Top and height of a micro-batch's track within its row. */
export function trackOf(row: TimelineRow, microBatch: number): { readonly top: number; readonly height: number } {
  const height = row.height / row.tracks;
  const track = microBatch % row.tracks;
  return { top: row.top + track * height, height };
}

/** The row under a point, its label counted in. */
export function timelineRowAt(rows: readonly TimelineRow[], y: number): TimelineRow | null {
  return rows.find((row) => y >= row.labelTop && y < row.top + row.height + GAP / 2) ?? null;
}
