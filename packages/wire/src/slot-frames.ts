/** OPEN, FREE and FORK: slots come and go. Several records may share a frame; they count in order. */
import { ProtocolError } from '@glinthawk/core';
import { type Frame, frame, type OutgoingFrame } from './frame.ts';
import { FORK_RECORD_BYTES, FrameType, OPEN_RECORD_BYTES, SLOT_RECORD_BYTES } from './frame-type.ts';
import { MAX_CONTEXT_TOKENS, MAX_SHARDS, MAX_SLOTS } from './limits.ts';

/** A slot as it travels; `generation` is below 2^32. */
export interface WireSlot {
  readonly index: number;
  readonly generation: number;
}

export interface OpenRecord {
  readonly slot: WireSlot;
  readonly shard: number;
}

/** `child` begins, on the parent's shard, with the first `tokens` tokens of `parent`: whole blocks are shared. */
export interface ForkRecord {
  readonly parent: WireSlot;
  readonly child: WireSlot;
  readonly tokens: number;
}

export function openFrame(records: readonly OpenRecord[]): OutgoingFrame {
  const words = new Uint32Array((records.length * OPEN_RECORD_BYTES) / 4);
  records.forEach(({ slot, shard }, i) => {
    words.set([slot.index, slot.generation, shard, 0], i * 4);
  });
  return frame(FrameType.OPEN, { rows: records.length }, [bytesOf(words)]);
}

/** @throws ProtocolError */
export function decodeOpen({ payload }: Frame): OpenRecord[] {
  const words = wordsOf(payload);
  const records: OpenRecord[] = [];
  for (let at = 0; at < words.length; at += 4) {
    const shard = words[at + 2] as number;
    if (shard >= MAX_SHARDS) throw new ProtocolError('BAD_SHARD', `OPEN: shard ${shard} of at most ${MAX_SHARDS}`);
    requireZero('OPEN', words[at + 3]);
    records.push({ slot: slotAt(words, at), shard });
  }
  return records;
}

export function freeFrame(slots: readonly WireSlot[]): OutgoingFrame {
  const words = new Uint32Array((slots.length * SLOT_RECORD_BYTES) / 4);
  slots.forEach((slot, i) => {
    words.set([slot.index, slot.generation], i * 2);
  });
  return frame(FrameType.FREE, { rows: slots.length }, [bytesOf(words)]);
}

/** @throws ProtocolError */
export function decodeFree({ payload }: Frame): WireSlot[] {
  const words = wordsOf(payload);
  const slots: WireSlot[] = [];
  for (let at = 0; at < words.length; at += 2) slots.push(slotAt(words, at));
  return slots;
}

export function forkFrame(records: readonly ForkRecord[]): OutgoingFrame {
  const words = new Uint32Array((records.length * FORK_RECORD_BYTES) / 4);
  records.forEach(({ parent, child, tokens }, i) => {
    words.set([parent.index, parent.generation, child.index, child.generation, tokens], i * 5);
  });
  return frame(FrameType.FORK, { rows: records.length }, [bytesOf(words)]);
}

/** @throws ProtocolError */
export function decodeFork({ payload }: Frame): ForkRecord[] {
  const words = wordsOf(payload);
  const records: ForkRecord[] = [];
  for (let at = 0; at < words.length; at += 5) {
    const tokens = words[at + 4] as number;
    if (tokens > MAX_CONTEXT_TOKENS) throw new ProtocolError('BAD_FIELD', `FORK: ${tokens} tokens`);
    records.push({ parent: slotAt(words, at), child: slotAt(words, at + 2), tokens });
  }
  return records;
}

/** @throws ProtocolError when the index is over the cap. */
export function slotAt(words: Uint32Array, at: number): WireSlot {
  const index = words[at] as number;
  if (index >= MAX_SLOTS) throw new ProtocolError('BAD_SLOT', `slot ${index} of at most ${MAX_SLOTS}`);
  return { index, generation: words[at + 1] as number };
}

function requireZero(what: string, word: number | undefined): void {
  if (word !== 0) throw new ProtocolError('BAD_FIELD', `${what}: a reserved word is not zero`);
}

/** Payloads are 4-byte aligned (frame-reader.ts) and these kinds hold whole words. */
export function wordsOf(payload: Uint8Array): Uint32Array {
  return new Uint32Array(payload.buffer, payload.byteOffset, payload.byteLength / 4);
}

export function bytesOf(view: ArrayBufferView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}
