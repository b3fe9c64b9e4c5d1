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

export interface NodeStats {
  readonly usedBlocks: number;
  readonly openSlots: number;
  /** Time in which kernels ran, summed over shards. */
  readonly busyMs: number;
  /** Of the KV cache and its workers. */
  readonly allocatedBytes: number;
}

/** The engine asks, without a payload; the node answers with the same id. */
export function statsFrame(id: number, stats?: NodeStats): OutgoingFrame {
  return frame(FrameType.STATS, { id }, stats === undefined ? [] : [encodeJson('STATS', stats)]);
}

/** @throws ProtocolError */
export function decodeStats(payload: Uint8Array): NodeStats {
  const fields = decodeJson('STATS', payload);
  return {
    usedBlocks: fields.integer('usedBlocks', 0, Number.MAX_SAFE_INTEGER),
    openSlots: fields.integer('openSlots', 0, Number.MAX_SAFE_INTEGER),
    busyMs: fields.number('busyMs', 0, Number.MAX_SAFE_INTEGER),
    allocatedBytes: fields.integer('allocatedBytes', 0, Number.MAX_SAFE_INTEGER),
  };
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
