/**
 * The kinds of frames and what the header of each may hold. A field that a kind does not use is zero on the wire, so that
 * every frame has exactly one encoding; whatever breaks the table is refused before its payload is received.
 */
import { ROW_DTYPES, type RowDtype } from '@glinthawk/core';
import {
  MAX_CONTROL_BYTES,
  MAX_PAYLOAD_BYTES,
  MAX_ROWS,
  MAX_SLOT_RECORDS,
  MAX_STEP_ENTRIES,
  SECTION_ALIGN,
} from './limits.ts';

export const FrameType = {
  HELLO: 0x01,
  AUTH: 0x02,
  WELCOME: 0x03,
  ERROR: 0x04,
  PING: 0x05,
  PONG: 0x06,
  STATS: 0x07,
  DRAIN: 0x08,
  BYE: 0x09,
  OPEN: 0x10,
  FREE: 0x11,
  FORK: 0x12,
  STEP: 0x20,
  ATTEND: 0x21,
  RESULT: 0x22,
  RETIRE: 0x23,
} as const;
export type FrameType = (typeof FrameType)[keyof typeof FrameType];
export type FrameName = keyof typeof FrameType;

/** ERROR: it concerns only the ATTEND with this id and layer; without it the connection is over. */
export const FLAG_REQUEST = 0x0001;
/** ATTEND: the log-sum-exp is wanted. RESULT: a log-sum-exp section follows o. */
export const FLAG_LOG_SUM_EXP = 0x0002;

/** In which q, k, v and o travel: core's rows.ts says how rows of each lie. */
export type WireDtype = RowDtype;
export type HeaderDtype = 'none' | WireDtype;
/** By code in the header's dtype field. */
export const HEADER_DTYPES: readonly HeaderDtype[] = ['none', ...ROW_DTYPES];

export type HeaderField = 'id' | 'layer' | 'dtype' | 'rows' | 'aux';

export interface FrameRule {
  readonly name: FrameName;
  readonly uses: readonly HeaderField[];
  /** Flags that may be set. */
  readonly flags: number;
  /** Most that `rows` may claim; 0 where it isn't used. */
  readonly maxRows: number;
  readonly maxPayloadBytes: number;
  /** The payload is exactly `rows` records of this size. */
  readonly rowRecordBytes?: number;
  /** The payload is a whole number of records of this size, at least one. */
  readonly recordBytes?: number;
}

function rule(name: FrameName, uses: readonly HeaderField[], rest: Partial<FrameRule> = {}): FrameRule {
  return { name, uses, flags: 0, maxRows: 0, maxPayloadBytes: 0, ...rest };
}
const json = { maxPayloadBytes: MAX_CONTROL_BYTES };

export const SLOT_RECORD_BYTES = 8; // index, generation
export const OPEN_RECORD_BYTES = 16; // index, generation, shard, 0
export const FORK_RECORD_BYTES = 20; // parent, child, tokens
export const STEP_ENTRY_BYTES = 20; // index, generation, position, count, flags

export const FRAME_RULES: Readonly<Record<FrameType, FrameRule>> = {
  [FrameType.HELLO]: rule('HELLO', [], json),
  [FrameType.AUTH]: rule('AUTH', [], json),
  [FrameType.WELCOME]: rule('WELCOME', [], json),
  [FrameType.ERROR]: rule('ERROR', ['id', 'layer'], { ...json, flags: FLAG_REQUEST }),
  [FrameType.PING]: rule('PING', ['id']),
  [FrameType.PONG]: rule('PONG', ['id']),
  [FrameType.STATS]: rule('STATS', ['id'], json),
  [FrameType.DRAIN]: rule('DRAIN', [], json),
  [FrameType.BYE]: rule('BYE', [], json),
  [FrameType.OPEN]: rule('OPEN', ['rows'], {
    maxRows: MAX_SLOT_RECORDS,
    maxPayloadBytes: MAX_SLOT_RECORDS * OPEN_RECORD_BYTES,
    rowRecordBytes: OPEN_RECORD_BYTES,
  }),
  [FrameType.FREE]: rule('FREE', ['rows'], {
    maxRows: MAX_SLOT_RECORDS,
    maxPayloadBytes: MAX_SLOT_RECORDS * SLOT_RECORD_BYTES,
    rowRecordBytes: SLOT_RECORD_BYTES,
  }),
  [FrameType.FORK]: rule('FORK', ['rows'], {
    maxRows: MAX_SLOT_RECORDS,
    maxPayloadBytes: MAX_SLOT_RECORDS * FORK_RECORD_BYTES,
    rowRecordBytes: FORK_RECORD_BYTES,
  }),
  [FrameType.STEP]: rule('STEP', ['id', 'rows'], {
    maxRows: MAX_ROWS,
    maxPayloadBytes: MAX_STEP_ENTRIES * STEP_ENTRY_BYTES,
    recordBytes: STEP_ENTRY_BYTES,
  }),
  [FrameType.ATTEND]: rule('ATTEND', ['id', 'layer', 'dtype', 'rows'], {
    flags: FLAG_LOG_SUM_EXP,
    maxRows: MAX_ROWS,
    maxPayloadBytes: MAX_PAYLOAD_BYTES,
  }),
  [FrameType.RESULT]: rule('RESULT', ['id', 'layer', 'dtype', 'rows', 'aux'], {
    flags: FLAG_LOG_SUM_EXP,
    maxRows: MAX_ROWS,
    maxPayloadBytes: MAX_PAYLOAD_BYTES,
  }),
  [FrameType.RETIRE]: rule('RETIRE', ['id']),
};

/** The rule of a type byte, or undefined for a type that this version doesn't know. */
export function frameRule(type: number): FrameRule | undefined {
  return (FRAME_RULES as Readonly<Record<number, FrameRule>>)[type];
}

/** Zero bytes that follow `bytes` bytes up to the next section or frame. */
export function paddingAfter(bytes: number): number {
  return -bytes & (SECTION_ALIGN - 1);
}
