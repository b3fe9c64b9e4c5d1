/**
 * Samples as the engine worker sends them, made up but plausible: micro-batches that go from the dense tier to a node and back,
 * layer by layer, with a latency. For tests and for looking at the views without a worker.
 */
import type { EngineStats } from '@glinthawk/engine';
import type { Sample, TierReport, TierSettings } from '../engine/protocol.ts';
import { SPAN_FIELDS, SpanKind } from '../engine/span.ts';
import type { Stretch } from './figures.ts';

export const STATS: EngineStats = {
  waiting: 0,
  running: 0,
  finished: 0,
  failed: 0,
  promptTokens: 0,
  prefixHitTokens: 0,
  generatedTokens: 0,
  preemptions: 0,
  nodesLost: 0,
  stranded: { sequences: 0, tokens: 0 },
  steps: 0,
  rows: 0,
  inFlight: 1,
  microBatchRows: 16,
  usedBlocks: 0,
  cachedBlocks: 0,
  totalBlocks: 100,
  kvBytes: 0,
  kvCapacityBytes: 100 * 1024,
  kvCapacityTokens: 1600,
  wallMs: 0,
  denseBusyMs: 0,
  attentionBusyMs: 0,
  underWaySinceMs: null,
  headMs: 0,
  samplingMs: 0,
  denseStageMs: 0,
  attentionStageMs: 0,
  bytesSent: 0,
  bytesReceived: 0,
  nodes: [],
};

export const SETTINGS: TierSettings = {
  mode: 'two-tiers',
  dense: 'wasm',
  allowSoftwareGpu: false,
  weightDtype: 'auto',
  workers: 1,
  remotes: [],
  kvDtype: 'f16',
  kvBytes: 64 * 2 ** 20,
  inFlight: 'auto',
  microBatchRows: 'auto',
  latencyMs: 0,
};

export function report(settings: TierSettings = SETTINGS): TierReport {
  return {
    settings,
    dense: { kind: 'wasm', description: 'made up', weightDtype: 'f32', weightBytes: 1 },
    nodes: [{ name: 'worker 1', kind: 'worker' }],
    contextTokens: 512,
    microBatchRows: 16,
    kvCapacityBytes: 1536 * 1600,
    kvCapacityTokens: 1600,
    remarks: [],
  };
}

export function stretchOf(parts: Partial<Stretch> = {}): Stretch {
  return {
    overMs: 200,
    denseMs: 0,
    nodeMs: [],
    hiddenMs: 0,
    exposedMs: 0,
    generatedTokens: 0,
    steps: 0,
    rows: 0,
    preemptions: 0,
    bytesOut: 0,
    bytesIn: 0,
    kvUsedBytes: 0,
    inFlight: 1,
    running: 0,
    contextTokens: 0,
    ...parts,
  };
}

export interface SpanSpec {
  readonly kind?: number;
  readonly microBatch?: number;
  readonly layer?: number;
  readonly node?: number;
  readonly rows?: number;
  readonly sent: number;
  readonly began: number;
  readonly ended: number;
  readonly back?: number;
  readonly bytes?: number;
}

export function spansOf(...specs: readonly SpanSpec[]): Float64Array<ArrayBuffer> {
  const spans = new Float64Array(specs.length * SPAN_FIELDS);
  for (const [i, spec] of specs.entries()) {
    const {
      kind = SpanKind.layer,
      microBatch = 0,
      layer = 0,
      node = -1,
      rows = 16,
      sent,
      began,
      ended,
      bytes = 0,
    } = spec;
    const record = [kind, microBatch, layer, node, rows, sent, began, ended, spec.back ?? ended, bytes];
    spans.set(record, i * SPAN_FIELDS);
  }
  return spans;
}

export function dense(microBatch: number, sent: number, began: number, ended: number): SpanSpec {
  return { microBatch, sent, began, ended };
}

export function attention(
  microBatch: number,
  node: number,
  times: readonly [sent: number, began: number, ended: number, back: number],
): SpanSpec {
  const [sent, began, ended, back] = times;
  return { kind: SpanKind.attention, microBatch, node, sent, began, ended, back, bytes: 4096 };
}

export interface SampleParts extends Partial<Omit<Sample, 'stats' | 'atMs'>> {
  readonly stats?: Partial<EngineStats>;
}

export function sampleAt(atMs: number, parts: SampleParts = {}): Sample {
  return {
    atMs,
    epoch: 'an engine',
    completeUntilMs: atMs,
    tierBytesOut: 0,
    tierBytesIn: 0,
    spans: new Float64Array(0),
    droppedSpans: 0,
    residents: [],
    nodes: [{ name: 'worker 1', connected: true, usedBlocks: 0, blocks: 100, blockBytes: 1024, blockTokens: 16 }],
    ...parts,
    stats: { ...STATS, ...parts.stats },
  };
}

/** A pipeline's spans over [from, to): `inFlight` micro-batches, a dense tier that works on one at a time, nodes at a distance. */
export class Pipeline {
  readonly #inFlight: number;
  readonly #nodes: number;
  readonly #latencyMs: number;
  readonly #denseMs: number;
  /** When each micro-batch is ready for its next dense call, and which layer that leads to. */
  readonly #ready: { atMs: number; layer: number }[];
  #denseFreeMs = 0;

  constructor(options: { inFlight: number; nodes: number; latencyMs: number; denseMs: number }) {
    this.#inFlight = options.inFlight;
    this.#nodes = options.nodes;
    this.#latencyMs = options.latencyMs;
    this.#denseMs = options.denseMs;
    this.#ready = Array.from({ length: this.#inFlight }, () => ({ atMs: 0, layer: 0 }));
  }

  until(toMs: number): readonly SpanSpec[] {
    const specs: SpanSpec[] = [];
    for (;;) {
      const next = this.#ready.reduce((best, each, i) => (each.atMs < (this.#ready[best]?.atMs ?? 0) ? i : best), 0);
      const state = this.#ready[next];
      if (state === undefined) return specs;
      const began = Math.max(state.atMs, this.#denseFreeMs);
      if (began >= toMs) return specs;
      const ended = began + this.#denseMs;
      this.#denseFreeMs = ended;
      specs.push(dense(next, state.atMs, began, ended));
      const half = this.#latencyMs / 2;
      const times = [ended, ended + half, ended + half + 0.3, ended + 2 * half + 0.3] as const;
      specs.push(attention(next, next % this.#nodes, times));
      state.atMs = times[3];
      state.layer++;
    }
  }
}
