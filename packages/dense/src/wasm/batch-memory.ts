/**
 * The activations of one micro-batch: one block of memory that the caller's thread and all workers view alike. Where memory can't
 * be shared each side has a block of its own, and messages carry the sections that the other side needs.
 */
import { HEAD_CANDIDATES } from '../backend.ts';
import { PANEL_SUMS } from './candidates.ts';
import { panelCount } from './partition.ts';

export interface BatchShape {
  readonly maxRows: number;
  readonly maxHeadRows: number;
  readonly workers: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly headDim: number;
  /** Heads of q, and of q, k and v together. */
  readonly heads: number;
  readonly qkvHeads: number;
  readonly vocabSize: number;
}

/** Sections start on cache lines, so that two workers' writes to different sections never share one. */
const ALIGNMENT = 64;

const align = (bytes: number) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

function layout(shape: BatchShape) {
  const { maxRows, maxHeadRows, workers } = shape;
  const panels = panelCount(shape.vocabSize);
  let end = 0;
  const section = (elements: number, bytesEach = 4) => {
    const at = end;
    end += align(elements * bytesEach);
    return { at, elements };
  };
  return {
    panels,
    arrived: section(1),
    residual: section(maxRows * shape.hiddenSize),
    rope: section(maxRows * shape.headDim),
    qkv: section(maxRows * shape.qkvHeads * shape.headDim),
    attended: section(maxRows * shape.heads * shape.headDim),
    activated: section(maxRows * shape.intermediateSize),
    headRows: section(maxHeadRows),
    inverseTemperatures: section(maxHeadRows),
    logits: section(maxHeadRows * shape.vocabSize),
    panelSums: section(maxHeadRows * panels * PANEL_SUMS, 8),
    candidateCounts: section(maxHeadRows * workers),
    candidateIds: section(maxHeadRows * workers * HEAD_CANDIDATES),
    candidateLogits: section(maxHeadRows * workers * HEAD_CANDIDATES),
    bytes: end,
  };
}

export function batchMemoryBytes(shape: BatchShape): number {
  return layout(shape).bytes;
}

export class BatchMemory {
  readonly shape: BatchShape;
  readonly panels: number;
  readonly bytes: number;
  /** Workers that have finished the stage under way. */
  readonly arrived: Int32Array; // [1]
  readonly residual: Float32Array; // [maxRows, hidden]
  readonly rope: Float32Array; // [maxRows, cos | sin, headDim / 2]
  readonly qkv: Float32Array; // [maxRows, qkvHeads · headDim]
  readonly attended: Float32Array; // [maxRows, heads · headDim]
  readonly activated: Float32Array; // [maxRows, intermediate]
  readonly headRows: Uint32Array; // [maxHeadRows]
  readonly inverseTemperatures: Float32Array; // [maxHeadRows]
  readonly logits: Float32Array; // [maxHeadRows, vocab]
  readonly panelSums: Float64Array; // [maxHeadRows, panels, 3]
  readonly candidateCounts: Uint32Array; // [maxHeadRows, workers]
  readonly candidateIds: Uint32Array; // [maxHeadRows, workers, HEAD_CANDIDATES]
  readonly candidateLogits: Float32Array; // [maxHeadRows, workers, HEAD_CANDIDATES]

  /** @param buffer of `batchMemoryBytes(shape)`, zeroed */
  constructor(shape: BatchShape, buffer: ArrayBufferLike) {
    const at = layout(shape);
    this.shape = shape;
    this.panels = at.panels;
    this.bytes = at.bytes;
    this.arrived = new Int32Array(buffer, at.arrived.at, 1);
    this.residual = new Float32Array(buffer, at.residual.at, at.residual.elements);
    this.rope = new Float32Array(buffer, at.rope.at, at.rope.elements);
    this.qkv = new Float32Array(buffer, at.qkv.at, at.qkv.elements);
    this.attended = new Float32Array(buffer, at.attended.at, at.attended.elements);
    this.activated = new Float32Array(buffer, at.activated.at, at.activated.elements);
    this.headRows = new Uint32Array(buffer, at.headRows.at, at.headRows.elements);
    this.inverseTemperatures = new Float32Array(buffer, at.inverseTemperatures.at, at.inverseTemperatures.elements);
    this.logits = new Float32Array(buffer, at.logits.at, at.logits.elements);
    this.panelSums = new Float64Array(buffer, at.panelSums.at, at.panelSums.elements);
    this.candidateCounts = new Uint32Array(buffer, at.candidateCounts.at, at.candidateCounts.elements);
    this.candidateIds = new Uint32Array(buffer, at.candidateIds.at, at.candidateIds.elements);
    this.candidateLogits = new Float32Array(buffer, at.candidateLogits.at, at.candidateLogits.elements);
  }

  /** What a worker without shared memory is sent before a stage. */
  inputs(stage: StageName, rows: number, headRows: number): Sections {
    const { hiddenSize, headDim, heads } = this.shape;
    switch (stage) {
      case 'begin':
        return { residual: this.residual.slice(0, rows * hiddenSize), rope: this.rope.slice(0, rows * headDim) };
      case 'advance':
        return { attended: this.attended.slice(0, rows * heads * headDim) };
      case 'finish':
        return {
          attended: this.attended.slice(0, rows * heads * headDim),
          headRows: this.headRows.slice(0, headRows),
          inverseTemperatures: this.inverseTemperatures.slice(0, headRows),
        };
      default:
        return stage satisfies never;
    }
  }

  /** What it sends back. */
  outputs(stage: StageName, rows: number, headRows: number): Sections {
    const { qkvHeads, headDim, vocabSize, workers } = this.shape;
    switch (stage) {
      case 'begin':
      case 'advance':
        return { qkv: this.qkv.slice(0, rows * qkvHeads * headDim) };
      case 'finish':
        return {
          logits: this.logits.slice(0, headRows * vocabSize),
          panelSums: this.panelSums.slice(0, headRows * this.panels * PANEL_SUMS),
          candidateCounts: this.candidateCounts.slice(0, headRows * workers),
          candidateIds: this.candidateIds.slice(0, headRows * workers * HEAD_CANDIDATES),
          candidateLogits: this.candidateLogits.slice(0, headRows * workers * HEAD_CANDIDATES),
        };
      default:
        return stage satisfies never;
    }
  }

  /** Takes sections that the other side sent. */
  accept(sections: Sections): void {
    for (const name of SECTION_NAMES) {
      const values = sections[name];
      if (values !== undefined) this[name].set(values);
    }
  }
}

export type StageName = 'begin' | 'advance' | 'finish';

const SECTION_NAMES = [
  'residual',
  'rope',
  'qkv',
  'attended',
  'headRows',
  'inverseTemperatures',
  'logits',
  'panelSums',
  'candidateCounts',
  'candidateIds',
  'candidateLogits',
] as const;

export type Sections = {
  readonly [name in (typeof SECTION_NAMES)[number]]?: Float32Array | Float64Array | Uint32Array;
};

/** For postMessage: `slice` of a shared array is shared no longer, so each section's buffer may be handed over. */
export function transferList(sections: Sections): ArrayBuffer[] {
  return Object.values(sections).flatMap((values) => (values.buffer instanceof ArrayBuffer ? [values.buffer] : []));
}
