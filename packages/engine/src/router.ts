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
 * @returns how long it took, and whether every node had nothing else under way when it began
 * @throws what the first failed piece was rejected with, after all have settled
 */
export async function attendAll(
  batch: DenseBatch,
  stepId: number,
  layer: number,
  segments: readonly Segment[],
  widths: RowWidths,
): Promise<{ readonly ms: number; readonly undisturbed: boolean }> {
  const began = performance.now();
  let undisturbed = true;
  const pieces = segments.map(async ({ node, startRow, rows, kvTokens }) => {
    const alone = node.attends === 0;
    if (!alone) undisturbed = false;
    const end = startRow + rows;
    const qkv = batch.qkv.subarray(startRow * widths.qkv, end * widths.qkv);
    const output = batch.attended.subarray(startRow * widths.output, end * widths.output);
    await node.attend(stepId, layer, rows, qkv, output);
    if (alone) node.speed.add(kvTokens, performance.now() - began - node.backend.stats().roundTripMs);
  });
  const results = await Promise.allSettled(pieces);
  for (const result of results) if (result.status === 'rejected') throw result.reason;
  return { ms: performance.now() - began, undisturbed };
}
