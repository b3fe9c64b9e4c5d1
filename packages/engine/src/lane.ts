/**
 * One micro-batch in flight: its DenseBatch, the sequences that go with it, and the arrays that describe its step, made once and
 * used for every step, so that a step allocates per node and per sequence but never per row and layer.
 */
import type { DenseBatch, DenseStep } from '@glinthawk/dense';
import type { PartRows, Placement } from './kv-shard.ts';
import type { NodeConnection } from './node-connection.ts';
import { inverseTemperature } from './sampler.ts';
import type { Sequence } from './sequence.ts';

/** One sequence's rows in a step. */
export interface LaneEntry {
  readonly sequence: Sequence;
  /** Where its KV stood when the step began; elsewhere or nowhere means that it was lost under way. */
  readonly placement: Placement<Sequence>;
  readonly position: number;
  readonly count: number;
  /** Its last row's next token is wanted. */
  readonly head: boolean;
}

/** Neighbouring rows that go to one node. */
export interface Segment {
  readonly node: NodeConnection;
  readonly entries: readonly PartRows<Sequence>[];
  readonly startRow: number;
  readonly rows: number;
  /** Σ over rows of the tokens that each attends to. */
  readonly kvTokens: number;
}

export interface LaneStep {
  readonly id: number;
  readonly entries: readonly LaneEntry[];
  /** Entries with a head row, in the order of the head rows. */
  readonly heads: readonly LaneEntry[];
  readonly segments: readonly Segment[];
  readonly dense: DenseStep;
  readonly rows: number;
}

export class Lane {
  readonly index: number;
  /** Oldest first. */
  readonly sequences: Sequence[] = [];
  batch: DenseBatch | null = null;
  running = false;
  /** Since when its call of one tier or the other has been under way; null between two. */
  callSinceMs: number | null = null;
  /** Of its last step; -1 before the first. */
  lastStep = -1;
  /** The segments of the step under way, for the scheduler's view of who is starved. */
  segments: readonly Segment[] = [];
  readonly #tokenIds: Uint32Array;
  readonly #positions: Uint32Array;
  readonly #headRows: Uint32Array;
  readonly #inverseTemperatures: Float32Array;

  constructor(index: number, rows: number, headRows: number) {
    this.index = index;
    this.#tokenIds = new Uint32Array(rows);
    this.#positions = new Uint32Array(rows);
    this.#headRows = new Uint32Array(headRows);
    this.#inverseTemperatures = new Float32Array(headRows);
  }

  add(sequence: Sequence): void {
    sequence.lane = this.index;
    let at = this.sequences.length;
    while (at > 0 && (this.sequences[at - 1] as Sequence).arrival > sequence.arrival) at--;
    this.sequences.splice(at, 0, sequence);
  }

  remove(sequence: Sequence): void {
    const at = this.sequences.indexOf(sequence);
    if (at >= 0) this.sequences.splice(at, 1);
    sequence.lane = -1;
  }

  /** Whether the step under way has rows at the node. */
  feeds(node: NodeConnection): boolean {
    return this.segments.some((segment) => segment.node === node);
  }

  /** Rows that wait at the emptiest node that this micro-batch feeds. */
  outstandingRows(): number {
    let fewest = Number.POSITIVE_INFINITY;
    for (const { node } of this.segments) fewest = Math.min(fewest, node.rows);
    return fewest;
  }

  /**
   * Lays the rows out by (node, shard), so that each node's part of qkv and of the attention output is one contiguous piece.
   * @param chosen sequences with how many rows each gets
   */
  layOut(
    id: number,
    chosen: readonly { readonly sequence: Sequence; readonly count: number }[],
    nodeOf: (index: number) => NodeConnection | null,
  ): LaneStep {
    const entries: LaneEntry[] = [];
    for (const { sequence, count } of chosen) {
      const { placement, kvTokens: position } = sequence;
      if (placement === null || count === 0) continue;
      entries.push({ sequence, placement, position, count, head: position + count === sequence.length });
    }
    entries.sort(
      (a, b) =>
        a.placement.last.shard.node - b.placement.last.shard.node ||
        a.placement.last.shard.index - b.placement.last.shard.index ||
        a.sequence.arrival - b.sequence.arrival,
    );
    const heads: LaneEntry[] = [];
    const segments: Segment[] = [];
    let rows = 0;
    let at = 0;
    while (at < entries.length) {
      const nodeIndex = (entries[at] as LaneEntry).placement.last.shard.node;
      const node = nodeOf(nodeIndex);
      if (node === null) throw new Error(`a placement at node ${nodeIndex}, which is not connected`);
      const startRow = rows;
      const steps: PartRows<Sequence>[] = [];
      let kvTokens = 0;
      for (; at < entries.length; at++) {
        const entry = entries[at] as LaneEntry;
        const part = entry.placement.last;
        if (part.shard.node !== nodeIndex) break;
        const { sequence, position, count } = entry;
        steps.push({ part, position: position - part.firstToken, count });
        sequence.copyTokens(position, count, this.#tokenIds, rows);
        for (let i = 0; i < count; i++) this.#positions[rows + i] = position + i;
        kvTokens += count * position + (count * (count + 1)) / 2;
        rows += count;
        if (!entry.head) continue;
        this.#headRows[heads.length] = rows - 1;
        this.#inverseTemperatures[heads.length] = inverseTemperature(sequence.request.sampling);
        heads.push(entry);
      }
      segments.push({ node, entries: steps, startRow, rows: rows - startRow, kvTokens });
    }
    this.segments = segments;
    this.lastStep = id;
    const dense: DenseStep = {
      tokenIds: this.#tokenIds.subarray(0, rows),
      positions: this.#positions.subarray(0, rows),
      headRows: this.#headRows.subarray(0, heads.length),
      inverseTemperatures: this.#inverseTemperatures.subarray(0, heads.length),
    };
    return { id, entries, heads, segments, dense, rows };
  }
}
