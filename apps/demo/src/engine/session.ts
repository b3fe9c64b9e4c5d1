/**
 * A model that is open, with both tiers and an engine. When the dense device is lost it is opened again, once in a while, and what
 * was unfinished runs again from its beginning: greedy and seeded output is the same, so nothing but time is lost. A session
 * that can't go on says so once, by `onFailed`, and every use of it throws the same error.
 */
import { AbortedError, DeviceError, type GlinthawkError, InputError, type Logger } from '@glinthawk/core';
import type { DenseBackend } from '@glinthawk/dense';
import type { EngineApi, GenerationEvent, GenerationRequest } from '@glinthawk/engine';
import { describeModel, type Model } from '@glinthawk/model';
import { gpuWeightBytes, type OpenDense, sameDense, wasmWeightBytes } from './dense-tier.ts';
import { EngineTier } from './engine-tier.ts';
import { asGlinthawkError } from './error-report.ts';
import type { Latency } from './observed-source.ts';
import type { OnProgress } from './open-files.ts';
import type { ModelReport, Notice, Sample, TierReport, TierSettings } from './protocol.ts';
import { RequestFeed } from './request-feed.ts';
import { abandonable, endsWithin } from './waiting.ts';

/** A device that is lost again so soon will be lost again. */
const BETWEEN_RECOVERIES_MS = 30_000;
/** An engine waits for the dense call under way; one that takes longer than this hangs, and its device is closed instead. */
const CLOSE_MS = 5_000;

export interface SessionOptions {
  readonly latency: Latency;
  readonly logger: Logger;
  readonly openDense: OpenDense;
  readonly onProgress: OnProgress;
  readonly onNotice: (notice: Notice) => void;
  /** It can't go on; close it. Called once, not after close(). */
  readonly onFailed: (error: GlinthawkError) => void;
  readonly attendTimeoutMs?: number;
  readonly sharedMemory?: boolean;
}

interface Tiers {
  readonly dense: DenseBackend;
  readonly tier: EngineTier;
}

export interface GenerateOptions {
  readonly signal: AbortSignal;
  /** These requests begin anew: their tokens so far are void. */
  readonly onRestart: (ids: readonly string[]) => void;
}

export class Session {
  readonly model: Model;
  readonly #options: SessionOptions;
  #tiers: Tiers | null = null;
  #recovering: Promise<void> | null = null;
  #recoveredAtMs = Number.NEGATIVE_INFINITY;
  /** Ends a recovery under way. */
  readonly #closing = new AbortController();
  #failure: GlinthawkError | null = null;
  #closed: Promise<void> | null = null;

  /** Owns the model from now on. */
  constructor(model: Model, options: SessionOptions) {
    this.model = model;
    this.#options = options;
  }

  /**
   * Opens the tiers, or others; the dense tier stays where it is the same. After it threw the session is of no use: close it.
   * @throws InputError, CapacityError, DeviceError, ProtocolError, NodeLostError, AbortedError
   */
  async setTiers(settings: TierSettings, signal: AbortSignal): Promise<void> {
    await this.#recovering;
    if (this.#failure !== null) throw this.#failure;
    let dense: DenseBackend | null = null;
    const before = this.#tiers;
    this.#tiers = null;
    if (before !== null) {
      const orderly = await endsWithin(before.tier.close(), CLOSE_MS);
      if (orderly && sameDense(before.tier.settings, settings)) dense = before.dense;
      else await before.dense.close();
    }
    this.#options.latency.ms = settings.latencyMs;
    await this.#openTiers(dense, settings, signal, this.#options.onProgress);
  }

  get modelReport(): ModelReport {
    const description = describeModel(this.model);
    const { parameters, chatTemplate: hasChatTemplate } = description;
    return {
      description,
      wasmWeightBytes: wasmWeightBytes(this.model, parameters),
      gpuWeightBytes: gpuWeightBytes(parameters),
      hasChatTemplate,
    };
  }

  get tierReport(): TierReport {
    return this.#opened().tier.report();
  }

  /** Longest prompt and answer together that fit here. */
  get contextTokens(): number {
    return this.#opened().tier.engine.contextTokens;
  }

  /** null while the tiers are being opened again. */
  sample(): Sample | null {
    return this.#tiers?.tier.sample() ?? null;
  }

  /**
   * As the engine's generate, over as many engines as it takes.
   * @throws AbortedError, what the source of requests throws, or what the session failed with
   */
  async *generate(
    requests: Iterable<GenerationRequest> | AsyncIterable<GenerationRequest>,
    { signal, onRestart }: GenerateOptions,
  ): AsyncGenerator<GenerationEvent, void, undefined> {
    const feed = new RequestFeed(requests);
    try {
      for (;;) {
        const { engine } = (await this.#ready()).tier;
        signal.throwIfAborted();
        try {
          for await (const event of engine.generate(feed.requests(), { signal })) {
            if (event.type !== 'token') feed.finished(event.id);
            yield event;
          }
          return;
        } catch (thrown) {
          if (signal.aborted) throw new AbortedError();
          if (feed.failure !== null) throw feed.failure.thrown;
          await this.#survive(engine, thrown);
        }
        onRestart(feed.unfinished);
      }
    } finally {
      // Not awaited: a source that is stuck must not hold up whoever stopped listening.
      void feed.close().catch(() => {});
    }
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#failure ??= new AbortedError('the model was closed');
    this.#closing.abort(this.#failure);
    await this.#recovering;
    const tiers = this.#tiers;
    this.#tiers = null;
    if (tiers !== null) await closeTiers(tiers);
    await this.model.close();
  }

  #opened(): Tiers {
    if (this.#tiers !== null) return this.#tiers;
    throw this.#failure ?? new InputError('NOT_OPEN', 'no tiers are open');
  }

  async #ready(): Promise<Tiers> {
    await this.#recovering;
    return this.#opened();
  }

  async #openTiers(
    kept: DenseBackend | null,
    settings: TierSettings,
    signal: AbortSignal,
    onProgress: OnProgress,
  ): Promise<void> {
    const { logger, latency, openDense, attendTimeoutMs, sharedMemory } = this.#options;
    const opening = kept ?? openDense(this.model, settings, { logger, signal, onProgress });
    // A device that never comes must not keep a later open waiting; should it come after all, it is closed.
    const dense = kept ?? (await abandonable(Promise.resolve(opening), signal, (late) => late.close()));
    try {
      signal.throwIfAborted();
      onProgress('starting the attention tier', 0, null);
      const connecting = EngineTier.open(this.model, dense, settings, {
        latency,
        logger,
        signal,
        ...(attendTimeoutMs === undefined ? {} : { attendTimeoutMs }),
        ...(sharedMemory === undefined ? {} : { sharedMemory }),
      });
      const tier = await abandonable(connecting, signal, (late) => late.close());
      this.#tiers = { dense, tier };
    } catch (thrown) {
      await dense.close();
      throw thrown;
    }
    dense.lost.then((error) => {
      if (this.#tiers?.dense === dense) void this.#recover(error);
    });
  }

  /** After an engine threw: resolves when there is another one to go on with. @throws what the session failed with */
  async #survive(engine: EngineApi, thrown: unknown): Promise<void> {
    const error = asGlinthawkError(thrown);
    // Another run, or the device itself, may have been first to tell.
    if (this.#tiers?.tier.engine === engine && this.#failure === null) {
      if (error instanceof DeviceError) await this.#recover(error);
      else this.#fail(error);
    }
    await this.#recovering;
    if (this.#failure !== null) throw this.#failure;
  }

  #recover(error: DeviceError): Promise<void> {
    if (this.#recovering !== null) return this.#recovering;
    if (this.#failure !== null) return Promise.resolve();
    const recovering = this.#reopen(error).finally(() => {
      this.#recovering = null;
    });
    this.#recovering = recovering;
    return recovering;
  }

  /** Never rejects. */
  async #reopen(error: DeviceError): Promise<void> {
    const before = this.#opened();
    const { settings } = before.tier;
    this.#tiers = null;
    const what = settings.dense === 'webgpu' ? 'GPU' : 'WASM dense worker';
    const tooSoon = performance.now() - this.#recoveredAtMs < BETWEEN_RECOVERIES_MS;
    if (!tooSoon) {
      this.#options.onNotice({
        level: 'warn',
        text: `The ${what} was lost (${error.message}). It is being opened again; unfinished prompts start over.`,
      });
    }
    try {
      await closeTiers(before);
      if (tooSoon) throw error;
      this.#recoveredAtMs = performance.now();
      await this.#openTiers(null, settings, this.#closing.signal, () => {});
      this.#recoveredAtMs = performance.now();
      this.#options.onNotice({ level: 'info', text: `The ${what} is back.` });
    } catch (thrown) {
      if (this.#closing.signal.aborted) return;
      const cause = asGlinthawkError(thrown);
      this.#fail(
        new DeviceError('DEVICE_LOST', `the ${what} was lost and did not come back: ${cause.message}`, { cause }),
      );
    }
  }

  #fail(error: GlinthawkError): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    this.#options.onFailed(error);
  }
}

async function closeTiers({ tier, dense }: Tiers): Promise<void> {
  await endsWithin(tier.close(), CLOSE_MS);
  await endsWithin(dense.close(), CLOSE_MS);
}
