/**
 * STEP and RETIRE: a micro-batch's rows are announced once; the frames of its layers then only name the step. Rows lie in q, k, v
 * and o in the order of the entries.
 */
import { ProtocolError } from '@glinthawk/core';
import { type Frame, frame, type OutgoingFrame } from './frame.ts';
import { FrameType, STEP_ENTRY_BYTES } from './frame-type.ts';
import { MAX_CONTEXT_TOKENS } from './limits.ts';
import { bytesOf, slotAt, type WireSlot, wordsOf } from './slot-frames.ts';

/** `count` rows of one slot at `position`, `position + 1`, …; with `visit` they look at the slot, and nothing of theirs is stored. */
export interface WireStepEntry {
  readonly slot: WireSlot;
  readonly position: number;
  readonly count: number;
  readonly visit?: boolean;
}

/** Of an entry's flags word; the other bits are zero. */
const ENTRY_VISIT = 1;

export interface WireStep {
  readonly id: number;
  readonly entries: readonly WireStepEntry[];
}

export function stepRows(entries: readonly WireStepEntry[]): number {
  let rows = 0;
  for (const entry of entries) rows += entry.count;
  return rows;
}

export function stepFrame(step: WireStep): OutgoingFrame {
  const words = new Uint32Array((step.entries.length * STEP_ENTRY_BYTES) / 4);
  let at = 0;
  for (const { slot, position, count, visit = false } of step.entries) {
    words[at++] = slot.index;
    words[at++] = slot.generation;
    words[at++] = position;
    words[at++] = count;
    words[at++] = visit ? ENTRY_VISIT : 0;
  }
  return frame(FrameType.STEP, { id: step.id, rows: stepRows(step.entries) }, [bytesOf(words)]);
}

/** @throws ProtocolError when an entry is empty, has unknown flags, passes the context cap, or the header's rows aren't the entries' sum. */
export function decodeStep({ header, payload }: Frame): WireStep {
  const words = wordsOf(payload);
  const entries: WireStepEntry[] = [];
  let rows = 0;
  for (let at = 0; at < words.length; at += 5) {
    const position = words[at + 2] as number;
    const count = words[at + 3] as number;
    if (count === 0) throw new ProtocolError('BAD_STEP', 'STEP: an entry without rows');
    if (position + count > MAX_CONTEXT_TOKENS)
      throw new ProtocolError('BAD_STEP', `STEP: position ${position + count}`);
    const flags = words[at + 4] as number;
    if ((flags & ~ENTRY_VISIT) !== 0) {
      throw new ProtocolError('BAD_FIELD', `STEP: flags 0x${flags.toString(16)} of an entry are not allowed`);
    }
    const entry = { slot: slotAt(words, at), position, count };
    entries.push(flags === ENTRY_VISIT ? { ...entry, visit: true } : entry);
    rows += count;
  }
  if (rows !== header.rows) {
    throw new ProtocolError('ROWS_MISMATCH', `STEP: the header says ${header.rows} rows, its entries have ${rows}`);
  }
  return { id: header.id, entries };
}

export function retireFrame(id: number): OutgoingFrame {
  return frame(FrameType.RETIRE, { id });
}
