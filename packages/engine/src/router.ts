/**
 * A micro-batch's attention: each node gets its contiguous piece of qkv and writes its piece of the output; the only barrier is
 * this micro-batch's own join. All pieces have settled when it ends, also when one failed, since the buffers are in use until then.
 */
import type { DenseBatch } from '@glinthawk/dense';
import type { Segment } from './lane.ts';

export interface RowWidths {
  /** Floats of one row that go out and that come back. */
  readonly qkv: number;
  readonly output: number;
}

/**
 * @param onEnd told of each piece that went through
 * @returns how long the join took, without the time that it waited for what was under way at its nodes before it
 * @throws what the first failed piece was rejected with, after all have settled
 */
export async function attendAll(
  batch: DenseBatch,
  stepId: number,
  layer: number,
  segments: readonly Segment[],
  widths: RowWidths,
  onEnd?: (segment: Segment, beganAtMs: number) => void,
): Promise<{ readonly ms: number; readonly ownMs: number }> {
  const began = performance.now();
  let queuedMs = 0;
  const pieces = segments.map((segment) => {
    const { node, startRow, rows } = segment;
    queuedMs = Math.max(queuedMs, node.attends * node.busyPerAttendMs);
    const end = startRow + rows;
    const qkv = batch.qkv.subarray(startRow * widths.qkv, end * widths.qkv);
    const output = batch.attended.subarray(startRow * widths.output, end * widths.output);
    const attending = node.attend(stepId, layer, segment, qkv, output);
    return onEnd === undefined ? attending : attending.then(() => onEnd(segment, began));
  });
  const results = await Promise.allSettled(pieces);
  for (const result of results) if (result.status === 'rejected') throw result.reason;
  const ms = performance.now() - began;
  return { ms, ownMs: Math.max(0, ms - queuedMs) };
}
