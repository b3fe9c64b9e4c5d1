/**
 * A micro-batch's attention: each node gets its rows of qkv and writes its piece of the output; the only barrier is this
 * micro-batch's own join, after which the results of contexts that lie in parts are merged. All pieces have settled when it ends,
 * also when one failed, since the buffers are in use until then.
 */
import { type AttentionGeometry, outputRowFloats, qkvRowFloats } from '@glinthawk/core';
import type { DenseBatch } from '@glinthawk/dense';
import { AttentionMerge } from './attention-merge.ts';
import type { SplitRows } from './split-rows.ts';
import type { Segment, StepLayout } from './step-layout.ts';

/** A segment's rows, where they lie in this step. */
interface SegmentRows {
  readonly qkv: Float32Array;
  readonly output: Float32Array;
  readonly logSumExp?: Float32Array;
}

export class Router {
  readonly widths: SplitRows['widths'];
  readonly #merge: AttentionMerge;

  constructor(geometry: AttentionGeometry) {
    const heads = geometry.groupSize * geometry.kvHeads;
    this.widths = { qkv: qkvRowFloats(geometry), output: outputRowFloats(geometry), heads };
    this.#merge = new AttentionMerge(heads, geometry.headDim);
  }

  /**
   * @param split the micro-batch's, with room for the step
   * @param onEnd told of each piece that went through
   * @returns how long the join took, without the time that it waited for what was under way at its nodes before it
   * @throws what the first failed piece was rejected with, after all have settled
   */
  async attend(
    batch: DenseBatch,
    split: SplitRows,
    step: StepLayout & { readonly id: number },
    layer: number,
    onEnd?: (segment: Segment, beganAtMs: number) => void,
  ): Promise<{ readonly ms: number; readonly ownMs: number }> {
    const began = performance.now();
    let queuedMs = 0;
    const rows = step.segments.map((segment) => this.#rowsOf(segment, batch, split));
    const pieces = step.segments.map((segment, i) => {
      const { node } = segment;
      queuedMs = Math.max(queuedMs, node.attends * node.busyPerAttendMs);
      const attending = node.attend(step.id, layer, segment, rows[i] as SegmentRows);
      return onEnd === undefined ? attending : attending.then(() => onEnd(segment, began));
    });
    const results = await Promise.allSettled(pieces);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
    this.#mergeResults(step, rows, batch, split);
    const ms = performance.now() - began;
    return { ms, ownMs: Math.max(0, ms - queuedMs) };
  }

  #rowsOf({ runs, rows, staged }: Segment, batch: DenseBatch, split: SplitRows): SegmentRows {
    const { qkv: width, output: outputWidth, heads } = this.widths;
    const first = runs[0]?.row ?? 0;
    const piece = (floats: Float32Array, row: number, rowFloats: number) =>
      floats.subarray(row * rowFloats, (row + rows) * rowFloats);
    let qkv: Float32Array;
    if (staged.qkv === null) {
      qkv = piece(batch.qkv, first, width);
    } else {
      qkv = piece(split.qkv, staged.qkv, width);
      let at = 0;
      for (const { row, count } of runs) {
        qkv.set(batch.qkv.subarray(row * width, (row + count) * width), at * width);
        at += count;
      }
      split.copiedBytes += qkv.byteLength;
    }
    return {
      qkv,
      output:
        staged.output === null
          ? piece(batch.attended, first, outputWidth)
          : piece(split.output, staged.output, outputWidth),
      ...(staged.logSumExp === null ? {} : { logSumExp: piece(split.logSumExp, staged.logSumExp, heads) }),
    };
  }

  #mergeResults({ merges }: StepLayout, rows: readonly SegmentRows[], batch: DenseBatch, split: SplitRows): void {
    for (const { row, count, from } of merges) {
      const parts = from.map(({ segment, row: at }) => {
        const { output, logSumExp = noLogSumExp } = rows[segment] as SegmentRows;
        return { output, logSumExp, row: at };
      });
      this.#merge.merge(parts, count, batch.attended, row);
      split.copiedBytes += 4 * count * this.widths.output * parts.length;
    }
  }
}

/** Of a segment whose rows each have one part: merging only copies them. */
const noLogSumExp = new Float32Array(0);
