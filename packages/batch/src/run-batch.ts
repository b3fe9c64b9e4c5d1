/**
 * The driver: requests in, generation events gathered to results, results handed to a sink that makes them durable. A request
 * that fails becomes an error line and the rest goes on; only the engine's or the sink's own failure ends the run.
 */
import { AbortedError, GlinthawkError, type Tokenizer } from '@glinthawk/core';
import type { EngineApi, GenerationEvent, GenerationRequest } from '@glinthawk/engine';
import { LineError } from './line-error.ts';
import { generationRequests, type PreparedRequest, parseChoiceId } from './prepare-request.ts';
import type { ReadRequest } from './read-requests.ts';
import { errorLine, type FinishedChoice, resultLine } from './result-line.ts';

/** Where finished requests go. */
export interface ResultSink {
  /** Resolves when the line is durable. */
  commit(ordinal: number, kind: 'result' | 'error', text: string): Promise<void>;
  /** Resolves when everything committed is durable. */
  settle(): Promise<void>;
}

export interface BatchRun {
  readonly engine: Pick<EngineApi, 'generate'>;
  /** Only what is left to do, in the input's order; read as the engine has room. */
  readonly requests: AsyncIterable<ReadRequest>;
  readonly sink: ResultSink;
  readonly inputSha256: string;
  readonly modelName: string;
  readonly tokenizer: Tokenizer | null;
  /** Called when a request's line is durable. */
  readonly onFinished?: (finished: { readonly ordinal: number; readonly failed: boolean }) => void;
  /** Unix seconds, for `created`. */
  readonly now?: () => number;
  readonly signal?: AbortSignal;
}

export interface BatchTotals {
  readonly succeeded: number;
  readonly failed: number;
  readonly promptTokens: number;
  readonly generatedTokens: number;
}

/** Results that wait for their fsync, at most; then the engine waits too. */
const MAX_UNCOMMITTED = 256;

interface ActiveRequest {
  readonly ordinal: number;
  readonly prepared: PreparedRequest;
  readonly choices: (FinishedChoice | null)[];
  left: number;
}

/**
 * @throws AbortedError when the signal is raised, and what the engine or the sink throw. What was committed stays.
 */
export async function runBatch(run: BatchRun): Promise<BatchTotals> {
  const gathering = new Gathering(run);
  const stop = new AbortController();
  const signal = run.signal === undefined ? stop.signal : AbortSignal.any([run.signal, stop.signal]);
  gathering.onBroken = () => stop.abort();
  try {
    for await (const event of run.engine.generate(gathering.feed(), { signal })) {
      gathering.take(event);
      if (gathering.isFull) await gathering.room();
    }
  } catch (thrown) {
    await run.sink.settle();
    if (run.signal?.aborted) throw thrown instanceof AbortedError ? thrown : new AbortedError();
    throw thrown;
  }
  await run.sink.settle();
  if (run.signal?.aborted) throw new AbortedError();
  return gathering.totals();
}

class Gathering {
  onBroken: () => void = () => {};
  readonly #run: BatchRun;
  readonly #active = new Map<number, ActiveRequest>();
  readonly #uncommitted = new Set<Promise<void>>();
  #succeeded = 0;
  #failed = 0;
  #promptTokens = 0;
  #generatedTokens = 0;

  constructor(run: BatchRun) {
    this.#run = run;
  }

  get isFull(): boolean {
    return this.#uncommitted.size >= MAX_UNCOMMITTED;
  }

  async room(): Promise<void> {
    while (this.isFull) await Promise.race(this.#uncommitted);
  }

  async *feed(): AsyncGenerator<GenerationRequest> {
    for await (const { ordinal, line, result } of this.#run.requests) {
      if (result instanceof LineError) {
        this.#commitError(ordinal, line, result.customId, result);
        if (this.isFull) await this.room();
        continue;
      }
      const choices = generationRequests(result);
      this.#active.set(line, { ordinal, prepared: result, choices: choices.map(() => null), left: choices.length });
      yield* choices;
    }
  }

  take(event: GenerationEvent): void {
    if (event.type === 'token') return;
    const { line, choice } = parseChoiceId(event.id);
    const active = this.#active.get(line);
    if (active === undefined) return; // Another choice of it failed before.
    if (event.type === 'error') {
      this.#active.delete(line);
      this.#commitError(active.ordinal, line, active.prepared.request.customId, event.error);
      return;
    }
    const { text, tokenIds, reason, logprobs } = event;
    active.choices[choice] = { text, tokenIds, finishReason: reason, logprobs };
    if (--active.left > 0) return;
    this.#active.delete(line);
    this.#commitResult(active, line);
  }

  totals(): BatchTotals {
    if (this.#active.size > 0) {
      throw new GlinthawkError('RESULTS_MISSING', `the engine ended with ${this.#active.size} requests unanswered`);
    }
    return {
      succeeded: this.#succeeded,
      failed: this.#failed,
      promptTokens: this.#promptTokens,
      generatedTokens: this.#generatedTokens,
    };
  }

  #commitResult({ ordinal, prepared, choices }: ActiveRequest, line: number): void {
    const finished = choices.filter((choice) => choice !== null);
    const { inputSha256, modelName, tokenizer, now = unixSeconds } = this.#run;
    this.#succeeded++;
    this.#promptTokens += prepared.promptIds.length;
    this.#generatedTokens += finished.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
    const context = { modelName, tokenizer, created: now() };
    this.#commit(ordinal, 'result', resultLine({ inputSha256, line }, prepared, finished, context));
  }

  #commitError(ordinal: number, line: number, customId: string | null, error: GlinthawkError): void {
    this.#failed++;
    this.#commit(ordinal, 'error', errorLine({ inputSha256: this.#run.inputSha256, line }, customId, error));
  }

  #commit(ordinal: number, kind: 'result' | 'error', text: string): void {
    const committing: Promise<void> = this.#run.sink.commit(ordinal, kind, text).then(
      () => {
        this.#uncommitted.delete(committing);
        this.#run.onFinished?.({ ordinal, failed: kind === 'error' });
      },
      () => {
        this.#uncommitted.delete(committing);
        this.onBroken(); // The reason is thrown by settle().
      },
    );
    this.#uncommitted.add(committing);
  }
}

function unixSeconds(): number {
  return Math.floor(Date.now() / 1000);
}
