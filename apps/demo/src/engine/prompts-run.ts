/** One run of prompts: encoded as the engine has room for them, streamed, each finished or failed by itself. */
import type { GenerationRequest, SamplingParams } from '@glinthawk/engine';
import { encodeChat, encodePrompt, type Model } from '@glinthawk/model';
import { reportError } from './error-report.ts';
import type { Command, Event, Prompt, SamplingControls } from './protocol.ts';
import type { Session } from './session.ts';
import { TokenStream } from './token-stream.ts';

export type GenerateCommand = Extract<Command, { type: 'generate' }>;

export interface RunContext {
  readonly session: Pick<Session, 'model' | 'contextTokens' | 'generate'>;
  readonly signal: AbortSignal;
  readonly send: (event: Event) => void;
  /** Told as the count changes, so that it is known however the run ends. */
  readonly onTokens: (generatedTokens: number) => void;
}

/** @throws AbortedError when stopped, and what the session failed with */
export async function runPrompts({ run, prompts, sampling }: GenerateCommand, context: RunContext): Promise<void> {
  const { session, signal, send, onTokens } = context;
  const stream = new TokenStream(run, send);
  const seed = sampling.seed ?? randomSeed();
  function* requests(): Generator<GenerationRequest> {
    for (const [index, prompt] of prompts.entries()) {
      try {
        yield requestOf(run, index, encode(session.model, prompt), controlsOf(prompt, sampling), seed);
      } catch (thrown) {
        send({ type: 'requestFailed', run, index, error: reportError(thrown) });
      }
    }
  }
  const onRestart = (ids: readonly string[]) => {
    stream.flush();
    const indices = ids.map(indexOf);
    for (const index of indices) stream.restart(index);
    onTokens(stream.generatedTokens);
    if (indices.length > 0) send({ type: 'restarted', run, indices });
  };
  try {
    for await (const event of session.generate(requests(), { signal, onRestart })) {
      const index = indexOf(event.id);
      switch (event.type) {
        case 'token':
          stream.push(index, event.text);
          break;
        case 'finish': {
          const { reason, text, tokenIds, promptTokens } = event;
          stream.end(index, tokenIds.length);
          send({ type: 'finished', run, index, reason, text, tokenIds, promptTokens });
          break;
        }
        case 'error':
          send({ type: 'requestFailed', run, index, error: reportError(event.error) });
          break;
        default:
          event satisfies never;
      }
      onTokens(stream.generatedTokens);
    }
  } finally {
    stream.flush();
  }
}

function encode(model: Model, prompt: Prompt): readonly number[] {
  return prompt.kind === 'chat' ? encodeChat(model, prompt.messages) : encodePrompt(model, prompt.text);
}

function controlsOf(prompt: Prompt, sampling: SamplingControls): SamplingControls {
  if (prompt.kind !== 'text' || prompt.maxTokens === undefined) return sampling;
  return { ...sampling, maxTokens: prompt.maxTokens };
}

function requestOf(
  run: number,
  index: number,
  promptIds: readonly number[],
  controls: SamplingControls,
  seed: bigint,
): GenerationRequest {
  const { temperature, topP, topK, minP, repetitionPenalty, maxTokens, stop } = controls;
  const sampling: SamplingParams = {
    temperature,
    topP,
    topK,
    minP,
    repetitionPenalty,
    seed: BigInt.asUintN(64, seed + BigInt(index)),
    frequencyPenalty: 0,
    presencePenalty: 0,
    logitBias: new Map(),
  };
  return {
    id: `${run}.${index}`,
    promptIds,
    maxTokens,
    sampling,
    stop: { strings: stop, tokenIds: [], ignoreEos: false },
    topLogprobs: null,
  };
}

function indexOf(id: string): number {
  return Number(id.slice(id.indexOf('.') + 1));
}

function randomSeed(): bigint {
  return crypto.getRandomValues(new BigUint64Array(1))[0] ?? 0n;
}
