/**
 * One micro-batch in flight: its DenseBatch, the sequences that go with it, and the arrays that describe its step, made once and
 * used for every step, so that a step allocates per node and per sequence but never per row and layer.
 */
import type { DenseBatch, DenseStep } from '@glinthawk/dense';
import type { Placement } from './kv-shard.ts';
import type { NodeConnection } from './node-connection.ts';
import { inverseTemperature } from './sampler.ts';
import type { Sequence } from './sequence.ts';
import { type RowWidths, SplitRows } from './split-rows.ts';
import { type LaidRows, layOutStep, type Segment, type StepLayout } from './step-layout.ts';

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

export interface LaneStep extends StepLayout {
  readonly id: number;
  readonly entries: readonly LaneEntry[];
  /** Entries with a head row, in the order of the head rows. */
  readonly heads: readonly LaneEntry[];
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
  readonly split: SplitRows;
  readonly #tokenIds: Uint32Array;
  readonly #positions: Uint32Array;
  readonly #headRows: Uint32Array;
  readonly #inverseTemperatures: Float32Array;

  constructor(index: number, rows: number, headRows: number, widths: RowWidths) {
    this.index = index;
    this.split = new SplitRows(widths);
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
   * Lays the rows out by the (node, shard) that takes their keys and values, so that what goes to one node is one contiguous piece of
   * qkv and of the attention output, as long as no context lies in several parts.
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
    const shardOf = ({ placement, position }: LaneEntry) => placement.partAt(position).shard;
    entries.sort(
      (a, b) =>
        shardOf(a).node - shardOf(b).node ||
        shardOf(a).index - shardOf(b).index ||
        a.sequence.arrival - b.sequence.arrival,
    );
    const heads: LaneEntry[] = [];
    const laid: LaidRows[] = [];
    let rows = 0;
    for (const entry of entries) {
      const { sequence, placement, position, count } = entry;
      laid.push({ row: rows, count, position, parts: placement.partsTo(position) });
      sequence.copyTokens(position, count, this.#tokenIds, rows);
      for (let i = 0; i < count; i++) this.#positions[rows + i] = position + i;
      rows += count;
      if (!entry.head) continue;
      this.#headRows[heads.length] = rows - 1;
      this.#inverseTemperatures[heads.length] = inverseTemperature(sequence.request.sampling);
      heads.push(entry);
    }
    const layout = layOutStep(laid, nodeOf);
    this.split.reserve(layout.stagedRows);
    this.segments = layout.segments;
    this.lastStep = id;
    const dense: DenseStep = {
      tokenIds: this.#tokenIds.subarray(0, rows),
      positions: this.#positions.subarray(0, rows),
      headRows: this.#headRows.subarray(0, heads.length),
      inverseTemperatures: this.#inverseTemperatures.subarray(0, heads.length),
    };
    return { ...layout, id, entries, heads, dense, rows };
  }
}
