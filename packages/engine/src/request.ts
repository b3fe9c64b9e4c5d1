/**
 * What goes into the engine and what comes out. Everything here is token ids and numbers; files, HTTP shapes and chat
 * templates are other packages' work.
 */
import type { GlinthawkError } from '@glinthawk/core';

export interface SamplingParams {
  /** 0 is greedy. */
  readonly temperature: number;
  /** Nucleus: the smallest set of most probable tokens with at least this much probability; 1 is all. */
  readonly topP: number;
  /** 0 is all. */
  readonly topK: number;
  /** Tokens less probable than minP times the most probable one are dropped; 0 drops none. */
  readonly minP: number;
  /** Unsigned 64 bits. The i-th token of a request depends on the seed, i and the distribution only. */
  readonly seed: bigint;
  readonly frequencyPenalty: number;
  readonly presencePenalty: number;
  /** Over prompt and generated tokens, as in CTRL (arXiv 1909.05858); 1 is none. */
  readonly repetitionPenalty: number;
  readonly logitBias: ReadonlyMap<number, number>;
}

export interface GenerationRequest {
  readonly id: string;
  readonly promptIds: readonly number[];
  readonly maxTokens: number;
  readonly sampling: SamplingParams;
  readonly stop: {
    readonly strings: readonly string[];
    readonly tokenIds: readonly number[];
    readonly ignoreEos: boolean;
  };
  /** How many most probable tokens to report beside each chosen one (0 to 20); null reports no log-probabilities. */
  readonly topLogprobs: number | null;
}

export interface Logprob {
  readonly tokenId: number;
  readonly logprob: number;
}

export interface TokenLogprobs extends Logprob {
  readonly top: readonly Logprob[];
}

export type FinishReason = 'stop' | 'length';

export type GenerationEvent =
  | {
      readonly type: 'token';
      readonly id: string;
      readonly tokenId: number;
      /** Text that is now certain: whole characters, and none that may turn out to begin a stop string. */
      readonly text: string;
      readonly logprobs: TokenLogprobs | null;
    }
  | {
      readonly type: 'finish';
      readonly id: string;
      readonly reason: FinishReason;
      /** The whole text, without the stop string. */
      readonly text: string;
      /** All generated ids, the end-of-text or stop token included. */
      readonly tokenIds: readonly number[];
      readonly logprobs: readonly TokenLogprobs[] | null;
      readonly promptTokens: number;
    }
  /** This request failed; others go on. */
  | { readonly type: 'error'; readonly id: string; readonly error: GlinthawkError };
