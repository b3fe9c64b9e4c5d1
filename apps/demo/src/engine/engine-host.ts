/**
 * The engine worker's life: takes the page's commands, keeps at most one session open, and answers with events. Opening, changing
 * and closing happen one after the other, and a newer one cancels those before it; runs go side by side on what is open. Nothing
 * that the page sends makes this throw or wait for ever: what goes wrong becomes an event.
 */
import { AbortedError, type GlinthawkError, InputError, type Logger } from '@glinthawk/core';
import { MAX_LATENCY_MS } from '../limits.ts';
import { runBatchFile } from './batch-run.ts';
import { probeCapabilities } from './capabilities.ts';
import { type OpenDense, openDenseTier } from './dense-tier.ts';
import { asGlinthawkError, reportError } from './error-report.ts';
import type { Latency } from './observed-source.ts';
import { openChosenModel } from './open-files.ts';
import { type RunContext, runPrompts } from './prompts-run.ts';
import type { Command, ErrorReport, Event, ModelChoice, Sample, TierSettings } from './protocol.ts';
import { Session } from './session.ts';
import { abandonable } from './waiting.ts';

const SAMPLE_MS = 200;
/** While nothing runs, one sample in so many is sent. */
const IDLE_SAMPLES = 5;
/** A second of progress in ten messages. */
const BETWEEN_PROGRESS_MS = 100;

export interface EngineHostOptions {
  readonly send: (event: Event, transfer: Transferable[]) => void;
  /** For tests: default is what the page uses. */
  readonly openDense?: OpenDense;
  readonly attendTimeoutMs?: number;
  readonly sharedMemory?: boolean;
  readonly recoveryStallMs?: number;
}

interface Run {
  readonly abort: AbortController;
  /** It has a session; before, it waits for one to be opened. */
  begun: boolean;
  ended: Promise<void>;
}

export class EngineHost {
  readonly #options: EngineHostOptions;
  readonly #latency: Latency = { ms: 0 };
  readonly #runs = new Map<number, Run>();
  #session: Session | null = null;
  /** Of the latest opening, changing or closing, and all before it. Never rejects. */
  #settled: Promise<void> = Promise.resolve();
  #changing: AbortController | null = null;
  /** Which model is being opened, while it is. */
  #opening: ModelChoice | null = null;
  #clock: ReturnType<typeof setInterval> | null = null;
  #ticks = 0;
  /** `failed` was the last that was said of what is open. */
  #saidFailed = false;

  constructor(options: EngineHostOptions) {
    this.#options = options;
  }

  handle(command: Command): void {
    try {
      this.#dispatch(command);
    } catch (thrown) {
      // Only what isn't a command at all gets here.
      this.#send({
        type: 'notice',
        notice: { level: 'error', text: `a command failed: ${reportError(thrown).message}` },
      });
    }
  }

  #dispatch(command: Command): void {
    switch (command.type) {
      case 'probe':
        void this.#probe();
        return;
      case 'open':
        this.#open(command.model, command.tiers);
        return;
      case 'retier':
        // What is being opened is opened with the new tiers instead.
        if (this.#opening !== null) this.#open(this.#opening, command.tiers);
        else this.#retier(command.tiers);
        return;
      case 'close':
        this.#change(null, async () => {
          await this.#closeSession();
          this.#saidFailed = false;
          this.#send({ type: 'closed' });
        });
        return;
      case 'generate':
        this.#start(command.run, (context) => runPrompts(command, context));
        return;
      case 'batch':
        this.#start(command.run, (context) => runBatchFile(command, context));
        return;
      case 'stop':
        this.#runs.get(command.run)?.abort.abort(new AbortedError());
        return;
      case 'latency':
        if (command.ms >= 0 && command.ms <= MAX_LATENCY_MS) this.#latency.ms = command.ms;
        return;
      default:
        throw new InputError('UNKNOWN_COMMAND', `there is no command ${JSON.stringify(command satisfies never)}`);
    }
  }

  async #probe(): Promise<void> {
    try {
      this.#send({ type: 'probed', capabilities: await probeCapabilities() });
    } catch (thrown) {
      this.#send({ type: 'notice', notice: { level: 'error', text: reportError(thrown).message } });
    }
  }

  #open(choice: ModelChoice, tiers: TierSettings): void {
    this.#change(choice, async (signal) => {
      await this.#closeSession();
      this.#saidFailed = false;
      signal.throwIfAborted();
      const onProgress = this.#progress(signal);
      const opening = openChosenModel(choice, { signal, onProgress });
      const model = await abandonable(opening, signal, (late) => late.close());
      const session: Session = new Session(model, {
        latency: this.#latency,
        logger: this.#logger(),
        openDense: this.#options.openDense ?? openDenseTier,
        onProgress,
        onNotice: (notice) => this.#send({ type: 'notice', notice }),
        onFailed: (error) => this.#sessionFailed(session, error),
        ...(this.#options.attendTimeoutMs === undefined ? {} : { attendTimeoutMs: this.#options.attendTimeoutMs }),
        ...(this.#options.sharedMemory === undefined ? {} : { sharedMemory: this.#options.sharedMemory }),
        ...(this.#options.recoveryStallMs === undefined ? {} : { recoveryStallMs: this.#options.recoveryStallMs }),
      });
      this.#session = session;
      signal.throwIfAborted();
      this.#send({ type: 'described', model: session.modelReport });
      await this.#setTiers(session, tiers, signal);
    });
  }

  #retier(tiers: TierSettings): void {
    this.#change(null, async (signal) => {
      const session = this.#session;
      // The page asked before it heard of the failure, which it should not take for this one.
      if (session === null && this.#saidFailed) return;
      if (session === null) throw notOpen();
      await this.#stopRuns(new AbortedError());
      await this.#setTiers(session, tiers, signal);
    });
  }

  async #setTiers(session: Session, tiers: TierSettings, signal: AbortSignal): Promise<void> {
    const refusal = await session.setTiers(tiers, signal);
    signal.throwIfAborted();
    if (refusal !== null) {
      const { message, hint } = reportError(refusal);
      const text = [`These tiers could not be had: ${message}.`, hint, 'Those from before are back.'];
      this.#send({ type: 'notice', notice: { level: 'error', text: text.filter((part) => part !== null).join(' ') } });
    }
    this.#send({ type: 'ready', model: session.modelReport, tiers: session.tierReport });
    this.#startClock();
  }

  /** Queues what changes the session; it cancels what was queued or under way before it. */
  #change(opening: ModelChoice | null, work: (signal: AbortSignal) => Promise<void>): void {
    this.#changing?.abort(new AbortedError('something else was asked for'));
    const abort = new AbortController();
    this.#changing = abort;
    this.#opening = opening;
    const before = this.#settled;
    this.#settled = (async () => {
      await before;
      try {
        abort.signal.throwIfAborted();
        await work(abort.signal);
      } catch (thrown) {
        if (abort.signal.aborted) return; // whatever came after it says what is open
        await this.#closeSession(asGlinthawkError(thrown));
        this.#saidFailed = true;
        this.#send({ type: 'failed', error: reportError(thrown) });
      } finally {
        if (this.#changing === abort) {
          this.#changing = null;
          this.#opening = null;
        }
      }
    })();
  }

  #sessionFailed(session: Session, error: GlinthawkError): void {
    if (this.#session !== session || this.#changing !== null) return; // the change under way finds out itself
    this.#change(null, async () => {
      throw error;
    });
  }

  /** Never rejects. */
  async #closeSession(why: GlinthawkError = new AbortedError()): Promise<void> {
    this.#stopClock();
    const session = this.#session;
    this.#session = null;
    await this.#stopRuns(why);
    try {
      await session?.close();
    } catch (thrown) {
      this.#send({ type: 'notice', notice: { level: 'warn', text: `closing failed: ${reportError(thrown).message}` } });
    }
  }

  /** Those that wait for a session to be opened go on waiting for it. */
  async #stopRuns(why: GlinthawkError): Promise<void> {
    const runs = [...this.#runs.values()].filter(({ begun }) => begun);
    for (const { abort } of runs) abort.abort(why);
    await Promise.all(runs.map(({ ended }) => ended));
  }

  #start(run: number, body: (context: RunContext) => Promise<void>): void {
    if (this.#runs.has(run)) throw new InputError('RUN_EXISTS', `run ${run} is under way`);
    const abort = new AbortController();
    const began = performance.now();
    let generatedTokens = 0;
    const state: Run = { abort, begun: false, ended: Promise.resolve() };
    const work = async (): Promise<void> => {
      // What is asked for while a model is opened runs when it is open.
      await Promise.race([this.#settledForGood(), whenAborted(abort.signal)]);
      abort.signal.throwIfAborted();
      const session = this.#session;
      if (session === null) throw notOpen();
      state.begun = true;
      const onTokens = (tokens: number) => {
        generatedTokens = tokens;
      };
      await body({ session, signal: abort.signal, send: (event) => this.#send(event), onTokens });
    };
    const end = (how: 'done' | 'stopped' | 'failed', error: ErrorReport | null) => {
      this.#runs.delete(run);
      this.#sendSample();
      this.#send({ type: 'ended', run, how, error, wallMs: performance.now() - began, generatedTokens });
    };
    this.#runs.set(run, state);
    state.ended = work().then(
      () => end('done', null),
      (thrown: unknown) => {
        // A session that failed stops its runs with its own error.
        const why: unknown = abort.signal.aborted ? abort.signal.reason : thrown;
        if (why instanceof AbortedError) end('stopped', null);
        else end('failed', reportError(why));
      },
    );
  }

  /** Resolves when no change is under way and none is queued. */
  async #settledForGood(): Promise<void> {
    for (;;) {
      const settled = this.#settled;
      await settled;
      if (settled === this.#settled) return;
    }
  }

  #progress(signal: AbortSignal): (stage: string, done: number, total: number | null) => void {
    let lastStage = '';
    let sentAtMs = 0;
    return (stage, done, total) => {
      const now = performance.now();
      const last = total !== null && done >= total;
      if (signal.aborted || (stage === lastStage && !last && now - sentAtMs < BETWEEN_PROGRESS_MS)) return;
      lastStage = stage;
      sentAtMs = now;
      this.#send({ type: 'progress', stage, done, total });
    };
  }

  /** What the tiers warn of reaches the visitor, and nodes that come back. */
  #logger(): Logger {
    return {
      debug: () => {},
      info: (message) => {
        if (/ joined$/.test(message)) this.#send({ type: 'notice', notice: { level: 'info', text: message } });
      },
      warn: (message, fields) => {
        const { reason } = fields ?? {};
        const text = typeof reason === 'string' ? `${message}: ${reason}` : message;
        this.#send({ type: 'notice', notice: { level: 'warn', text } });
      },
    };
  }

  #startClock(): void {
    this.#stopClock();
    this.#sendSample();
    this.#clock = setInterval(() => {
      this.#ticks++;
      if (this.#runs.size > 0 || this.#ticks % IDLE_SAMPLES === 0) this.#sendSample();
    }, SAMPLE_MS);
  }

  #stopClock(): void {
    if (this.#clock !== null) clearInterval(this.#clock);
    this.#clock = null;
  }

  #sendSample(): void {
    let sample: Sample | null;
    try {
      sample = this.#session?.sample() ?? null;
    } catch {
      return; // the session is on its way out
    }
    if (sample !== null) this.#send({ type: 'sample', sample }, [sample.spans.buffer]);
  }

  #send(event: Event, transfer: Transferable[] = []): void {
    this.#options.send(event, transfer);
  }
}

function notOpen(): InputError {
  return new InputError('NOT_OPEN', 'no model is open', { hint: 'Open a model first.' });
}

/** Never rejects. */
function whenAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
