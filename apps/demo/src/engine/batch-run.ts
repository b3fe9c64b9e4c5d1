/**
 * A JSONL file of requests, as `glinthawk run` takes it: validated whole before anything runs, every line answered by a result or an
 * error line, in the input's order. What is done when it is stopped or fails is handed over all the same.
 */
import {
  type InputLine,
  type InputSummary,
  type RequestModel,
  type ResultSink,
  readRequests,
  runBatch,
  splitLines,
  summariseInput,
} from '@glinthawk/batch';
import { InputError, toError } from '@glinthawk/core';
import type { EngineApi, GenerationEvent, GenerationRequest } from '@glinthawk/engine';
import { createSHA256 } from 'hash-wasm';
import type { RunContext } from './prompts-run.ts';
import type { BatchSummary, Command } from './protocol.ts';

export type BatchCommand = Extract<Command, { type: 'batch' }>;

const BETWEEN_MESSAGES_MS = 200;
const GZIP_MAGIC = [0x1f, 0x8b] as const;

/** @throws InputError when the file is refused, AbortedError when stopped, and what the session failed with */
export async function runBatchFile(command: BatchCommand, context: RunContext): Promise<void> {
  const { run, input, skipInvalid } = command;
  const { session, signal, send, onTokens } = context;
  const { model } = session;
  const requestModel: RequestModel = {
    name: model.name,
    vocabSize: model.config.vocabSize,
    contextTokens: session.contextTokens,
    tokenizer: model.tokenizer,
    chatTemplate: model.chatTemplate,
    defaults: model.generationDefaults, // as the command line has it
  };
  const inputSha256 = await sha256(input, signal);
  const summary = await summariseInput(linesOf(input, signal), requestModel, { signal });
  const shown = shownSummary(summary);
  const sink = new MemorySink();
  const counted = new CountedEngine(run, context);
  let messageAtMs = Number.NEGATIVE_INFINITY;
  const tell = (now: boolean) => {
    onTokens(counted.generatedTokens);
    if (!now && performance.now() - messageAtMs < BETWEEN_MESSAGES_MS) return;
    messageAtMs = performance.now();
    const { succeeded, failed } = sink;
    send({ type: 'batch', run, summary: shown, succeeded, failed, generatedTokens: counted.generatedTokens });
  };
  tell(true);
  refuse(summary, skipInvalid);
  counted.onToken = () => tell(false);
  let complete = false;
  try {
    await runBatch({
      engine: counted,
      requests: readRequests(linesOf(input, signal), requestModel, summary, () => false),
      sink,
      inputSha256,
      modelName: model.name,
      tokenizer: model.tokenizer,
      onFinished: () => tell(false),
      signal,
    });
    complete = true;
  } finally {
    tell(true);
    send({ type: 'batchResults', run, results: sink.blob('result'), errors: sink.blob('error'), complete });
  }
}

/** @throws InputError naming the first bad lines */
function refuse(summary: InputSummary, skipInvalid: boolean): void {
  if (summary.requests === 0) {
    throw new InputError('EMPTY_INPUT', 'the file has no requests: every line is blank', {
      hint: 'Write one JSON object a line, like {"prompt": "Once upon a time", "max_tokens": 32}.',
    });
  }
  if (summary.invalid === 0 || skipInvalid) return;
  const [first] = summary.errors;
  const more = summary.invalid > 1 ? `, and ${summary.invalid - 1} more` : '';
  throw new InputError('INVALID_REQUESTS', `${first?.message ?? 'a line is invalid'}${more}`, {
    hint: 'Mend these lines, or choose to skip invalid ones: they become error lines, the others run.',
  });
}

function shownSummary({ requests, invalid, promptTokens, errors }: InputSummary): BatchSummary {
  return { requests, invalid, promptTokens, errors: errors.map(({ message }) => message) };
}

/** Results in memory, by the order of their requests in the input. */
export class MemorySink implements ResultSink {
  succeeded = 0;
  failed = 0;
  readonly #lines = new Map<number, { readonly kind: 'result' | 'error'; readonly text: string }>();

  async commit(ordinal: number, kind: 'result' | 'error', text: string): Promise<void> {
    this.#lines.set(ordinal, { kind, text });
    if (kind === 'result') this.succeeded++;
    else this.failed++;
  }

  async settle(): Promise<void> {}

  blob(wanted: 'result' | 'error'): Blob {
    const ordered = [...this.#lines].filter(([, { kind }]) => kind === wanted).sort(([a], [b]) => a - b);
    return new Blob(
      ordered.map(([, { text }]) => `${text}\n`),
      { type: 'application/jsonl' },
    );
  }
}

/** The session as an engine: ids get the run's number, so that they are unique among runs, and tokens are counted. */
class CountedEngine implements Pick<EngineApi, 'generate'> {
  onToken: () => void = () => {};
  readonly #prefix: string;
  readonly #context: RunContext;
  /** Of unfinished requests. */
  readonly #tokens = new Map<string, number>();
  #finishedTokens = 0;

  constructor(run: number, context: RunContext) {
    this.#prefix = `${run}.`;
    this.#context = context;
  }

  get generatedTokens(): number {
    let sum = this.#finishedTokens;
    for (const tokens of this.#tokens.values()) sum += tokens;
    return sum;
  }

  async *generate(
    requests: Iterable<GenerationRequest> | AsyncIterable<GenerationRequest>,
    { signal = this.#context.signal }: { readonly signal?: AbortSignal } = {},
  ): AsyncGenerator<GenerationEvent, void, undefined> {
    const onRestart = (ids: readonly string[]) => {
      for (const id of ids) this.#tokens.delete(id);
    };
    for await (const event of this.#context.session.generate(this.#named(requests), { signal, onRestart })) {
      if (event.type === 'token') {
        this.#tokens.set(event.id, (this.#tokens.get(event.id) ?? 0) + 1);
        this.onToken();
      } else {
        this.#tokens.delete(event.id);
        if (event.type === 'finish') this.#finishedTokens += event.tokenIds.length;
      }
      yield { ...event, id: event.id.slice(this.#prefix.length) };
    }
  }

  async *#named(
    requests: Iterable<GenerationRequest> | AsyncIterable<GenerationRequest>,
  ): AsyncGenerator<GenerationRequest> {
    for await (const request of requests) yield { ...request, id: `${this.#prefix}${request.id}` };
  }
}

/** From the first byte, each time. gzip is told by its first two bytes. */
export async function* linesOf(input: Blob, signal: AbortSignal): AsyncGenerator<InputLine> {
  const head = new Uint8Array(await input.slice(0, GZIP_MAGIC.length).arrayBuffer());
  if (!GZIP_MAGIC.every((byte, i) => head[i] === byte)) {
    yield* splitLines(chunksOf(input.stream(), signal));
    return;
  }
  try {
    yield* splitLines(chunksOf(input.stream().pipeThrough(new DecompressionStream('gzip')), signal));
  } catch (thrown) {
    signal.throwIfAborted();
    const cause = toError(thrown);
    if (!(cause instanceof TypeError)) throw thrown; // the stream's word for what isn't gzip
    throw new InputError('INPUT_GZIP', `the file begins like gzip, but can't be unpacked: ${cause.message}`, {
      cause,
      hint: 'It is damaged or was not copied completely; pack it again, or give it unpacked.',
    });
  }
}

/** Streams aren't async iterable everywhere. */
async function* chunksOf(stream: ReadableStream<Uint8Array>, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const reader = stream.getReader();
  try {
    for (;;) {
      signal.throwIfAborted();
      const { value, done } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    void reader.cancel().catch(() => {});
  }
}

/** Of the raw bytes; without WebCrypto, which takes no stream and is missing where a page is served by plain http. */
async function sha256(input: Blob, signal: AbortSignal): Promise<string> {
  const hash = await createSHA256();
  hash.init();
  for await (const chunk of chunksOf(input.stream(), signal)) hash.update(chunk);
  return hash.digest('hex');
}
