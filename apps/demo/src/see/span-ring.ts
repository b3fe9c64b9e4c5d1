/**
 * The latest spans, as records of SPAN_FIELDS numbers in one array that is written round and round. A record's number grows for
 * ever; a number is valid while it is among the last `capacity`.
 */
import { SPAN_FIELDS, type SpanField } from '../engine/span.ts';

export const SPAN_CAPACITY = 1 << 16; // 5.2 MB; 13 s at 5,000 spans a second

export class SpanRing {
  readonly capacity: number;
  readonly #records: Float64Array;
  #written = 0;

  constructor(capacity = SPAN_CAPACITY) {
    this.capacity = capacity;
    this.#records = new Float64Array(capacity * SPAN_FIELDS);
  }

  /** Number of the oldest record that is still here. */
  get first(): number {
    return Math.max(0, this.#written - this.capacity);
  }

  /** One more than the newest record's number. */
  get end(): number {
    return this.#written;
  }

  /** Takes whole records; a rest that is none, or a record with a number that is not finite, is left out. */
  push(spans: Float64Array): void {
    for (let at = 0; at + SPAN_FIELDS <= spans.length; at += SPAN_FIELDS) {
      const record = spans.subarray(at, at + SPAN_FIELDS);
      if (!record.every(Number.isFinite)) continue;
      this.#records.set(record, (this.#written % this.capacity) * SPAN_FIELDS);
      this.#written++;
    }
  }

  field(number: number, field: (typeof SpanField)[keyof typeof SpanField]): number {
    return this.#records[(number % this.capacity) * SPAN_FIELDS + field] ?? 0;
  }

  clear(): void {
    this.#written = 0;
  }
}
