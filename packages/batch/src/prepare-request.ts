/**
 * BatchRequest + what is known of the model → what the engine takes: token ids, every default filled in, one GenerationRequest
 * per choice. Needs no weights, so the same code validates a whole file before they load.
 */
import type { Tokenizer } from '@glinthawk/core';
import { toError } from '@glinthawk/core';
import type { GenerationRequest, SamplingParams } from '@glinthawk/engine';
import type { ChatTemplate, GenerationDefaults } from '@glinthawk/model';
import type { BatchMessage, BatchRequest } from './batch-request.ts';
import { LineError, type LineErrorCode } from './line-error.ts';

/** What is needed of a model to judge a request. */
export interface RequestModel {
  readonly name: string;
  readonly vocabSize: number;
  /** Prompt and generated tokens together, at most. */
  readonly contextTokens: number;
  readonly tokenizer: Tokenizer | null;
  readonly chatTemplate: ChatTemplate | null;
  /** For fields that a request leaves out; empty for OpenAI's own defaults (temperature 1, everything else off). */
  readonly defaults: GenerationDefaults;
}

export interface PreparedRequest {
  readonly request: BatchRequest;
  readonly promptIds: readonly number[];
  readonly maxTokens: number;
  readonly sampling: SamplingParams;
}

/** What a completions request generates when it doesn't say, as at OpenAI. */
const COMPLETION_MAX_TOKENS = 16;

/** @throws LineError and nothing else */
export function prepareRequest(request: BatchRequest, model: RequestModel): PreparedRequest {
  if (request.stop.length > 0 && model.tokenizer === null) {
    fail(request, 'stop', 'needs a tokenizer, and the model has none: use stop_token_ids');
  }
  const promptIds = encodePrompt(request, model);
  const field = request.prompt.type === 'chat' ? 'messages' : 'prompt';
  const room = model.contextTokens - promptIds.length;
  if (promptIds.length === 0) fail(request, field, 'has no tokens');
  if (room < 1) {
    fail(
      request,
      field,
      `has ${promptIds.length} tokens, which leaves no room to generate in a context of ${model.contextTokens}`,
      'context_length_exceeded',
    );
  }
  if (request.maxTokens !== null && request.maxTokens > room) {
    fail(
      request,
      'max_tokens',
      `is ${request.maxTokens}, with ${promptIds.length} prompt tokens that is ${promptIds.length + request.maxTokens}, ` +
        `over the context of ${model.contextTokens}`,
      'context_length_exceeded',
    );
  }
  const maxTokens = request.maxTokens ?? (request.kind === 'chat' ? room : Math.min(room, COMPLETION_MAX_TOKENS));
  return { request, promptIds, maxTokens, sampling: sampling(request, model.defaults) };
}

/** Ids of the engine's requests: `<line>.<choice>`, short and unique within a file. */
export function choiceId(line: number, choice: number): string {
  return `${line}.${choice}`;
}

export function parseChoiceId(id: string): { readonly line: number; readonly choice: number } {
  const dot = id.indexOf('.');
  return { line: Number(id.slice(0, dot)), choice: Number(id.slice(dot + 1)) };
}

/** One request per choice. Choice i draws with seed + i, as in vLLM, so that choices differ and each is reproducible. */
export function generationRequests(prepared: PreparedRequest): GenerationRequest[] {
  const { request, promptIds, maxTokens, sampling: params } = prepared;
  return Array.from({ length: request.n }, (_, choice) => ({
    id: choiceId(request.line, choice),
    promptIds,
    maxTokens,
    sampling: { ...params, seed: BigInt.asUintN(64, params.seed + BigInt(choice)) },
    stop: { strings: request.stop, tokenIds: request.stopTokenIds, ignoreEos: request.ignoreEos },
    topLogprobs: request.topLogprobs,
  }));
}

/** A request without a seed gets one from its custom_id: 64-bit FNV-1a, so that a run can be repeated. */
export function defaultSeed(customId: string): bigint {
  let hash = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(customId)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  return hash;
}

function sampling(request: BatchRequest, defaults: GenerationDefaults): SamplingParams {
  return {
    temperature: request.temperature ?? defaults.temperature ?? 1,
    topP: request.topP ?? defaults.topP ?? 1,
    topK: request.topK ?? defaults.topK ?? 0,
    minP: request.minP ?? 0,
    seed: request.seed ?? defaultSeed(request.customId),
    frequencyPenalty: request.frequencyPenalty,
    presencePenalty: request.presencePenalty,
    repetitionPenalty: request.repetitionPenalty ?? defaults.repetitionPenalty ?? 1,
    logitBias: request.logitBias,
  };
}

function encodePrompt(request: BatchRequest, model: RequestModel): readonly number[] {
  const { prompt } = request;
  switch (prompt.type) {
    case 'tokens':
      return prompt.ids;
    case 'text':
      return encode(request, model, prompt.text, 'prompt', true);
    case 'chat':
      // A template writes the special tokens itself.
      return encode(request, model, renderChat(request, model, prompt.messages), 'messages', false);
    default:
      return prompt satisfies never;
  }
}

function renderChat(request: BatchRequest, model: RequestModel, messages: readonly BatchMessage[]): string {
  const { chatTemplate } = model;
  if (chatTemplate === null) {
    return fail(
      request,
      'messages',
      `needs a chat template, and the model ${model.name} has none: use /v1/completions`,
    );
  }
  try {
    return chatTemplate.render(messages);
  } catch (thrown) {
    return fail(request, 'messages', `was rejected by the chat template: ${toError(thrown).message}`);
  }
}

function encode(
  request: BatchRequest,
  model: RequestModel,
  text: string,
  field: string,
  addSpecial: boolean,
): readonly number[] {
  if (model.tokenizer === null) {
    return fail(
      request,
      field,
      `needs a tokenizer, and the model ${model.name} has none: give the prompt as token ids`,
    );
  }
  try {
    return model.tokenizer.encode(text, { addSpecial });
  } catch (thrown) {
    return fail(request, field, `could not be tokenised: ${toError(thrown).message}`);
  }
}

function fail(request: BatchRequest, field: string, detail: string, code: LineErrorCode = 'invalid_request'): never {
  const param = `${request.path}${field}`;
  throw new LineError(request.line, code, `${param} ${detail}`, { param, customId: request.customId });
}
