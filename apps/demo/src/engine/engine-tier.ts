/**
 * An engine over a dense tier that is open, with its attention nodes connected and watched. Lives as long as its settings do; the
 * dense tier and the model are its owner's.
 */
import { attentionKernelInfo } from '@glinthawk/attention';
import { type Logger, NodeLostError, toError } from '@glinthawk/core';
import type { DenseBackend } from '@glinthawk/dense';
import { createEngine, type EngineApi } from '@glinthawk/engine';
import type { Model } from '@glinthawk/model';
import { type AttentionPlace, attentionPlaces } from './attention-places.ts';
import { Delays } from './delay.ts';
import { type Latency, ObservedSource } from './observed-source.ts';
import type { NodeReport, NodeSample, Resident, Sample, TierReport, TierSettings } from './protocol.ts';
import { SpanRecorder } from './span-recorder.ts';

/**
 * Local workers answer within milliseconds, and the slowest honest answer, a prefill chunk of PREFILL_CHUNK rows over a long context
 * queued behind others or sent over a slow line, within a few seconds. A worker that ends silently is noticed by nothing else
 * where memory is shared, and a visitor who sees nothing move for longer than this leaves; taking a slow node for a lost one
 * only costs another prefill.
 */
export const ATTEND_TIMEOUT_MS = 10_000;
/** Shorter than a server's: stop, latency and samples are looked at between layers, and a layer should not take long. */
const PREFILL_CHUNK = 256;

export interface EngineTierOptions {
  readonly latency: Latency;
  readonly logger: Logger;
  readonly signal: AbortSignal;
  readonly attendTimeoutMs?: number;
  /** Default: what this page has. */
  readonly sharedMemory?: boolean;
}

export class EngineTier {
  readonly engine: EngineApi;
  readonly settings: TierSettings;
  readonly nodes: readonly NodeReport[];
  readonly #dense: DenseBackend;
  readonly #places: readonly AttentionPlace[];
  readonly #sources: readonly ObservedSource[];
  readonly #recorder: SpanRecorder;
  readonly #delays: Delays;
  readonly #remarks: readonly string[];
  readonly #epoch = randomId();

  /** @throws InputError, CapacityError, ProtocolError when a node refuses, NodeLostError when none can be reached, AbortedError */
  static async open(
    model: Model,
    dense: DenseBackend,
    settings: TierSettings,
    options: EngineTierOptions,
  ): Promise<EngineTier> {
    const { latency, logger, signal } = options;
    const sharedMemory = options.sharedMemory ?? attentionKernelInfo().sharedMemory;
    const places = attentionPlaces(settings, { sharedMemory, logger });
    const delays = new Delays();
    const none: Latency = { ms: 0 };
    const oneTier = settings.mode === 'one-tier';
    const sources = places.map(({ source }) => new ObservedSource(source, oneTier ? none : latency, delays));
    const recorder = new SpanRecorder(
      model.config.layers,
      sources.map(({ times }) => times),
    );
    const unreachable = new AbortController();
    const allFailed = Promise.all(sources.map((source) => source.firstAttempt.then(() => null, toError)));
    void allFailed.then((failures) => {
      // The engine waits for nodes, so that one worker's end ends nothing; but what was never there is not waited for.
      if (failures.every((error) => error instanceof NodeLostError)) unreachable.abort(failures[0]);
    });
    try {
      const engine = await createEngine({
        dense,
        attention: sources,
        kvDtype: settings.kvDtype,
        fingerprint: model.fingerprint,
        ...(model.tokenizer === null ? {} : { tokenizer: model.tokenizer }),
        inFlight: oneTier ? 1 : settings.inFlight,
        microBatchRows: settings.microBatchRows,
        prefillChunk: PREFILL_CHUNK,
        waitForNodes: true,
        attendTimeoutMs: options.attendTimeoutMs ?? ATTEND_TIMEOUT_MS,
        logger,
        observer: recorder,
        signal: AbortSignal.any([signal, unreachable.signal]),
      });
      const remarks = remarksOn(settings, sharedMemory);
      return new EngineTier(engine, dense, settings, places, sources, recorder, delays, remarks);
    } catch (thrown) {
      for (const place of places) place.destroy();
      delays.close();
      throw unreachable.signal.aborted && !signal.aborted ? unreachable.signal.reason : thrown;
    }
  }

  private constructor(
    engine: EngineApi,
    dense: DenseBackend,
    settings: TierSettings,
    places: readonly AttentionPlace[],
    sources: readonly ObservedSource[],
    recorder: SpanRecorder,
    delays: Delays,
    remarks: readonly string[],
  ) {
    this.engine = engine;
    this.settings = settings;
    this.nodes = places.map(({ source, kind }) => ({ name: source.name, kind }));
    this.#dense = dense;
    this.#places = places;
    this.#sources = sources;
    this.#recorder = recorder;
    this.#delays = delays;
    this.#remarks = remarks;
  }

  report(): TierReport {
    const { kind, description, weightDtype, weightBytes } = this.#dense.info;
    const { microBatchRows, kvCapacityBytes, kvCapacityTokens } = this.engine.stats();
    return {
      settings: this.settings,
      dense: { kind, description, weightDtype, weightBytes },
      nodes: this.nodes,
      contextTokens: this.engine.contextTokens,
      microBatchRows,
      kvCapacityBytes,
      kvCapacityTokens,
      remarks: this.#remarks,
    };
  }

  /** What happened since this was last called. */
  sample(): Sample {
    const atMs = performance.now();
    const stats = this.engine.stats();
    const { spans, dropped } = this.#recorder.take();
    return {
      atMs,
      epoch: this.#epoch,
      completeUntilMs: Math.min(atMs, stats.underWaySinceMs ?? atMs),
      stats,
      tierBytesOut: this.#sources.reduce((sum, { bytesOut }) => sum + bytesOut, 0),
      tierBytesIn: this.#sources.reduce((sum, { bytesIn }) => sum + bytesIn, 0),
      spans,
      droppedSpans: dropped,
      residents: this.#residents(),
      nodes: stats.nodes.map((node, index): NodeSample => {
        const capacity = this.#sources[index]?.capacity ?? null;
        return { ...node, blockBytes: capacity?.blockBytes ?? 0, blockTokens: capacity?.blockTokens ?? 0 };
      }),
    };
  }

  /** One a sequence and node, whatever parts of it lie there. */
  #residents(): readonly Resident[] {
    const residents = new Map<string, Resident>();
    for (const { requestId: id, node, blocks, tokens } of this.engine.residents()) {
      const key = `${node} ${id}`;
      const part = residents.get(key);
      residents.set(key, { id, node, blocks: blocks + (part?.blocks ?? 0), tokens: tokens + (part?.tokens ?? 0) });
    }
    return [...residents.values()];
  }

  async close(): Promise<void> {
    try {
      await this.engine.close();
    } finally {
      for (const place of this.#places) place.destroy();
      this.#delays.close();
    }
  }
}

/** crypto.randomUUID() is for secure contexts only. */
function randomId(): string {
  return crypto.getRandomValues(new Uint32Array(4)).join('-');
}

function remarksOn(settings: TierSettings, sharedMemory: boolean): readonly string[] {
  const remarks: string[] = [];
  if (!sharedMemory && settings.dense === 'wasm') {
    remarks.push(
      'This page has no shared memory (it is not cross-origin isolated): the WASM dense tier has one thread.',
    );
  }
  if (!sharedMemory && settings.mode === 'two-tiers' && settings.workers > 0) {
    remarks.push('This page has no shared memory: q, k, v and o travel to the attention workers in messages.');
  }
  return remarks;
}
