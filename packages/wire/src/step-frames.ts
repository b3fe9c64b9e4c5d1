/**
 * STEP and RETIRE: a micro-batch's rows are announced once; the frames of its layers then only name the step. Rows lie in q, k, v
 * and o in the order of the entries.
 */
import { ProtocolError } from '@glinthawk/core';
import { type Frame, frame, type OutgoingFrame } from './frame.ts';
import { FrameType, STEP_ENTRY_BYTES } from './frame-type.ts';
import { MAX_CONTEXT_TOKENS } from './limits.ts';
import { bytesOf, slotAt, type WireSlot, wordsOf } from './slot-frames.ts';

/** `count` rows of one slot at `position`, `position + 1`, … */
export interface WireStepEntry {
  readonly slot: WireSlot;
  readonly position: number;
  readonly count: number;
}

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
  for (const { slot, position, count } of step.entries) {
    words[at++] = slot.index;
    words[at++] = slot.generation;
    words[at++] = position;
    words[at++] = count;
  }
  return frame(FrameType.STEP, { id: step.id, rows: stepRows(step.entries) }, [bytesOf(words)]);
}

/** @throws ProtocolError when an entry is empty, passes the context cap, or the header's rows aren't the entries' sum. */
export function decodeStep({ header, payload }: Frame): WireStep {
  const words = wordsOf(payload);
  const entries: WireStepEntry[] = [];
  let rows = 0;
  for (let at = 0; at < words.length; at += 4) {
    const position = words[at + 2] as number;
    const count = words[at + 3] as number;
    if (count === 0) throw new ProtocolError('BAD_STEP', 'STEP: an entry without rows');
    if (position + count > MAX_CONTEXT_TOKENS)
      throw new ProtocolError('BAD_STEP', `STEP: position ${position + count}`);
    entries.push({ slot: slotAt(words, at), position, count });
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
