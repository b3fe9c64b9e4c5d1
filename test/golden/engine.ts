/** Requests and their outcomes as tests look at them: what an engine made of goldens, whatever its backends are. */
import type { EngineApi, FinishReason, GenerationRequest, SamplingParams, TokenLogprobs } from '@glinthawk/engine';
import { expect } from 'vitest';
import type { GoldenCase } from './golden-cases.ts';

export const greedy: SamplingParams = {
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  seed: 0n,
  frequencyPenalty: 0,
  presencePenalty: 0,
  repetitionPenalty: 1,
  logitBias: new Map(),
};

export interface RequestOverrides {
  readonly sampling?: Partial<SamplingParams>;
  readonly stop?: Partial<GenerationRequest['stop']>;
  readonly topLogprobs?: number | null;
}

export function requestOf(
  id: string,
  promptIds: readonly number[],
  maxTokens: number,
  overrides: RequestOverrides = {},
): GenerationRequest {
  return {
    id,
    promptIds,
    maxTokens,
    sampling: { ...greedy, ...overrides.sampling },
    stop: { strings: [], tokenIds: [], ignoreEos: true, ...overrides.stop },
    topLogprobs: overrides.topLogprobs ?? null,
  };
}

export interface Outcome {
  readonly ids: readonly number[];
  readonly text: string;
  readonly reason: FinishReason | 'error';
  readonly errorCode: string | null;
  readonly logprobs: readonly TokenLogprobs[] | null;
}

/** Runs requests to their end, and holds each one's token events to its finish event. */
export async function outcomes(
  engine: EngineApi,
  requests: Iterable<GenerationRequest> | AsyncIterable<GenerationRequest>,
): Promise<ReadonlyMap<string, Outcome>> {
  const streams = new Map<string, { ids: number[]; text: string }>();
  const ended = new Map<string, Outcome>();
  for await (const event of engine.generate(requests)) {
    expect(ended.has(event.id), `an event of ${event.id} after its end`).toBe(false);
    const stream = streams.get(event.id) ?? { ids: [], text: '' };
    streams.set(event.id, stream);
    switch (event.type) {
      case 'token':
        stream.ids.push(event.tokenId);
        stream.text += event.text;
        break;
      case 'finish': {
        const { tokenIds: ids, text, reason, logprobs } = event;
        expect(stream).toEqual({ ids, text });
        ended.set(event.id, { ids, text, reason, errorCode: null, logprobs });
        break;
      }
      case 'error':
        ended.set(event.id, { ...stream, reason: 'error', errorCode: event.error.code, logprobs: null });
        break;
      default:
        event satisfies never;
    }
  }
  return ended;
}

export function goldenRequests(goldens: readonly GoldenCase[], ignoreEos: boolean): GenerationRequest[] {
  return goldens.map((golden, i) =>
    requestOf(`golden-${i}`, golden.promptIds, golden.greedyIds.length, { stop: { ignoreEos }, topLogprobs: 8 }),
  );
}

/** Every golden's ids exactly, and the first step's log-probabilities within `tolerance` where the golden has them. */
export function expectGoldens(
  got: ReadonlyMap<string, Outcome>,
  goldens: readonly GoldenCase[],
  options: { readonly tolerance: number; readonly texts: boolean },
): void {
  for (const [i, golden] of goldens.entries()) {
    const outcome = got.get(`golden-${i}`);
    expect(outcome?.ids, `golden ${i}`).toEqual(golden.greedyIds);
    if (options.texts && golden.text !== null) {
      // Some goldens' texts were decoded by themselves, which drops a word's leading space; ours continue the prompt.
      const text = golden.text.startsWith(' ') ? outcome?.text : outcome?.text.replace(/^ /, '');
      expect(text, `text of golden ${i}`).toBe(golden.text);
    }
    if (golden.firstTopIs !== 'logprobs') continue;
    let compared = 0;
    for (const { tokenId, logprob } of outcome?.logprobs?.[0]?.top ?? []) {
      const expected = golden.firstTop.get(tokenId);
      if (expected === undefined) continue;
      expect(Math.abs(logprob - expected)).toBeLessThanOrEqual(options.tolerance);
      compared++;
    }
    // The eighth may change places with a ninth that is as near as the tolerance.
    expect(compared, `log-probabilities of golden ${i}`).toBeGreaterThanOrEqual(golden.firstTop.size - 1);
  }
}
