/**
 * The requests of an input, line by line: parsed, prepared, or refused. Both passes over a file go through here, the one that
 * validates it and the one that feeds the engine, so they can't disagree about a line.
 */
import { LineError } from './line-error.ts';
import type { InputLine } from './line-splitter.ts';
import { parseRequest } from './parse-request.ts';
import { type PreparedRequest, prepareRequest, type RequestModel } from './prepare-request.ts';

export interface ReadRequest {
  /** 0 for the first line that isn't blank. */
  readonly ordinal: number;
  readonly line: number;
  readonly result: PreparedRequest | LineError;
}

/** Line number and text → the request, or why there is none. Never throws a LineError. */
export function readRequest({ line, text }: InputLine, model: RequestModel): PreparedRequest | LineError {
  if (text instanceof LineError) return text;
  try {
    return prepareRequest(parseRequest(text, line, model), model);
  } catch (thrown) {
    if (thrown instanceof LineError) return thrown;
    throw thrown;
  }
}

/** How many errors a summary holds; a file with a million bad lines has no more to say. */
export const LISTED_ERRORS = 20;

export interface InputSummary {
  /** Lines that aren't blank, up to the limit. */
  readonly requests: number;
  readonly invalid: number;
  /** The first of the invalid ones, at most LISTED_ERRORS. */
  readonly errors: readonly LineError[];
  /** Lines whose custom_id an earlier line has: line → error. */
  readonly duplicates: ReadonlyMap<number, LineError>;
  readonly promptTokens: number;
  /** Requests that named no length and may fill what the context has left (chat without max_tokens). */
  readonly openEnded: number;
  /**
   * By ordinal, 0 for invalid ones: the room that a request asks for, prompt and max_tokens (of an open-ended one the prompt and a token);
   * and the tokens that all its choices may generate.
   */
  readonly sequenceTokens: readonly number[];
  readonly answerTokens: readonly number[];
}

export interface SummariseOptions {
  /** Only the first so many requests. */
  readonly limit?: number;
  readonly onProgress?: (requests: number) => void;
  readonly signal?: AbortSignal;
}

/** Reads everything once. Memory: the custom_ids, and two numbers a request. @throws AbortedError (the signal's reason) */
export async function summariseInput(
  lines: AsyncIterable<InputLine>,
  model: RequestModel,
  { limit = Number.POSITIVE_INFINITY, onProgress, signal }: SummariseOptions = {},
): Promise<InputSummary> {
  const lineOf = new Map<string, number>();
  const duplicates = new Map<number, LineError>();
  const errors: LineError[] = [];
  let requests = 0;
  let invalid = 0;
  let promptTokens = 0;
  let openEnded = 0;
  const sequenceTokens: number[] = [];
  const answerTokens: number[] = [];
  const refuse = (error: LineError) => {
    invalid++;
    sequenceTokens.push(0);
    answerTokens.push(0);
    if (errors.length < LISTED_ERRORS) errors.push(error);
  };
  for await (const input of lines) {
    signal?.throwIfAborted();
    if (requests >= limit) break;
    requests++;
    onProgress?.(requests);
    const result = readRequest(input, model);
    const customId = result instanceof LineError ? result.customId : result.request.customId;
    const earlier = customId === null ? undefined : lineOf.get(customId);
    if (customId !== null && earlier === undefined) lineOf.set(customId, input.line);
    if (result instanceof LineError) {
      refuse(result);
    } else if (earlier !== undefined) {
      const error = new LineError(
        input.line,
        'duplicate_custom_id',
        `custom_id ${JSON.stringify(customId)} is also on line ${earlier}`,
        { param: 'custom_id', customId },
      );
      duplicates.set(input.line, error);
      refuse(error);
    } else {
      promptTokens += result.promptIds.length;
      const isOpenEnded = result.request.kind === 'chat' && result.request.maxTokens === null;
      if (isOpenEnded) openEnded++;
      sequenceTokens.push(result.promptIds.length + (isOpenEnded ? 1 : result.maxTokens));
      answerTokens.push(result.maxTokens * result.request.n);
    }
  }
  return { requests, invalid, errors, duplicates, promptTokens, openEnded, sequenceTokens, answerTokens };
}

/** The same lines again, as they are wanted. */
export async function* readRequests(
  lines: AsyncIterable<InputLine>,
  model: RequestModel,
  summary: Pick<InputSummary, 'requests' | 'duplicates'>,
  isDone: (ordinal: number) => boolean,
): AsyncGenerator<ReadRequest> {
  let ordinal = 0;
  for await (const input of lines) {
    if (ordinal >= summary.requests) return;
    if (!isDone(ordinal)) {
      const result = summary.duplicates.get(input.line) ?? readRequest(input, model);
      yield { ordinal, line: input.line, result };
    }
    ordinal++;
  }
}
