/**
 * The engine: takes requests, runs them over both tiers, gives events. It owns scheduling, sampling and the account of KV; tensors
 * pass through it by reference only. Greedy output depends on the model and the prompt alone, sampled output on the seed too:
 * never on batching, chunking, placement, or what was lost on the way.
 */
import type { AttentionSource } from '@glinthawk/attention';
import {
  AbortedError,
  attentionGeometry,
  type DeviceError,
  GlinthawkError,
  InputError,
  type Logger,
  type ModelConfig,
  NodeLostError,
  silentLogger,
  toError,
} from '@glinthawk/core';
import { AttentionTier } from './attention-tier.ts';
import type { EngineApi, EngineOptions, EngineStats, ResidentReport } from './engine-api.ts';
import { Job } from './job.ts';
import type { GenerationEvent, GenerationRequest } from './request.ts';
import { Runner } from './runner.ts';
import { Batcher } from './scheduler/batcher.ts';
import { InFlight, MOST_IN_FLIGHT } from './scheduler/in-flight.ts';
import { autoMicroBatchRows, type RowBudget } from './scheduler/policy.ts';
import { StageQueue } from './scheduler/stage-queue.ts';
import { Sequence } from './sequence.ts';
import { validateRequest } from './validate-request.ts';

/** Bytes of full logits that one micro-batch may keep on the dense device. */
const MOST_LOGIT_BYTES = 128 * 2 ** 20;
const DEFAULT_PREFILL_CHUNK = 512;
const DEFAULT_ATTEND_TIMEOUT_MS = 120_000;
const DEFAULT_GRACE_MS = 2_000;
/** Requests pulled ahead of need, at least. */
const LEAST_LOOKAHEAD = 32;

/** What is made once the nodes' capacity is known. */
interface Parts {
  readonly batcher: Batcher;
  readonly runner: Runner;
  readonly budget: RowBudget;
}

/**
 * Connects to the attention nodes and makes an engine.
 * @throws InputError for options out of range; ProtocolError when a node refuses; NodeLostError when none can be reached;
 *   AbortedError
 */
export async function createEngine(options: EngineOptions): Promise<Engine> {
  for (const [name, value, most] of [
    ['microBatchRows', options.microBatchRows ?? 'auto', 65_536],
    ['inFlight', options.inFlight ?? 'auto', MOST_IN_FLIGHT],
    ['prefillChunk', options.prefillChunk ?? 1, 2 ** 31],
    ['contextTokens', options.contextTokens ?? 1, 2 ** 31],
    ['attendTimeoutMs', options.attendTimeoutMs ?? DEFAULT_ATTEND_TIMEOUT_MS, 2 ** 31 - 1],
    ['graceMs', options.graceMs ?? DEFAULT_GRACE_MS, 2 ** 31 - 1],
  ] as const) {
    if (value === 'auto' || (Number.isInteger(value) && value >= 1 && value <= most)) continue;
    throw new InputError('INVALID_OPTION', `${name} is ${value}, expected a whole number from 1 to ${most}`);
  }
  const engine = new Engine(options);
  await engine.start(options.signal);
  return engine;
}

export class Engine implements EngineApi {
  readonly config: ModelConfig;
  readonly #options: EngineOptions;
  readonly #logger: Logger;
  readonly #waitForNodes: boolean;
  readonly #nodesMayJoin: boolean;
  readonly #graceMs: number;
  readonly #modelContext: number;
  readonly #tier: AttentionTier;
  readonly #inFlight: InFlight;
  readonly #queue: StageQueue;
  readonly #jobs = new Set<Job>();
  /** Resolves when the engine can't go on. */
  readonly #dead = Promise.withResolvers<Error>();
  #running: Parts | null = null;
  #death: Error | null = null;
  #deviceLost = false;
  #arrivals = 0;
  #refused = 0;
  #closing: Promise<void> | null = null;

  /** Use createEngine, which also connects. */
  constructor(options: EngineOptions) {
    this.#options = options;
    this.config = options.dense.config;
    this.#logger = options.logger ?? silentLogger;
    this.#nodesMayJoin = options.nodesMayJoin ?? false;
    this.#waitForNodes = this.#nodesMayJoin || (options.waitForNodes ?? false);
    this.#graceMs = options.graceMs ?? DEFAULT_GRACE_MS;
    this.#modelContext = Math.min(this.config.contextTokens, options.contextTokens ?? Number.POSITIVE_INFINITY);
    this.#inFlight = new InFlight(options.inFlight ?? 'auto');
    this.#queue = new StageQueue({
      policy: options.policy ?? 'deepest-first',
      concurrency: options.dense.concurrency,
      capacity: MOST_IN_FLIGHT,
    });
    this.#tier = new AttentionTier({
      sources: options.attention,
      geometry: attentionGeometry(this.config, this.#modelContext),
      kvDtype: options.kvDtype,
      fingerprint: options.fingerprint,
      waitForNodes: this.#waitForNodes,
      nodesMayJoin: this.#nodesMayJoin,
      attendTimeoutMs: options.attendTimeoutMs ?? DEFAULT_ATTEND_TIMEOUT_MS,
      stepTokens: options.prefillChunk ?? DEFAULT_PREFILL_CHUNK,
      prefixSharing: options.prefixSharing ?? true,
      logger: this.#logger,
      onJoined: () => this.#running?.runner.schedule(),
      onLost: (node, error) => {
        this.#running?.batcher.nodeLost(node);
        this.#onNodeLost(error);
      },
    });
    options.dense.lost.then((error: DeviceError) => {
      this.#deviceLost = true;
      this.#die(error);
    });
  }

  /** Called by createEngine. */
  async start(signal?: AbortSignal): Promise<void> {
    await this.#tier.start(signal);
    const { dense } = this.#options;
    const budget = this.#budget();
    const batcher = new Batcher({
      tier: this.#tier,
      inFlight: this.#inFlight,
      budget,
      onWork: () => this.#running?.runner.schedule(),
      onFailure: (sequence, error) => this.#running?.runner.fail(sequence, error),
    });
    const runner = new Runner({
      dense,
      geometry: attentionGeometry(this.config, this.#modelContext),
      tier: this.#tier,
      batcher,
      queue: this.#queue,
      inFlight: this.#inFlight,
      budget,
      logger: this.#logger,
      observer: this.#options.observer,
      onFatal: (error) => this.#die(error),
    });
    this.#running = { batcher, runner, budget };
  }

  get contextTokens(): number {
    return Math.min(this.#modelContext, this.#tier.mostSequenceTokens);
  }

  async *generate(
    requests: Iterable<GenerationRequest> | AsyncIterable<GenerationRequest>,
    options: { readonly signal?: AbortSignal } = {},
  ): AsyncGenerator<GenerationEvent, void, undefined> {
    const { signal } = options;
    if (signal?.aborted) throw new AbortedError();
    if (this.#death !== null) throw this.#death;
    const { runner } = this.#parts();
    if (this.#tier.connected.length === 0 && !this.#waitForNodes) {
      throw new NodeLostError('all', 'no attention node is connected', { hint: 'start one, or wait for nodes' });
    }
    const job = new Job(() => runner.schedule());
    this.#jobs.add(job);
    const abort = () => this.#endJob(job, new AbortedError());
    signal?.addEventListener('abort', abort, { once: true });
    void this.#pull(job, requests);
    try {
      for (;;) {
        const event = await job.next();
        if (event === null) return;
        yield event;
      }
    } finally {
      signal?.removeEventListener('abort', abort);
      this.#endJob(job, null);
      await this.#drained(job);
      this.#jobs.delete(job);
    }
  }

  stats(): EngineStats {
    const now = performance.now();
    const nodes = this.#tier.describe();
    const { sent, received } = this.#tier.bytes();
    let kvBytes = 0;
    let kvCapacityBytes = 0;
    let kvCapacityTokens = 0;
    for (const { backend, shards } of this.#tier.connected) {
      for (const shard of shards) {
        kvBytes += shard.usedBlocks * backend.capacity.blockBytes;
        kvCapacityBytes += shard.blocks * backend.capacity.blockBytes;
        kvCapacityTokens += shard.tokens;
      }
    }
    const running = this.#running;
    const totals = running?.runner.totals;
    return {
      waiting: running?.batcher.waiting ?? 0,
      stranded: running?.batcher.stranded ?? { sequences: 0, tokens: 0 },
      running: running?.batcher.running ?? 0,
      finished: totals?.finished ?? 0,
      failed: (totals?.failed ?? 0) + this.#refused,
      promptTokens: (totals?.promptTokens ?? 0) + (running?.batcher.prefixHitTokens ?? 0),
      prefixHitTokens: running?.batcher.prefixHitTokens ?? 0,
      generatedTokens: totals?.generatedTokens ?? 0,
      preemptions: running?.batcher.preemptions ?? 0,
      nodesLost: this.#tier.nodesLost,
      steps: totals?.steps ?? 0,
      rows: totals?.rows ?? 0,
      inFlight: this.#inFlight.current,
      microBatchRows: running?.budget.rows ?? 0,
      usedBlocks: nodes.reduce((sum, node) => sum + node.usedBlocks, 0),
      cachedBlocks: nodes.reduce((sum, node) => sum + node.cachedBlocks, 0),
      totalBlocks: nodes.reduce((sum, node) => sum + (node.connected ? node.blocks : 0), 0),
      kvBytes,
      kvCapacityBytes,
      kvCapacityTokens,
      wallMs: running?.runner.wall.totalMs(now) ?? 0,
      denseBusyMs: running?.runner.denseBusy.totalMs(now) ?? 0,
      attentionBusyMs: running?.runner.attentionBusy.totalMs(now) ?? 0,
      underWaySinceMs: running?.runner.underWaySinceMs ?? null,
      headMs: totals?.headMs ?? 0,
      samplingMs: totals?.samplingMs ?? 0,
      denseStageMs: totals?.denseStageMs ?? 0,
      attentionStageMs: totals?.attentionStageMs ?? 0,
      bytesSent: sent,
      bytesReceived: received,
      nodes,
    };
  }

  residents(): readonly ResidentReport[] {
    const reports: ResidentReport[] = [];
    const counted = new Set<unknown>();
    for (const { shards } of this.#tier.connected) {
      for (const { node, index: shard, residents } of shards) {
        for (const part of residents) {
          const { owner, firstToken } = part;
          if (owner === null) continue;
          const blocks = part.unseenBlocks(counted);
          const tokens = Math.max(0, Math.min(part.tokens, owner.kvTokens - firstToken));
          reports.push({ requestId: owner.request.id, node, shard, blocks, tokens });
        }
      }
    }
    return reports;
  }

  async attach(source: AttentionSource): Promise<number> {
    if (this.#death !== null) throw this.#death;
    this.#parts();
    return this.#tier.attach(source);
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    for (const job of this.#jobs) this.#endJob(job, new AbortedError('the engine was closed'));
    this.#death ??= new AbortedError('the engine was closed');
    const { runner } = this.#parts();
    runner.stop();
    // A lost device may never answer.
    if (!this.#deviceLost) {
      this.#tier.stopConnecting();
      const idle = Promise.race([runner.idle(), this.#options.dense.lost]);
      while (!(await endsWithin(idle, this.#graceMs))) this.#tier.loseStalled(this.#graceMs);
    }
    await this.#tier.close();
    runner.destroy();
  }

  /**
   * Waits until nothing of a job is left. A node that holds its step up is given up on, if it is nobody else's; otherwise the step
   * ends when it ends, and gives its KV back then.
   */
  async #drained(job: Job): Promise<void> {
    const drained = Promise.race([job.drained(), this.#dead.promise]);
    while (!(await endsWithin(drained, this.#graceMs))) {
      if ([...this.#jobs].some((other) => other !== job && !other.closed)) return;
      this.#tier.loseStalled(this.#graceMs);
    }
  }

  #parts(): Parts {
    if (this.#running === null) throw new GlinthawkError('NOT_STARTED', 'the engine is made by createEngine()');
    return this.#running;
  }

  #budget(): RowBudget {
    const { microBatchRows = 'auto', prefillChunk = DEFAULT_PREFILL_CHUNK } = this.#options;
    // Where nodes may join, room for KV is no limit.
    let kvTokens = this.#nodesMayJoin ? Number.POSITIVE_INFINITY : 0;
    for (const { shards } of this.#tier.connected) for (const shard of shards) kvTokens += shard.tokens;
    const rows =
      microBatchRows === 'auto'
        ? autoMicroBatchRows(kvTokens, this.contextTokens, this.#inFlight.current)
        : microBatchRows;
    const headRows = Math.max(1, Math.min(rows, Math.floor(MOST_LOGIT_BYTES / (4 * this.config.vocabSize))));
    return { rows, headRows, prefillChunk };
  }

  /** Pulls requests as there is room for them. Never rejects: what goes wrong is the job's failure. */
  async #pull(job: Job, requests: Iterable<GenerationRequest> | AsyncIterable<GenerationRequest>): Promise<void> {
    const { budget } = this.#parts();
    const lookahead = Math.max(LEAST_LOOKAHEAD, 2 * budget.rows);
    let iterator: Iterator<GenerationRequest> | AsyncIterator<GenerationRequest> | null = null;
    try {
      iterator = Symbol.asyncIterator in requests ? requests[Symbol.asyncIterator]() : requests[Symbol.iterator]();
      for (;;) {
        // Not awaited needlessly: what can be had at once goes into the first micro-batch together.
        if (!job.hasRoom(lookahead)) await job.roomForMore(lookahead);
        if (job.closed) break;
        let result: IteratorResult<GenerationRequest>;
        try {
          const pulled = iterator.next();
          result = pulled instanceof Promise ? await pulled : pulled;
        } catch (thrown) {
          iterator = null; // It ended itself by throwing; there is nothing to close.
          throw thrown;
        }
        if (result.done) {
          job.sourceDone();
          return;
        }
        if (!job.closed) this.#take(job, result.value);
      }
    } catch (thrown) {
      this.#endJob(job, toError(thrown));
    }
    // Not awaited: a source that is stuck must not hold up whoever stopped listening.
    if (iterator !== null) void this.#closeSource(iterator);
  }

  /** Never rejects: nobody is left whom a failure of this would concern. */
  async #closeSource(iterator: Iterator<GenerationRequest> | AsyncIterator<GenerationRequest>): Promise<void> {
    try {
      await iterator.return?.();
    } catch (thrown) {
      this.#logger.debug('closing the source of requests failed', { reason: toError(thrown).message });
    }
  }

  #take(job: Job, request: GenerationRequest): void {
    const { tokenizer } = this.#options;
    const error = validateRequest(request, {
      vocabSize: this.config.vocabSize,
      contextTokens: this.#modelContext,
      kvTokens: this.#tier.mostSequenceTokens,
      hasTokenizer: tokenizer !== undefined,
    });
    if (error !== null) {
      this.#refused++;
      job.push({ type: 'error', id: request.id, error });
      return;
    }
    const { batcher } = this.#parts();
    batcher.enqueue(
      new Sequence(job, request, {
        arrival: this.#arrivals++,
        tokenizer,
        eosTokenIds: this.config.eosTokenIds,
        mostTokens: this.contextTokens,
      }),
    );
  }

  /** Stops a job: with an error, its consumer sees that; without, nobody listens any more. */
  #endJob(job: Job, error: Error | null): void {
    if (error !== null) job.fail(error);
    if (job.closed) return;
    job.close();
    this.#running?.batcher.drop((sequence) => sequence.job === job);
  }

  #onNodeLost(error: NodeLostError): void {
    if (this.#tier.connected.length > 0) return;
    if (this.#waitForNodes) {
      this.#logger.warn(`no attention node is left; waiting for one to ${this.#nodesMayJoin ? 'join' : 'come back'}`);
      return;
    }
    const last = new NodeLostError(error.node, `no attention node is left: ${error.message}`, {
      cause: error,
      hint: 'restart the nodes and run again, or wait for nodes (--wait-for-nodes)',
    });
    for (const job of this.#jobs) this.#endJob(job, last);
  }

  #die(error: Error): void {
    if (this.#death !== null) return;
    this.#death = error;
    this.#running?.runner.stop();
    for (const job of this.#jobs) this.#endJob(job, error);
    this.#dead.resolve(error);
  }
}

async function endsWithin(promise: Promise<unknown>, ms: number): Promise<boolean> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), ms);
  });
  try {
    return await Promise.race([promise.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}
