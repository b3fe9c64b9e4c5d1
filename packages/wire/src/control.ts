/** PING and PONG, STATS, DRAIN and BYE: what keeps a session alive, describes it and ends it. */
import { foreignWords } from './foreign-words.ts';
import { frame, type OutgoingFrame } from './frame.ts';
import { FrameType } from './frame-type.ts';
import { decodeJson, encodeJson } from './json-payload.ts';
import { MAX_MESSAGE_CHARS } from './limits.ts';

/** Answered by a PONG with the same id, at once. */
export function pingFrame(id: number): OutgoingFrame {
  return frame(FrameType.PING, { id });
}

export function pongFrame(id: number): OutgoingFrame {
  return frame(FrameType.PONG, { id });
}

/** A session as its node counts it, since it began. */
export interface NodeStats {
  readonly usedBlocks: number;
  readonly openSlots: number;
  /** Time in which kernels ran, summed over workers. */
  readonly busyMs: number;
  /** Of the KV cache and its workers. */
  readonly allocatedBytes: number;
  /** Keys and values that attention read. */
  readonly kvBytesRead: number;
  /** Tokens stored, and tokens that forks took over from another slot instead. */
  readonly appendedTokens: number;
  readonly forkedTokens: number;
  /** ATTENDs that wait or are worked on. */
  readonly pendingAttends: number;
  /** Rows of q, k and v that came, and how many bytes were copied between the socket's buffers and the memory that kernels read. */
  readonly tensorBytesReceived: number;
  readonly bytesCopied: number;
  /** Rows of o that went, with their log-sum-exps. */
  readonly tensorBytesSent: number;
}

const COUNTS = [
  'usedBlocks',
  'openSlots',
  'allocatedBytes',
  'kvBytesRead',
  'appendedTokens',
  'forkedTokens',
  'pendingAttends',
  'tensorBytesReceived',
  'bytesCopied',
  'tensorBytesSent',
] as const satisfies readonly (keyof NodeStats)[];

/** The engine asks, without a payload; the node answers with the same id. */
export function statsFrame(id: number, stats?: NodeStats): OutgoingFrame {
  return frame(FrameType.STATS, { id }, stats === undefined ? [] : [encodeJson('STATS', stats)]);
}

/** @throws ProtocolError */
export function decodeStats(payload: Uint8Array): NodeStats {
  const fields = decodeJson('STATS', payload);
  const counts = COUNTS.map((name) => [name, fields.integer(name, 0, Number.MAX_SAFE_INTEGER)]);
  const busyMs = fields.number('busyMs', 0, Number.MAX_SAFE_INTEGER);
  return { ...(Object.fromEntries(counts) as Record<(typeof COUNTS)[number], number>), busyMs };
}

/** The node will leave soon: finish what is under way and begin nothing new here. */
export function drainFrame(reason: string): OutgoingFrame {
  return frame(FrameType.DRAIN, {}, [encodeJson('DRAIN', { reason })]);
}

/** The sender leaves on purpose; nothing follows. */
export function byeFrame(reason: string): OutgoingFrame {
  return frame(FrameType.BYE, {}, [encodeJson('BYE', { reason })]);
}

/** The reason of a DRAIN or BYE, as one plain line. @throws ProtocolError */
export function decodeReason(what: 'DRAIN' | 'BYE', payload: Uint8Array): string {
  return foreignWords(decodeJson(what, payload).string('reason', MAX_MESSAGE_CHARS));
}
