/** A backend that counts its attends, and says what it holds while it is open; everything else is the backend's own. */
import type {
  AttentionCapacity,
  AttentionLimits,
  AttentionStats,
  AttentionStep,
  Slot,
  StagedAttention,
  StagedRows,
} from '@glinthawk/attention';
import type { AttentionGeometry, KvDtype, NodeLostError, RowDtype } from '@glinthawk/core';

/** Over all sessions of a node. */
export interface AttendCount {
  attends: number;
  /** Of the session that is open; null without one. */
  capacity: AttentionCapacity | null;
}

export class CountedBackend implements StagedAttention {
  readonly name: string;
  readonly geometry: AttentionGeometry;
  readonly kvDtype: KvDtype;
  readonly rowDtype: RowDtype;
  readonly capacity: AttentionCapacity;
  readonly limits?: AttentionLimits;
  readonly lost: Promise<NodeLostError>;
  readonly #inner: StagedAttention;
  readonly #count: AttendCount;

  constructor(inner: StagedAttention, count: AttendCount) {
    this.#inner = inner;
    this.#count = count;
    this.name = inner.name;
    this.geometry = inner.geometry;
    this.kvDtype = inner.kvDtype;
    this.rowDtype = inner.rowDtype;
    this.capacity = inner.capacity;
    if (inner.limits !== undefined) this.limits = inner.limits;
    this.lost = inner.lost;
    count.capacity = inner.capacity;
  }

  open(slot: Slot, shard: number): void {
    this.#inner.open(slot, shard);
  }

  fork(slot: Slot, parent: Slot, tokens: number): void {
    this.#inner.fork(slot, parent, tokens);
  }

  free(slot: Slot): void {
    this.#inner.free(slot);
  }

  announce(step: AttentionStep): void {
    this.#inner.announce(step);
  }

  attend(
    stepId: number,
    layer: number,
    qkv: Float32Array,
    output: Float32Array,
    logSumExp?: Float32Array,
  ): Promise<void> {
    this.#count.attends++;
    return this.#inner.attend(stepId, layer, qkv, output, logSumExp);
  }

  staged(stepId: number): StagedRows {
    return this.#inner.staged(stepId);
  }

  attendStaged(stepId: number, layer: number, logSumExp?: Float32Array): Promise<void> {
    this.#count.attends++;
    return this.#inner.attendStaged(stepId, layer, logSumExp);
  }

  retire(stepId: number): void {
    this.#inner.retire(stepId);
  }

  stats(): AttentionStats {
    return this.#inner.stats();
  }

  allocatedBytes(): number {
    return this.#inner.allocatedBytes();
  }

  close(): Promise<void> {
    this.#count.capacity = null;
    return this.#inner.close();
  }
}
