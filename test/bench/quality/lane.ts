/**
 * One sequence whose KV is kept in a variant's way: a slot of a backend, and what happens to rows before they are stored and after they
 * come back. Each layer is a step of its own, so that lanes of one backend don't wait for each other's steps.
 */
import type { AttentionBackend, Slot } from '@glinthawk/attention';
import { decodeRows, encodeRows, outputRowFloats, qkvRowFloats, type RowDtype, rowBytes } from '@glinthawk/core';
import { channelsToInt4, type Rounding } from './rounding.ts';
import { CHANNEL_GROUP, type Variant } from './variants.ts';

/** The backend's step ids. */
let nextStep = 0;

export class Lane {
  readonly #backend: AttentionBackend;
  readonly #slot: Slot;
  readonly #variant: Variant;

  constructor(backend: AttentionBackend, slot: Slot, variant: Variant) {
    backend.open(slot, slot.index % backend.capacity.shards.length);
    this.#backend = backend;
    this.#slot = slot;
    this.#variant = variant;
  }

  /**
   * Appends and attends, as AttentionBackend.attend.
   * @param position where `qkv` begins; a multiple of CHANNEL_GROUP
   */
  async attend(layer: number, position: number, qkv: Float32Array, output: Float32Array): Promise<void> {
    const { geometry } = this.#backend;
    const { keys, values, wire } = this.#variant;
    const { headDim, kvHeads, groupSize } = geometry;
    const width = qkvRowFloats(geometry);
    const rows = qkv.slice();
    const atKeys = groupSize * kvHeads * headDim;
    const atValues = atKeys + kvHeads * headDim;
    throughWire(wire, rows, headDim);
    for (let row = 0; row < rows.length; row += width) {
      if (typeof keys === 'function') roundHeads(rows, row + atKeys, row + atValues, headDim, keys);
      if (values !== undefined) roundHeads(rows, row + atValues, row + width, headDim, values);
    }
    if (keys === 'channels') await this.#attendByGroups(layer, position, rows, output, atKeys);
    else await this.#run(layer, position, rows, output);
    throughWire(wire, output, headDim);
  }

  free(): void {
    this.#backend.free(this.#slot);
  }

  /** A group's rows see each other's keys as they are; once it is full its keys are written again, rounded. */
  async #attendByGroups(
    layer: number,
    position: number,
    rows: Float32Array,
    output: Float32Array,
    atKeys: number,
  ): Promise<void> {
    const { geometry } = this.#backend;
    const { headDim, kvHeads } = geometry;
    const width = qkvRowFloats(geometry);
    const narrow = outputRowFloats(geometry);
    const count = rows.length / width;
    if (position % CHANNEL_GROUP !== 0) throw new RangeError(`a chunk begins at ${position}, within a group of keys`);
    for (let from = 0; from < count; from += CHANNEL_GROUP) {
      const to = Math.min(count, from + CHANNEL_GROUP);
      const piece = rows.subarray(from * width, to * width);
      await this.#run(layer, position + from, piece, output.subarray(from * narrow, to * narrow));
      if (to - from < CHANNEL_GROUP) continue;
      const ofHead = new Float32Array(CHANNEL_GROUP * headDim);
      for (let head = 0; head < kvHeads; head++) {
        const at = atKeys + head * headDim;
        for (let t = 0; t < CHANNEL_GROUP; t++)
          ofHead.set(piece.subarray(t * width + at, t * width + at + headDim), t * headDim);
        channelsToInt4(ofHead, headDim);
        for (let t = 0; t < CHANNEL_GROUP; t++)
          piece.set(ofHead.subarray(t * headDim, (t + 1) * headDim), t * width + at);
      }
      await this.#run(layer, position + from, piece, new Float32Array(CHANNEL_GROUP * narrow));
    }
  }

  async #run(layer: number, position: number, rows: Float32Array, output: Float32Array): Promise<void> {
    const id = nextStep++;
    const count = rows.length / qkvRowFloats(this.#backend.geometry);
    this.#backend.announce({ id, entries: [{ slot: this.#slot, position, count }] });
    try {
      await this.#backend.attend(id, layer, rows, output);
    } finally {
      this.#backend.retire(id);
    }
  }
}

/** What comes out of the other end, in place. */
function throughWire(dtype: RowDtype, rows: Float32Array, headDim: number): void {
  if (dtype === 'f32') return;
  const heads = rows.length / headDim; // as if one row had them all: each has a scale of its own anyway
  const bytes = new Uint8Array(rowBytes(dtype, heads, headDim));
  encodeRows(dtype, heads, headDim, rows, bytes);
  decodeRows(dtype, heads, headDim, bytes, rows);
}

function roundHeads(array: Float32Array, from: number, to: number, headDim: number, rounding: Rounding): void {
  for (let at = from; at < to; at += headDim) rounding(array.subarray(at, at + headDim));
}
