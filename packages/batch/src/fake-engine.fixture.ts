/** For tests: a tokenizer whose tokens are bytes, and an engine that answers with a function of the prompt, in shuffled order. */
import { GlinthawkError, type Tokenizer } from '@glinthawk/core';
import type { EngineApi, GenerationEvent, GenerationRequest } from '@glinthawk/engine';
import type { RequestModel } from './prepare-request.ts';

const BOS = 256;

/** Ids 0 to 255 are bytes, 256 is the begin-of-text token. */
export const byteTokenizer: Tokenizer = {
  vocabSize: 257,
  encode(text, { addSpecial }) {
    const bytes = Array.from(new TextEncoder().encode(text));
    return addSpecial ? [BOS, ...bytes] : bytes;
  },
  tokenBytes: (id) => (id < BOS ? Uint8Array.of(id) : new Uint8Array(0)),
  isSpecial: (id) => id === BOS,
};

export function byteModel(overrides: Partial<RequestModel> = {}): RequestModel {
  return {
    name: 'bytes',
    vocabSize: 257,
    contextTokens: 512,
    tokenizer: byteTokenizer,
    chatTemplate: { render: (messages) => messages.map(({ role, content }) => `<${role}>${content}`).join('') },
    defaults: {},
    ...overrides,
  };
}

/** The fake's answer: the prompt's ids backwards, a few of them. */
export function fakeTokens(request: GenerationRequest): number[] {
  const ids = request.promptIds.filter((id) => id < 128).toReversed();
  return ids.slice(0, Math.min(request.maxTokens, 8));
}

export interface FakeEngineOptions {
  readonly concurrency?: number;
  /** Pause before each answer. */
  readonly delayMs?: number;
  readonly fails?: (request: GenerationRequest) => boolean;
  readonly seed?: number;
}

export function fakeEngine(options: FakeEngineOptions = {}): Pick<EngineApi, 'generate'> {
  const { concurrency = 8, delayMs = 0, fails = () => false } = options;
  let state = options.seed ?? 1;
  const random = (below: number) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (state >>> 8) % below;
  };
  return {
    async *generate(requests, { signal } = {}): AsyncGenerator<GenerationEvent> {
      const running: GenerationRequest[] = [];
      const answer = async (): Promise<GenerationEvent> => {
        const [request] = running.splice(random(running.length), 1);
        if (request === undefined) throw new Error('nothing runs');
        if (delayMs > 0) await new Promise((resolve) => setTimeout(resolve, delayMs));
        signal?.throwIfAborted();
        if (fails(request)) {
          return { type: 'error', id: request.id, error: new GlinthawkError('FAKE_FAILURE', 'the fake failed') };
        }
        const tokenIds = fakeTokens(request);
        const logprobs =
          request.topLogprobs === null
            ? null
            : tokenIds.map((tokenId) => ({
                tokenId,
                logprob: -0.5,
                top: Array.from({ length: request.topLogprobs ?? 0 }, (_, i) => ({ tokenId: 97 + i, logprob: -i })),
              }));
        const text = String.fromCharCode(...tokenIds);
        const promptTokens = request.promptIds.length;
        return { type: 'finish', id: request.id, reason: 'length', text, tokenIds, logprobs, promptTokens };
      };
      for await (const request of requests) {
        signal?.throwIfAborted();
        running.push(request);
        if (running.length >= concurrency) yield await answer();
      }
      while (running.length > 0) yield await answer();
    },
  };
}
