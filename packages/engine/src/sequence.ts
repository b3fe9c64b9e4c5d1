/**
 * One request on its way: its tokens, which are durable, and its place in the attention tier, which is not. Any KV can be made
 * again from the tokens, so losing it (preemption, a lost node) changes nothing but time.
 */
import type { Tokenizer } from '@glinthawk/core';
import { Detokenizer } from './detokenizer.ts';
import type { Job } from './job.ts';
import type { Placement } from './kv-shard.ts';
import { extendChain } from './prefix-index.ts';
import type { FinishReason, GenerationEvent, GenerationRequest, TokenLogprobs } from './request.ts';
import type { TokenCounts } from './sampler.ts';
import type { PendingSequence } from './scheduler/policy.ts';

export interface SequenceSettings {
  readonly arrival: number;
  readonly tokenizer: Tokenizer | undefined;
  readonly eosTokenIds: readonly number[];
  /** Prompt and generated tokens together, at most. */
  readonly mostTokens: number;
}

export class Sequence implements PendingSequence, TokenCounts {
  readonly job: Job;
  readonly request: GenerationRequest;
  readonly arrival: number;
  readonly promptTokens: number;
  /** Prompt and generated tokens together, at most: by the request, the context, or what all nodes together can hold. */
  readonly mostTokens: number;
  /** Tokens whose KV stands at the placement: positions 0 to kvTokens - 1. */
  kvTokens = 0;
  placement: Placement<Sequence> | null = null;
  /** Prompt tokens that went through at least once, for statistics. */
  prefilledTokens = 0;
  /** Index of the micro-batch that it goes with, while placed. */
  lane = -1;
  /** Rows of it are under way: its placement may not be given back before the step ends. */
  inStep = false;
  /** It gives up its KV when its step ends. */
  leaving = false;
  /** Finished, failed or dropped: nothing of it is wanted any more. */
  ended = false;
  /** Its KV is not to be trusted: nobody else is to have it. */
  failed = false;
  readonly #settings: SequenceSettings;
  readonly #detokenizer: Detokenizer;
  readonly #logprobs: TokenLogprobs[] = [];
  #tokens: Uint32Array;
  #length: number;
  #text = '';
  /** By tokens of a block, which nodes may differ in. */
  readonly #chains = new Map<number, number[]>();
  #prompt: ReadonlySet<number> | null = null;
  /** Counted from the first time that somebody asks. */
  #generated: Map<number, number> | null = null;

  constructor(job: Job, request: GenerationRequest, settings: SequenceSettings) {
    this.job = job;
    this.request = request;
    this.arrival = settings.arrival;
    this.promptTokens = request.promptIds.length;
    this.mostTokens = Math.min(settings.mostTokens, this.promptTokens + request.maxTokens);
    this.#settings = settings;
    this.#detokenizer = new Detokenizer(settings.tokenizer, request.stop.strings);
    this.#tokens = Uint32Array.from(request.promptIds);
    this.#length = this.promptTokens;
  }

  /** Prompt and generated tokens. */
  get length(): number {
    return this.#length;
  }

  get generatedTokens(): number {
    return this.#length - this.promptTokens;
  }

  /** Prompt and generated tokens; a view, good until the next one is generated. */
  get tokens(): Uint32Array {
    return this.#tokens.subarray(0, this.#length);
  }

  /** The hashes of its whole blocks of so many tokens. */
  chain(blockTokens: number): readonly number[] {
    let chain = this.#chains.get(blockTokens);
    if (chain === undefined) {
      chain = [];
      this.#chains.set(blockTokens, chain);
    }
    extendChain(chain, this.tokens, blockTokens);
    return chain;
  }

  get pendingTokens(): number {
    return this.#length - this.kvTokens;
  }

  get paused(): boolean {
    return this.job.paused;
  }

  get stepTokens(): number {
    const end = this.placement?.endOfPartAt(this.kvTokens) ?? this.#length;
    return Math.min(this.#length, end) - this.kvTokens;
  }

  get nodes(): readonly number[] {
    return this.placement?.partsTo(this.kvTokens).map(({ shard }) => shard.node) ?? [];
  }

  get prompt(): ReadonlySet<number> {
    this.#prompt ??= new Set(this.request.promptIds);
    return this.#prompt;
  }

  get generated(): ReadonlyMap<number, number> {
    if (this.#generated === null) {
      this.#generated = new Map();
      for (let i = this.promptTokens; i < this.#length; i++) this.#countGenerated(this.#tokens[i] as number);
    }
    return this.#generated;
  }

  /** Copies tokens `start` to `start + count - 1` to `target` at `at`. */
  copyTokens(start: number, count: number, target: Uint32Array, at: number): void {
    for (let i = 0; i < count; i++) target[at + i] = this.#tokens[start + i] as number;
  }

  /** Takes a generated token; gives the events that follow from it, a finish last when it was the last token. */
  accept(tokenId: number, logprobs: TokenLogprobs | null): readonly GenerationEvent[] {
    this.#append(tokenId);
    if (logprobs !== null) this.#logprobs.push(logprobs);
    const { text, reason } = this.#advance(tokenId);
    this.#text += text;
    const { id } = this.request;
    const token: GenerationEvent = { type: 'token', id, tokenId, text, logprobs };
    if (reason === null) return [token];
    this.ended = true;
    const finish: GenerationEvent = {
      type: 'finish',
      id,
      reason,
      text: this.#text,
      tokenIds: Array.from(this.#tokens.subarray(this.promptTokens, this.#length)),
      logprobs: this.request.topLogprobs === null ? null : this.#logprobs,
      promptTokens: this.promptTokens,
    };
    return [token, finish];
  }

  #advance(tokenId: number): { readonly text: string; readonly reason: FinishReason | null } {
    const { stop } = this.request;
    const ends = !stop.ignoreEos && this.#settings.eosTokenIds.includes(tokenId);
    if (ends || stop.tokenIds.includes(tokenId)) return { text: this.#detokenizer.end().text, reason: 'stop' };
    const piece = this.#detokenizer.push(tokenId);
    if (piece.stopped) return { text: piece.text, reason: 'stop' };
    if (this.#length < this.mostTokens) return { text: piece.text, reason: null };
    const rest = this.#detokenizer.end();
    return { text: piece.text + rest.text, reason: rest.stopped ? 'stop' : 'length' };
  }

  #append(tokenId: number): void {
    if (this.#length === this.#tokens.length) {
      const grown = new Uint32Array(Math.max(16, Math.min(this.mostTokens, this.#length * 2)));
      grown.set(this.#tokens);
      this.#tokens = grown;
    }
    this.#tokens[this.#length++] = tokenId;
    this.#countGenerated(tokenId);
  }

  #countGenerated(tokenId: number): void {
    this.#generated?.set(tokenId, (this.#generated.get(tokenId) ?? 0) + 1);
  }
}
