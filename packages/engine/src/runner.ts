/**
 * The loops that move micro-batches: compose a step, take it through every layer by way of both tiers, sample, settle, again. One
 * loop a micro-batch; they meet only in the dense tier's queue and at the attention nodes.
 */
import {
  AbortedError,
  type AttentionGeometry,
  CapacityError,
  GlinthawkError,
  type Logger,
  NodeLostError,
  toError,
} from '@glinthawk/core';
import type { DenseBackend, DenseBatch, HeadRow } from '@glinthawk/dense';
import type { AttentionTier } from './attention-tier.ts';
import { Breather } from './breather.ts';
import type { EngineObserver } from './engine-api.ts';
import { Lane, type LaneStep } from './lane.ts';
import { BusyMeter } from './meters.ts';
import { NodeFullError } from './node-connection.ts';
import { uniform } from './rng.ts';
import { Router } from './router.ts';
import {
  changesLogits,
  isFiniteRow,
  isGreedy,
  logprobsOf,
  sampleCandidates,
  sampleFull,
  samplePenalised,
} from './sampler.ts';
import type { Batcher } from './scheduler/batcher.ts';
import { type InFlight, MOST_COUNTED_SEQUENCES } from './scheduler/in-flight.ts';
import type { RowBudget } from './scheduler/policy.ts';
import type { StageQueue } from './scheduler/stage-queue.ts';
import type { Sequence } from './sequence.ts';
import type { Segment } from './step-layout.ts';

/** Steps after which the nodes' own accounts are looked at, and in-flight may change. */
const STEPS_BETWEEN_MEASURES = 8;

export interface RunnerOptions {
  readonly dense: DenseBackend;
  readonly geometry: AttentionGeometry;
  readonly tier: AttentionTier;
  readonly batcher: Batcher;
  readonly queue: StageQueue;
  readonly inFlight: InFlight;
  readonly budget: RowBudget;
  readonly logger: Logger;
  readonly observer: EngineObserver | undefined;
  /** Nothing can go on: the dense device is lost, or something broke that should not. */
  readonly onFatal: (error: Error) => void;
}

/** Sums over all steps. */
export interface RunnerTotals {
  steps: number;
  rows: number;
  promptTokens: number;
  generatedTokens: number;
  finished: number;
  failed: number;
  denseStageMs: number;
  attentionStageMs: number;
  headMs: number;
  samplingMs: number;
}

/** A step went through to its tokens; or was abandoned, because a node was lost or nobody wants it; or a node had no room. */
type StepOutcome = 'done' | 'abandoned' | NodeFullError;

export class Runner {
  readonly totals: RunnerTotals = {
    steps: 0,
    rows: 0,
    promptTokens: 0,
    generatedTokens: 0,
    finished: 0,
    failed: 0,
    denseStageMs: 0,
    attentionStageMs: 0,
    headMs: 0,
    samplingMs: 0,
  };
  readonly denseBusy = new BusyMeter();
  readonly attentionBusy = new BusyMeter();
  /** Time from each first step to the moment when nothing was left to do. */
  readonly wall = new BusyMeter();
  readonly #options: RunnerOptions;
  readonly #router: Router;
  readonly #lanes: Lane[] = [];
  readonly #loops = new Set<Promise<void>>();
  readonly #breather = new Breather();
  #denseCalls = 0;
  #measured = { steps: 0, denseBusyMs: 0, denseCalls: 0 };
  #scheduled = false;
  #stopped = false;

  constructor(options: RunnerOptions) {
    this.#options = options;
    this.#router = new Router(options.geometry);
  }

  /** Wakes idle micro-batches, once for however many reasons there were in this turn. */
  schedule(): void {
    if (this.#scheduled || this.#stopped) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.#startIdle();
    });
  }

  /** As of EngineStats. */
  get underWaySinceMs(): number | null {
    let earliest: number | null = null;
    for (const { callSinceMs } of this.#lanes) {
      if (callSinceMs !== null) earliest = Math.min(earliest ?? callSinceMs, callSinceMs);
    }
    return earliest;
  }

  /** No further step begins; those under way end at their next layer. */
  stop(): void {
    this.#stopped = true;
  }

  /** Resolves when no loop is running. */
  async idle(): Promise<void> {
    await Promise.all(this.#loops);
  }

  destroy(): void {
    for (const lane of this.#lanes) {
      lane.batch?.destroy();
      lane.batch = null;
      lane.split.destroy();
    }
  }

  #startIdle(): void {
    const { inFlight, batcher, budget } = this.#options;
    if (this.#stopped) return;
    while (this.#lanes.length < inFlight.current) {
      const lane = new Lane(this.#lanes.length, budget.rows, budget.headRows, this.#router.widths);
      this.#lanes.push(lane);
      batcher.addLane(lane);
    }
    // Where nodes take fewer steps than there are micro-batches, these take turns.
    const longestIdleFirst = this.#lanes.toSorted((a, b) => a.lastStep - b.lastStep);
    for (const lane of longestIdleFirst) {
      if (lane.running || (batcher.waiting === 0 && lane.sequences.length === 0)) continue;
      lane.running = true;
      const loop = this.#run(lane)
        .catch((thrown: unknown) => {
          lane.running = false;
          this.#options.onFatal(toError(thrown));
        })
        .finally(() => this.#loops.delete(loop));
      this.#loops.add(loop);
    }
  }

  async #run(lane: Lane): Promise<void> {
    const { batcher } = this.#options;
    for (;;) {
      // What makes this null calls schedule() when it changes; nothing may be awaited between here and `running = false`.
      const step = this.#stopped ? null : batcher.compose(lane);
      if (step === null) {
        lane.running = false;
        return;
      }
      let outcome: StepOutcome = 'abandoned';
      this.wall.begin(performance.now());
      try {
        const batch = await this.#batchOf(lane);
        if (batch !== null) outcome = await this.#step(lane, batch, step);
      } finally {
        this.wall.end(performance.now());
        batcher.settle(lane, step, outcome === 'done');
      }
      if (outcome instanceof NodeFullError) {
        this.#options.logger.debug(`${outcome.connection.backend.name} is full`, { reason: outcome.message });
        batcher.refused(step, outcome);
      }
      if (this.totals.steps - this.#measured.steps >= STEPS_BETWEEN_MEASURES) this.#measure();
      await this.#breather.breathe();
    }
  }

  /** The micro-batch's own place on the device; null when there is no room for so many. */
  async #batchOf(lane: Lane): Promise<DenseBatch | null> {
    if (lane.batch !== null) return lane.batch;
    const { dense, budget, inFlight, logger } = this.#options;
    try {
      lane.batch = await dense.createBatch({ maxRows: budget.rows, maxHeadRows: budget.headRows });
      return lane.batch;
    } catch (thrown) {
      if (lane.index === 0 || !(thrown instanceof CapacityError)) throw thrown;
      logger.warn(`room for ${lane.index} micro-batches in flight only`, { reason: thrown.message });
      inFlight.limit(lane.index);
      return null;
    }
  }

  async #step(lane: Lane, batch: DenseBatch, step: LaneStep): Promise<StepOutcome> {
    const { layers } = this.#options.geometry;
    try {
      for (const { node, entries } of step.segments) node.announce(step.id, entries);
      await this.#dense(lane, step, 0, () => batch.begin(step.dense));
      for (let layer = 0; layer < layers; layer++) {
        await this.#attend(lane, batch, step, layer);
        if (this.#stopped || step.entries.every(({ sequence }) => sequence.ended)) return 'abandoned';
        if (layer < layers - 1) await this.#dense(lane, step, layer + 1, () => batch.advance(layer));
      }
      // A step of unfinished prompts has done its work when its last keys and values are stored.
      if (step.heads.length > 0) {
        const rows = await this.#dense(lane, step, layers, async () => {
          const began = performance.now();
          const heads = await batch.finish();
          this.totals.headMs += performance.now() - began;
          return heads;
        });
        await this.#sample(lane, batch, step, rows);
      }
      this.#count(step);
      return 'done';
    } catch (thrown) {
      if (thrown instanceof NodeLostError || thrown instanceof AbortedError) return 'abandoned';
      if (thrown instanceof NodeFullError) return thrown;
      throw thrown;
    } finally {
      for (const { node } of step.segments) node.retire(step.id);
    }
  }

  async #dense<T>(lane: Lane, step: LaneStep, depth: number, call: () => Promise<T>): Promise<T> {
    const { queue, observer } = this.#options;
    const queuedAtMs = performance.now();
    return queue.run({ depth, outstandingRows: () => lane.outstandingRows() }, async () => {
      const beganAtMs = performance.now();
      this.denseBusy.begin(beganAtMs);
      lane.callSinceMs = beganAtMs;
      let endedAtMs = beganAtMs;
      let result: T;
      try {
        result = await call();
      } finally {
        endedAtMs = performance.now();
        this.denseBusy.end(endedAtMs);
        lane.callSinceMs = null;
        this.totals.denseStageMs += endedAtMs - beganAtMs;
        this.#denseCalls++;
      }
      const { id: stepId, rows } = step;
      observer?.onDense?.({ microBatch: lane.index, stepId, layer: depth, rows, queuedAtMs, beganAtMs, endedAtMs });
      return result;
    });
  }

  async #attend(lane: Lane, batch: DenseBatch, step: LaneStep, layer: number): Promise<void> {
    const onEnd = this.#attentionObserver(lane, step, layer);
    const beganAtMs = performance.now();
    this.attentionBusy.begin(beganAtMs);
    lane.callSinceMs = beganAtMs;
    try {
      const { ms, ownMs } = await this.#router.attend(batch, lane.split, step, layer, onEnd);
      this.totals.attentionStageMs += ms;
      this.#options.inFlight.addAttention(ownMs);
    } finally {
      this.attentionBusy.end(performance.now());
      lane.callSinceMs = null;
    }
  }

  #attentionObserver(lane: Lane, step: LaneStep, layer: number) {
    const { observer } = this.#options;
    if (observer?.onAttention === undefined) return undefined;
    return ({ node, rows, kvTokens }: Segment, beganAtMs: number) =>
      observer.onAttention?.({
        microBatch: lane.index,
        stepId: step.id,
        layer,
        node: node.index,
        rows,
        kvTokens,
        beganAtMs,
        endedAtMs: performance.now(),
      });
  }

  /** First what the candidates decide, then, one by one, what needs all of a row's logits. */
  async #sample(lane: Lane, batch: DenseBatch, step: LaneStep, rows: readonly HeadRow[]): Promise<void> {
    const undecided: number[] = [];
    let began = performance.now();
    for (const [i, { sequence }] of step.heads.entries()) {
      if (sequence.ended) continue;
      const row = rows[i];
      if (row === undefined)
        throw new GlinthawkError('HEAD_ROWS', `${rows.length} head rows, expected ${step.heads.length}`);
      if (!isFiniteRow(row)) {
        this.#failNonFinite(sequence);
        continue;
      }
      const { sampling } = sequence.request;
      const { vocabSize } = this.#options.dense.config;
      const token = changesLogits(sampling) ? null : sampleCandidates(row, sampling, vocabSize, drawOf(sequence));
      if (token === null) undecided.push(i);
      else this.#deliver(sequence, row, token);
    }
    this.totals.samplingMs += performance.now() - began;
    for (const i of undecided) {
      const sequence = step.heads[i]?.sequence;
      const row = rows[i];
      if (sequence === undefined || row === undefined || sequence.ended) continue;
      const logits = await this.#dense(lane, step, this.#options.geometry.layers + 1, () => batch.logits(i));
      if (sequence.ended) continue;
      began = performance.now();
      const { sampling } = sequence.request;
      const draw = drawOf(sequence);
      const token = changesLogits(sampling)
        ? samplePenalised(logits, sequence, sampling, draw)
        : sampleFull(row, logits, sampling, draw);
      if (token === null) this.#failNonFinite(sequence);
      else this.#deliver(sequence, row, token, logits);
      this.totals.samplingMs += performance.now() - began;
    }
  }

  #deliver(sequence: Sequence, row: HeadRow, token: number, logits?: Float32Array): void {
    const { topLogprobs } = sequence.request;
    const logprobs = topLogprobs === null ? null : logprobsOf(row, token, topLogprobs, logits?.[token]);
    for (const event of sequence.accept(token, logprobs)) sequence.job.push(event);
    this.totals.generatedTokens++;
    if (sequence.ended) this.totals.finished++;
  }

  #failNonFinite(sequence: Sequence): void {
    const message = `the logits after ${sequence.length} tokens are not finite numbers`;
    const hint = 'try f32 weights and f32 KV; `glinthawk doctor` checks the weights';
    this.fail(sequence, new GlinthawkError('NON_FINITE_LOGITS', message, { hint }));
  }

  /** Ends one request with an error event; the others go on. */
  fail(sequence: Sequence, error: GlinthawkError): void {
    sequence.ended = true;
    sequence.failed = true;
    this.totals.failed++;
    sequence.job.push({ type: 'error', id: sequence.request.id, error });
  }

  #count(step: LaneStep): void {
    this.totals.steps++;
    this.totals.rows += step.rows;
    for (const { sequence, position, count } of step.entries) {
      // What is prefilled again after a preemption or loss isn't counted twice.
      const before = sequence.prefilledTokens;
      sequence.prefilledTokens = Math.max(before, Math.min(sequence.promptTokens, position + count));
      this.totals.promptTokens += sequence.prefilledTokens - before;
    }
  }

  #measure(): void {
    const { tier, inFlight, batcher, budget, logger } = this.#options;
    let attentionMs = 0;
    for (const node of tier.connected) {
      node.measure();
      attentionMs = Math.max(attentionMs, node.busyPerAttendMs);
    }
    const denseBusyMs = this.denseBusy.totalMs(performance.now());
    const denseMs = (denseBusyMs - this.#measured.denseBusyMs) / (this.#denseCalls - this.#measured.denseCalls);
    this.#measured = { steps: this.totals.steps, denseBusyMs, denseCalls: this.#denseCalls };
    const sequences = () => batcher.running + batcher.placeable(MOST_COUNTED_SEQUENCES);
    if (!inFlight.adapt(sequences, budget.rows, { denseMs, attentionMs })) return;
    logger.debug(`${inFlight.current} micro-batches in flight`);
    this.schedule();
  }
}

function drawOf(sequence: Sequence): number {
  if (isGreedy(sequence.request.sampling)) return 0;
  return uniform(sequence.request.sampling.seed, sequence.generatedTokens);
}
