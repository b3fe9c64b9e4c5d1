/**
 * PUT_KV: k and v of one layer for many tokens of one slot, from a prefill that was done elsewhere. Defined, and refused by
 * nodes that don't grant the `put-kv` capability.
 */
import { type AttentionGeometry, ProtocolError } from '@glinthawk/core';
import { type Frame, frame, type OutgoingFrame } from './frame.ts';
import { FrameType, paddingAfter, WIRE_DTYPE_BYTES, type WireDtype } from './frame-type.ts';
import { bytesOf, requireZero, slotAt, type WireSlot, wordsOf } from './slot-frames.ts';

const RECORD_BYTES = 16; // index, generation, position, 0

export interface PutKvFields {
  readonly slot: WireSlot;
  /** Of the first token. */
  readonly position: number;
  readonly layer: number;
  readonly tokens: number;
  readonly dtype: WireDtype;
}

export interface PutKv extends PutKvFields {
  readonly k: Uint8Array; // [tokens, kvHeads, headDim]
  readonly v: Uint8Array; // [tokens, kvHeads, headDim]
}

export function putKvFrame(put: PutKv): OutgoingFrame {
  const record = new Uint32Array([put.slot.index, put.slot.generation, put.position, 0]);
  const fields = { layer: put.layer, rows: put.tokens, dtype: put.dtype };
  return frame(FrameType.PUT_KV, fields, [bytesOf(record), put.k, put.v]);
}

/** @throws ProtocolError when the sections don't fit the geometry. */
export function decodePutKv({ header, payload }: Frame, geometry: AttentionGeometry): PutKv {
  const dtype = header.dtype;
  if (dtype !== 'f32' && dtype !== 'f16') throw new ProtocolError('BAD_HEADER', `PUT_KV: dtype ${dtype} is reserved`);
  const bytes = header.rows * geometry.kvHeads * geometry.headDim * WIRE_DTYPE_BYTES[dtype];
  const vOffset = RECORD_BYTES + bytes + paddingAfter(bytes);
  if (payload.byteLength !== vOffset + bytes) {
    throw new ProtocolError('BAD_LENGTH', `PUT_KV: ${payload.byteLength} bytes; expected ${vOffset + bytes}`);
  }
  const record = wordsOf(payload.subarray(0, RECORD_BYTES));
  requireZero('PUT_KV', record[3]);
  return {
    slot: slotAt(record, 0),
    position: record[2] as number,
    layer: header.layer,
    tokens: header.rows,
    dtype,
    k: payload.subarray(RECORD_BYTES, RECORD_BYTES + bytes),
    v: payload.subarray(vOffset, vOffset + bytes),
  };
}
