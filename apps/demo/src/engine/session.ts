/**
 * A model that is open, with both tiers and an engine. When the dense device is lost it is opened again, once in a while, and what
 * was unfinished runs again from its beginning: greedy and seeded output is the same, so nothing but time is lost. A session
 * that can't go on says so once, by `onFailed`, and every use of it throws the same error.
 */
import { AbortedError, DeviceError, type GlinthawkError, InputError, type Logger, toError } from '@glinthawk/core';
import type { DenseBackend } from '@glinthawk/dense';
import type { EngineApi, GenerationEvent, GenerationRequest } from '@glinthawk/engine';
import { describeModel, type Model } from '@glinthawk/model';
import { gpuWeightBytes, wasmWeightBytes } from '../weight-bytes.ts';
import { type OpenDense, sameDense } from './dense-tier.ts';
import { EngineTier } from './engine-tier.ts';
import { asGlinthawkError } from './error-report.ts';
import type { Latency } from './observed-source.ts';
import type { OnProgress } from './open-files.ts';
import type { ModelReport, Notice, Sample, TierReport, TierSettings } from './protocol.ts';
import { RequestFeed } from './request-feed.ts';
import { abandonable, endsOnceAborted, endsWithin, unlessAborted } from './waiting.ts';

/** A device that is lost again so soon will be lost again. */
const BETWEEN_RECOVERIES_MS = 30_000;
/** An engine waits for the dense call under way; one that takes longer than this hangs, and its device is closed instead. */
const CLOSE_MS = 5_000;
/** A device that is being opened again and has shown no progress for so long does not come back. */
const RECOVERY_STALL_MS = 60_000;

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
  readonly recoveryStallMs?: number;
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
  /** Settings of the tiers that were open last. */
  #opensWith: TierSettings | null = null;
  #recovery: { readonly abort: AbortController; readonly ended: Promise<void> } | null = null;
  #recoveredAtMs = Number.NEGATIVE_INFINITY;
  #failure: GlinthawkError | null = null;
  #closed: Promise<void> | null = null;

  /** Owns the model from now on. */
  constructor(model: Model, options: SessionOptions) {
    this.model = model;
    this.#options = options;
  }

  /**
   * Opens the tiers, or others; the dense tier stays where it is the same. Where others can't be had, those that were there come
   * back. After it threw the session is of no use, unless it was aborted for another setTiers(): close it.
   * @returns null, or why the former ones are there again
   * @throws InputError, CapacityError, DeviceError, ProtocolError, NodeLostError, AbortedError
   */
  async setTiers(settings: TierSettings, signal: AbortSignal): Promise<GlinthawkError | null> {
    await unlessAborted(this.#abandonRecovery(), signal);
    if (this.#failure !== null) throw this.#failure;
    let dense: DenseBackend | null = null;
    const before = this.#tiers;
    this.#tiers = null;
    if (before !== null) {
      const orderly = await endsWithin(before.tier.close(), CLOSE_MS);
      if (orderly && sameDense(before.tier.settings, settings)) dense = before.dense;
      else await closeDense(before.dense);
    }
    const former = this.#opensWith;
    try {
      await this.#openTiers(dense, settings, signal, this.#options.onProgress);
      return null;
    } catch (thrown) {
      if (signal.aborted || former === null) {
        if (dense !== null) await closeDense(dense);
        throw thrown;
      }
      await this.#openFormer(dense, former, signal, thrown);
      return asGlinthawkError(thrown);
    }
  }

  /** @throws why others could not be had, when neither can these */
  async #openFormer(kept: DenseBackend | null, former: TierSettings, signal: AbortSignal, why: unknown): Promise<void> {
    try {
      await this.#openTiers(kept, former, signal, this.#options.onProgress);
    } catch (thrown) {
      this.#options.logger.debug('the former tiers did not come back', { reason: toError(thrown).message });
      if (kept !== null) await closeDense(kept);
      throw why;
    }
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
        const { engine } = (await this.#ready(signal)).tier;
        signal.throwIfAborted();
        try {
          for await (const event of stoppable(engine.generate(feed.requests(), { signal }), signal)) {
            if (event.type !== 'token') feed.finished(event.id);
            yield event;
          }
          return;
        } catch (thrown) {
          if (signal.aborted) throw new AbortedError();
          if (feed.failure !== null) throw feed.failure.thrown;
          await this.#survive(engine, thrown, signal);
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
    await this.#abandonRecovery();
    const tiers = this.#tiers;
    this.#tiers = null;
    if (tiers !== null) await closeTiers(tiers);
    await this.model.close();
  }

  #opened(): Tiers {
    if (this.#tiers !== null) return this.#tiers;
    throw this.#failure ?? new InputError('NOT_OPEN', 'no tiers are open');
  }

  /** A device may hang while it is opened again: whoever waits for it can be stopped. */
  async #ready(signal: AbortSignal): Promise<Tiers> {
    if (this.#recovery !== null) await unlessAborted(this.#recovery.ended, signal);
    return this.#opened();
  }

  /** @param kept stays its caller's when this throws */
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
    latency.ms = settings.latencyMs;
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
      this.#opensWith = settings;
    } catch (thrown) {
      if (kept === null) await closeDense(dense);
      throw thrown;
    }
    if (kept !== null) return; // it is watched already
    dense.lost.then((error) => {
      if (this.#tiers?.dense === dense) this.#recover(error);
    });
  }

  /** After an engine threw: resolves when there is another one to go on with. @throws what the session failed with */
  async #survive(engine: EngineApi, thrown: unknown, signal: AbortSignal): Promise<void> {
    const error = asGlinthawkError(thrown);
    // Another run, or the device itself, may have been first to tell.
    if (this.#tiers?.tier.engine === engine && this.#failure === null) {
      if (error instanceof DeviceError) this.#recover(error);
      else this.#fail(error);
    }
    if (this.#recovery !== null) await unlessAborted(this.#recovery.ended, signal);
    if (this.#failure !== null) throw this.#failure;
  }

  #recover(error: DeviceError): void {
    if (this.#recovery !== null || this.#failure !== null) return;
    const abort = new AbortController();
    const ended = this.#reopen(error, abort).finally(() => {
      this.#recovery = null;
    });
    this.#recovery = { abort, ended };
  }

  /** Never rejects. What is opened late is closed. */
  async #abandonRecovery(): Promise<void> {
    if (this.#recovery === null) return;
    this.#recovery.abort.abort(new AbortedError('the tiers are not wanted any more'));
    await this.#recovery.ended;
  }

  /** Never rejects. */
  async #reopen(error: DeviceError, abort: AbortController): Promise<void> {
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
      abort.signal.throwIfAborted();
      if (tooSoon) throw error;
      this.#recoveredAtMs = performance.now();
      await this.#openWatched(settings, abort);
      this.#recoveredAtMs = performance.now();
      this.#options.onNotice({ level: 'info', text: `The ${what} is back.` });
    } catch (thrown) {
      if (abort.signal.reason instanceof AbortedError) return;
      const cause = asGlinthawkError(thrown);
      this.#fail(
        new DeviceError('DEVICE_LOST', `the ${what} was lost and did not come back: ${cause.message}`, { cause }),
      );
    }
  }

  /** Opens the tiers anew. @throws DeviceError when nothing moves for too long, and as #openTiers() */
  async #openWatched(settings: TierSettings, abort: AbortController): Promise<void> {
    const stallMs = this.#options.recoveryStallMs ?? RECOVERY_STALL_MS;
    const giveUp = () =>
      abort.abort(new DeviceError('DEVICE_STALLED', `opening it showed no progress for ${stallMs / 1000} seconds`));
    let stall = setTimeout(giveUp, stallMs);
    try {
      await this.#openTiers(null, settings, abort.signal, () => {
        clearTimeout(stall);
        stall = setTimeout(giveUp, stallMs);
      });
    } finally {
      clearTimeout(stall);
    }
  }

  #fail(error: GlinthawkError): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    this.#options.onFailed(error);
  }
}

/** What the engine gives. Stopped, it waits for the calls under way to end; one that hangs must not hold up what is asked for next. */
async function* stoppable<T>(events: AsyncIterable<T>, signal: AbortSignal): AsyncGenerator<T, void, undefined> {
  const iterator = events[Symbol.asyncIterator]();
  let atRest = false;
  try {
    for (;;) {
      const next = await endsOnceAborted(iterator.next(), signal, CLOSE_MS);
      if (next.done) return;
      atRest = true;
      yield next.value;
      atRest = false;
    }
  } finally {
    if (atRest && iterator.return !== undefined) await endsWithin(iterator.return(), CLOSE_MS);
  }
}

async function closeTiers({ tier, dense }: Tiers): Promise<void> {
  await endsWithin(tier.close(), CLOSE_MS);
  await closeDense(dense);
}

/** A device that hangs must not keep what comes after it waiting. */
async function closeDense(dense: DenseBackend): Promise<void> {
  await endsWithin(dense.close(), CLOSE_MS);
}
