/** What the engine refuses of a request, before it takes any part of it. */
import { CapacityError, type GlinthawkError, InputError } from '@glinthawk/core';
import { MAX_STOP_STRINGS } from './detokenizer.ts';
import type { GenerationRequest } from './request.ts';
import { MAX_TOP_LOGPROBS } from './sampler.ts';

export interface RequestLimits {
  readonly vocabSize: number;
  /** Prompt and generated tokens together: the model's, or less as configured. */
  readonly contextTokens: number;
  /** Tokens that one sequence's KV can have, over all nodes. */
  readonly kvTokens: number;
  readonly hasTokenizer: boolean;
}

/** The error that the request fails with, or null. */
export function validateRequest(request: GenerationRequest, limits: RequestLimits): GlinthawkError | null {
  const { promptIds, maxTokens, stop, topLogprobs } = request;
  if (promptIds.length === 0) {
    return new InputError('EMPTY_PROMPT', 'the prompt has no tokens; generation needs one at least');
  }
  const bad = promptIds.find((id) => !isTokenId(id, limits.vocabSize));
  if (bad !== undefined) return tokenError('prompt', bad, limits.vocabSize);
  const badStop = stop.tokenIds.find((id) => !isTokenId(id, limits.vocabSize));
  if (badStop !== undefined) return tokenError('stop_token_ids', badStop, limits.vocabSize);
  if (!Number.isInteger(maxTokens) || maxTokens < 1) {
    return new InputError('INVALID_MAX_TOKENS', `max_tokens is ${maxTokens}, expected a whole number of 1 or more`);
  }
  if (promptIds.length >= limits.contextTokens) {
    return new InputError(
      'CONTEXT_EXCEEDED',
      `the prompt has ${promptIds.length} tokens, the context ${limits.contextTokens}, and one must be left to generate`,
    );
  }
  if (promptIds.length >= limits.kvTokens) {
    return new CapacityError(
      'KV_CAPACITY',
      `the prompt has ${promptIds.length} tokens, and the KV memory of all attention nodes together holds ${limits.kvTokens} of one sequence`,
      { hint: 'give the attention nodes more memory, connect more of them, or use a smaller KV type' },
    );
  }
  if (stop.strings.length > MAX_STOP_STRINGS) {
    return new InputError('TOO_MANY_STOPS', `${stop.strings.length} stop strings, at most ${MAX_STOP_STRINGS}`);
  }
  if (stop.strings.length > 0 && !limits.hasTokenizer) {
    return new InputError('STOP_NEEDS_TOKENIZER', 'stop strings need a tokenizer, and this model has none', {
      hint: 'use stop_token_ids',
    });
  }
  if (topLogprobs !== null && !(Number.isInteger(topLogprobs) && topLogprobs >= 0 && topLogprobs <= MAX_TOP_LOGPROBS)) {
    return new InputError('INVALID_TOP_LOGPROBS', `top_logprobs is ${topLogprobs}, expected 0 to ${MAX_TOP_LOGPROBS}`);
  }
  return validateSampling(request, limits.vocabSize);
}

function validateSampling({ sampling }: GenerationRequest, vocabSize: number): InputError | null {
  const { temperature, topP, topK, minP, frequencyPenalty, presencePenalty, repetitionPenalty, logitBias } = sampling;
  const ranges: readonly (readonly [string, number, boolean, string])[] = [
    ['temperature', temperature, temperature >= 0 && temperature < Number.POSITIVE_INFINITY, '0 or more'],
    ['top_p', topP, topP > 0 && topP <= 1, 'more than 0, at most 1'],
    ['top_k', topK, Number.isInteger(topK) && topK >= 0, 'a whole number of 0 or more'],
    ['min_p', minP, minP >= 0 && minP <= 1, '0 to 1'],
    ['frequency_penalty', frequencyPenalty, Number.isFinite(frequencyPenalty), 'a finite number'],
    ['presence_penalty', presencePenalty, Number.isFinite(presencePenalty), 'a finite number'],
    [
      'repetition_penalty',
      repetitionPenalty,
      repetitionPenalty > 0 && Number.isFinite(repetitionPenalty),
      'more than 0',
    ],
  ];
  for (const [name, value, ok, expected] of ranges) {
    if (!ok) return new InputError('INVALID_SAMPLING', `${name} is ${value}, expected ${expected}`);
  }
  for (const [id, bias] of logitBias) {
    if (!isTokenId(id, vocabSize)) return tokenError('logit_bias', id, vocabSize);
    if (!Number.isFinite(bias)) {
      return new InputError('INVALID_SAMPLING', `logit_bias of token ${id} is ${bias}, expected a finite number`);
    }
  }
  return null;
}

function isTokenId(id: number, vocabSize: number): boolean {
  return Number.isInteger(id) && id >= 0 && id < vocabSize;
}

function tokenError(where: string, id: number, vocabSize: number): InputError {
  return new InputError(
    'TOKEN_OUT_OF_RANGE',
    `token id ${id} in ${where}: the vocabulary has ids 0 to ${vocabSize - 1}`,
  );
}
