/**
 * One frame: a 32-byte little-endian header, then sections on 16-byte boundaries. Encoding makes a list of parts that views the
 * caller's tensors, and decoding views the received bytes; nothing is copied here. What a payload means is the business of
 * the message families beside this file.
 */
import { ProtocolError, UnsupportedError } from '@glinthawk/core';
import {
  type FrameName,
  type FrameType,
  frameRule,
  HEADER_DTYPES,
  type HeaderDtype,
  paddingAfter,
} from './frame-type.ts';
import { HEADER_BYTES, MAX_LAYERS, SECTION_ALIGN } from './limits.ts';
import { totalBytes } from './transport.ts';

/** Bytes F7 'G' 'L' 'H': the first is no ASCII, so that one byte tells a frame from an HTTP request on the same port. */
export const MAGIC = 0x484c47f7;
/** Of header and framing; what the messages mean is HELLO's protocolVersion. */
export const FRAME_VERSION = 1;

export interface FrameHeader {
  readonly type: FrameType;
  readonly flags: number;
  /** Step or request; up to 2^53 - 1. */
  readonly id: number;
  readonly layer: number;
  readonly dtype: HeaderDtype;
  readonly rows: number;
  /** Without the padding that follows the payload. */
  readonly payloadBytes: number;
  /** RESULT: microseconds in which the node's kernels ran since the previous RESULT. */
  readonly aux: number;
}

export interface Frame {
  readonly header: FrameHeader;
  /** `payloadBytes` long, 4-byte aligned at least; empty where it was received elsewhere, or dropped (PayloadTarget). */
  readonly payload: Uint8Array;
}

/** One piece, or several that follow one another without gaps. */
export type Section = Uint8Array | readonly Uint8Array[];

/** A frame about to be sent. Sections are views: they must not change until they were sent. */
export interface OutgoingFrame {
  readonly header: FrameHeader;
  readonly sections: readonly Section[];
}

if (new Uint8Array(new Uint32Array([1]).buffer)[0] !== 1) {
  throw new UnsupportedError(
    'BIG_ENDIAN',
    'tensors travel little-endian and are viewed in place; this machine is big-endian',
  );
}

const zeros = new Uint8Array(SECTION_ALIGN);

/** A frame of `sections`, each padded to the next boundary but the last one. Header fields default to zero. */
export function frame(
  type: FrameType,
  fields: Partial<Omit<FrameHeader, 'type' | 'payloadBytes'>> = {},
  sections: readonly Section[] = [],
): OutgoingFrame {
  let payloadBytes = 0;
  for (const section of sections) payloadBytes += paddingAfter(payloadBytes) + totalBytes(piecesOf(section));
  const header: FrameHeader = {
    type,
    flags: fields.flags ?? 0,
    id: fields.id ?? 0,
    layer: fields.layer ?? 0,
    dtype: fields.dtype ?? 'none',
    rows: fields.rows ?? 0,
    payloadBytes,
    aux: fields.aux ?? 0,
  };
  checkHeader(header);
  return { header, sections };
}

/** Bytes on the wire: header, payload and padding. */
export function frameBytes(header: FrameHeader): number {
  return HEADER_BYTES + header.payloadBytes + paddingAfter(header.payloadBytes);
}

/** The parts of a frame, in order, ready for a vectored write: the header, the sections themselves, and zeros between. */
export function frameParts(outgoing: OutgoingFrame): Uint8Array[] {
  const parts: Uint8Array[] = [encodeHeader(outgoing.header)];
  for (const section of outgoing.sections) {
    const pieces = piecesOf(section);
    for (const piece of pieces) if (piece.byteLength > 0) parts.push(piece);
    const padding = paddingAfter(totalBytes(pieces));
    if (padding > 0) parts.push(zeros.subarray(0, padding));
  }
  return parts;
}

function piecesOf(section: Section): readonly Uint8Array[] {
  return section instanceof Uint8Array ? [section] : section;
}

/** The frame as one fresh buffer; for tests, and for transports that send whole messages. */
export function encodeFrame(outgoing: OutgoingFrame): Uint8Array {
  const bytes = new Uint8Array(frameBytes(outgoing.header));
  let at = 0;
  for (const part of frameParts(outgoing)) {
    bytes.set(part, at);
    at += part.byteLength;
  }
  return bytes;
}

export function encodeHeader(header: FrameHeader): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint8(4, FRAME_VERSION);
  view.setUint8(5, header.type);
  view.setUint16(6, header.flags, true);
  view.setUint32(8, header.id >>> 0, true);
  view.setUint32(12, Math.floor(header.id / 2 ** 32), true);
  view.setUint16(16, header.layer, true);
  view.setUint8(18, HEADER_DTYPES.indexOf(header.dtype));
  view.setUint32(20, header.rows, true);
  view.setUint32(24, header.payloadBytes, true);
  view.setUint32(28, header.aux, true);
  return bytes;
}

/**
 * Reads and checks the header at `at`; 32 bytes must be there.
 * @throws ProtocolError for anything that FRAME_RULES doesn't allow
 */
export function decodeHeader(bytes: Uint8Array, at = 0): FrameHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, HEADER_BYTES);
  const magic = view.getUint32(0, true);
  if (magic !== MAGIC) {
    throw new ProtocolError('BAD_MAGIC', `expected a frame (magic ${hex(MAGIC)}), found ${hex(magic)}`);
  }
  const version = view.getUint8(4);
  if (version !== FRAME_VERSION) {
    throw new ProtocolError(
      'WRONG_VERSION',
      `frames of version ${version} arrived; this side speaks ${FRAME_VERSION}`,
      {
        hint: 'run the same Glinthawk version on both machines',
      },
    );
  }
  const high = view.getUint32(12, true);
  if (high >= 2 ** 21) throw new ProtocolError('BAD_HEADER', 'a frame id above 2^53 - 1');
  const dtype = HEADER_DTYPES[view.getUint8(18)];
  if (dtype === undefined) throw new ProtocolError('BAD_HEADER', `unknown dtype code ${view.getUint8(18)}`);
  if (view.getUint8(19) !== 0) throw new ProtocolError('BAD_HEADER', 'a reserved header byte is not zero');
  const header: FrameHeader = {
    type: view.getUint8(5) as FrameType, // checked by checkHeader
    flags: view.getUint16(6, true),
    id: high * 2 ** 32 + view.getUint32(8, true),
    layer: view.getUint16(16, true),
    dtype,
    rows: view.getUint32(20, true),
    payloadBytes: view.getUint32(24, true),
    aux: view.getUint32(28, true),
  };
  checkHeader(header);
  return header;
}

/** @throws ProtocolError when a field is out of its caps, or set though the frame's type doesn't use it. */
export function checkHeader(header: FrameHeader): void {
  const rule = frameRule(header.type);
  if (rule === undefined) throw new ProtocolError('UNKNOWN_FRAME', `unknown frame type 0x${header.type.toString(16)}`);
  if ((header.flags & ~rule.flags) !== 0) throw bad(rule.name, `flags 0x${header.flags.toString(16)} are not allowed`);
  if (!Number.isSafeInteger(header.id) || header.id < 0) throw bad(rule.name, `id ${header.id}`);
  if (header.id !== 0 && !rule.uses.includes('id')) throw bad(rule.name, 'an id is set');
  if (header.layer !== 0 && !rule.uses.includes('layer')) throw bad(rule.name, 'a layer is set');
  if (header.layer < 0 || header.layer >= MAX_LAYERS)
    throw bad(rule.name, `layer ${header.layer} of at most ${MAX_LAYERS}`);
  if ((header.dtype !== 'none') !== rule.uses.includes('dtype')) throw bad(rule.name, `dtype ${header.dtype}`);
  if (header.aux !== 0 && !rule.uses.includes('aux')) throw bad(rule.name, 'aux is set');
  if (header.rows > rule.maxRows) throw bad(rule.name, `${header.rows} rows; the cap is ${rule.maxRows}`);
  if (rule.maxRows > 0 && header.rows === 0) throw bad(rule.name, 'no rows');
  const bytes = header.payloadBytes;
  if (bytes > rule.maxPayloadBytes)
    throw bad(rule.name, `a payload of ${bytes} bytes; the cap is ${rule.maxPayloadBytes}`);
  if (rule.rowRecordBytes !== undefined && bytes !== header.rows * rule.rowRecordBytes) {
    throw bad(rule.name, `${bytes} bytes for ${header.rows} records of ${rule.rowRecordBytes}`);
  }
  if (rule.recordBytes !== undefined && (bytes === 0 || bytes % rule.recordBytes !== 0)) {
    throw bad(rule.name, `${bytes} bytes are no whole number of ${rule.recordBytes}-byte records`);
  }
}

function bad(name: FrameName, what: string): ProtocolError {
  return new ProtocolError('BAD_HEADER', `${name} frame: ${what}`);
}

function hex(word: number): string {
  return `0x${word.toString(16).padStart(8, '0')}`;
}
