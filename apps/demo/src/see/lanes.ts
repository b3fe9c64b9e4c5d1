/**
 * Where the timeline's lanes lie, top to bottom: how latency is hidden, the dense tier's queue, the dense tier, then one lane a
 * node. In the queue and at the nodes each micro-batch has a track of its own, so that those on their way at once don't cover
 * each other. Plain geometry in CSS pixels; nothing is drawn here.
 */

export type LaneKind = 'hiding' | 'queue' | 'dense' | 'node';

export interface Lane {
  readonly kind: LaneKind;
  /** Index of the node; -1 elsewhere. */
  readonly node: number;
  /** Where the label's line begins. */
  readonly labelTop: number;
  /** Where what is drawn begins, below the label. */
  readonly top: number;
  readonly height: number;
  readonly tracks: number;
}

export interface Lanes {
  readonly lanes: readonly Lane[];
  readonly height: number;
  /** Nodes that have no lane, as there are too many. */
  readonly nodesLeftOut: number;
}

export const MOST_NODE_LANES = 12;
const LABEL_HEIGHT = 18;
const GAP = 10;
const HIDING_HEIGHT = 8;
const DENSE_HEIGHT = 30;
const TRACK_HEIGHT = 5;
const LEAST_HEIGHT = 14;
/** All lanes of tracks together, so that the whole stays on a screen. */
const TRACKS_HEIGHT = 300;

export function layoutLanes(nodes: number, microBatches: number): Lanes {
  const shown = Math.min(nodes, MOST_NODE_LANES);
  const tracks = Math.max(1, microBatches);
  const room = Math.max(LEAST_HEIGHT, TRACKS_HEIGHT / (shown + 1));
  const height = Math.round(Math.min(room, Math.max(LEAST_HEIGHT, tracks * TRACK_HEIGHT)));
  const lanes: Lane[] = [];
  let top = 0;
  const add = (kind: LaneKind, node: number, laneHeight: number, laneTracks: number) => {
    lanes.push({ kind, node, labelTop: top, top: top + LABEL_HEIGHT, height: laneHeight, tracks: laneTracks });
    top += LABEL_HEIGHT + laneHeight + GAP;
  };
  add('queue', -1, Math.min(height, 48), tracks);
  add('dense', -1, DENSE_HEIGHT, 1);
  add('hiding', -1, HIDING_HEIGHT, 1);
  for (let node = 0; node < shown; node++) add('node', node, height, tracks);
  return { lanes, height: Math.max(0, top - GAP), nodesLeftOut: nodes - shown };
}

/** Top and height of a micro-batch's track within its lane. */
export function trackOf(lane: Lane, microBatch: number): { readonly top: number; readonly height: number } {
  const height = lane.height / lane.tracks;
  const track = microBatch % lane.tracks;
  return { top: lane.top + track * height, height };
}

/** The lane under a point, its label counted in. */
export function laneAt(lanes: readonly Lane[], y: number): Lane | null {
  return lanes.find((lane) => y >= lane.labelTop && y < lane.top + lane.height + GAP / 2) ?? null;
}
