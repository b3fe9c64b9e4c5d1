/**
 * Gathers what the engine's observer and the nodes' decorators tell of the same attends into the records of span.ts. What the
 * page doesn't fetch in time is counted, not kept: memory is bounded however fast the tiers are.
 */
import type { AttentionSpan, DenseSpan, EngineObserver } from '@glinthawk/engine';
import { SPAN_FIELDS, SpanKind } from './span.ts';

/** Between two samples, a fifth of a second apart: some 20,000 a second, 320 KiB each time. */
export const MAX_SPANS = 4096;

/** The part of an attend that the engine doesn't see. Times are performance.now(), in ms. */
export interface NodeTimes {
  readonly layer: number;
  readonly sentMs: number;
  readonly beganMs: number;
  readonly endedMs: number;
  readonly backMs: number;
  readonly bytes: number;
}

/** Where a node's decorator leaves its times. A step has one layer under way at a node, so the latest is enough. */
export class NodeTimesBoard {
  readonly #latest = new Map<number, NodeTimes>(); // by step

  put(stepId: number, times: NodeTimes): void {
    this.#latest.set(stepId, times);
  }

  get(stepId: number, layer: number): NodeTimes | null {
    const times = this.#latest.get(stepId);
    return times?.layer === layer ? times : null;
  }

  forget(stepId: number): void {
    this.#latest.delete(stepId);
  }

  clear(): void {
    this.#latest.clear();
  }

  get size(): number {
    return this.#latest.size;
  }
}

export class SpanRecorder implements EngineObserver {
  readonly #layers: number;
  readonly #boards: readonly NodeTimesBoard[];
  readonly #most: number;
  #records: Float64Array<ArrayBuffer>; // [most, SPAN_FIELDS]
  #count = 0;
  #dropped = 0;

  /** @param boards one a node, in the order of the engine's node indices */
  constructor(layers: number, boards: readonly NodeTimesBoard[], most = MAX_SPANS) {
    this.#layers = layers;
    this.#boards = boards;
    this.#most = most;
    this.#records = new Float64Array(most * SPAN_FIELDS);
  }

  onDense(span: DenseSpan): void {
    const { microBatch, layer, rows, queuedAtMs, beganAtMs, endedAtMs } = span;
    const kind = layer >= this.#layers ? SpanKind.head : SpanKind.layer;
    const shownLayer = Math.min(layer, this.#layers);
    this.#add(kind, microBatch, shownLayer, -1, rows, queuedAtMs, beganAtMs, endedAtMs, endedAtMs, 0);
  }

  onAttention(span: AttentionSpan): void {
    const { microBatch, stepId, layer, node, rows, beganAtMs, endedAtMs } = span;
    const times = this.#boards[node]?.get(stepId, layer) ?? null;
    this.#add(
      SpanKind.attention,
      microBatch,
      layer,
      node,
      rows,
      times?.sentMs ?? beganAtMs,
      times?.beganMs ?? beganAtMs,
      times?.endedMs ?? endedAtMs,
      times?.backMs ?? endedAtMs,
      times?.bytes ?? 0,
    );
  }

  /** What was recorded since this was last called. */
  take(): { readonly spans: Float64Array<ArrayBuffer>; readonly dropped: number } {
    const spans = this.#records.slice(0, this.#count * SPAN_FIELDS);
    const dropped = this.#dropped;
    this.#count = 0;
    this.#dropped = 0;
    return { spans, dropped };
  }

  #add(...record: readonly number[]): void {
    if (this.#count >= this.#most) {
      this.#dropped++;
      return;
    }
    this.#records.set(record, this.#count * SPAN_FIELDS); // in the order of SpanField
    this.#count++;
  }
}
