/**
 * ATTEND and RESULT, the frames that carry nearly all bytes: q, k and v of one layer of an announced step out, o back. Their
 * lengths follow from rows, dtype and geometry, so nothing in them is parsed.
 */
import { type AttentionGeometry, outputRowBytes, qkvRowBytes } from '@glinthawk/core';
import { frame, type OutgoingFrame, type Section } from './frame.ts';
import { FLAG_LOG_SUM_EXP, FrameType, paddingAfter, type WireDtype } from './frame-type.ts';

export interface AttendFields {
  readonly id: number;
  readonly layer: number;
  readonly rows: number;
  readonly dtype: WireDtype;
  readonly wantsLogSumExp: boolean;
}

/** Bytes of the q, k, v section: `rows` rows of q, k and v. */
export function qkvBytes(geometry: AttentionGeometry, rows: number, dtype: WireDtype): number {
  return rows * qkvRowBytes(geometry, dtype);
}

/** Bytes of the o section. */
export function outputBytes(geometry: AttentionGeometry, rows: number, dtype: WireDtype): number {
  return rows * outputRowBytes(geometry, dtype);
}

/** Bytes of the log-sum-exp section: [rows, groupSize kvHeads] f32. */
export function logSumExpBytes(geometry: AttentionGeometry, rows: number): number {
  return rows * geometry.groupSize * geometry.kvHeads * 4;
}

export interface ResultLayout {
  readonly outputBytes: number;
  /** Where the log-sum-exp section starts; the o section starts at 0. */
  readonly logSumExpOffset: number;
  readonly payloadBytes: number;
}

export function resultLayout(
  geometry: AttentionGeometry,
  rows: number,
  dtype: WireDtype,
  withLogSumExp: boolean,
): ResultLayout {
  const o = outputBytes(geometry, rows, dtype);
  const logSumExpOffset = o + paddingAfter(o);
  const payloadBytes = withLogSumExp ? logSumExpOffset + logSumExpBytes(geometry, rows) : o;
  return { outputBytes: o, logSumExpOffset, payloadBytes };
}

/** @param qkv exactly qkvBytes long */
export function attendFrame(fields: AttendFields, qkv: Uint8Array): OutgoingFrame {
  const { id, layer, rows, dtype } = fields;
  const flags = fields.wantsLogSumExp ? FLAG_LOG_SUM_EXP : 0;
  return frame(FrameType.ATTEND, { id, layer, rows, dtype, flags }, [qkv]);
}

export interface ResultFields {
  readonly id: number;
  readonly layer: number;
  readonly rows: number;
  readonly dtype: WireDtype;
  /** Microseconds in which the node's kernels ran since the previous RESULT. */
  readonly busyMicros: number;
}

/**
 * @param output exactly outputBytes long
 * @param logSumExp exactly logSumExpBytes long, where it was asked for
 */
export function resultFrame(fields: ResultFields, output: Section, logSumExp?: Uint8Array): OutgoingFrame {
  const { id, layer, rows, dtype } = fields;
  const header = { id, layer, rows, dtype, aux: Math.min(fields.busyMicros, 2 ** 32 - 1) };
  return logSumExp === undefined
    ? frame(FrameType.RESULT, header, [output])
    : frame(FrameType.RESULT, { ...header, flags: FLAG_LOG_SUM_EXP }, [output, logSumExp]);
}
