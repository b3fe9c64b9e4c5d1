/** The load of the experiment: many short stories at once, sampled, which the bundled example model is made to write. */
import type { Prompt, SamplingControls } from '../engine/protocol.ts';

const BEGINNINGS = [
  'Once upon a time',
  'The little dragon',
  'One day, a girl named Lily',
  'Tom had a red kite.',
  'In the garden there was',
  'The old cat was sad because',
  'There was a small blue boat.',
  'Mom made a big cake for',
  'It was raining, so',
  'The bear and the rabbit',
  'A tiny seed fell',
  'Sam wanted to fly',
] as const;

export const STORY_TOKENS = 120;
/** Tokens of the longest beginning, about; what a story needs of KV is this and STORY_TOKENS. */
export const BEGINNING_TOKENS = 12;

/** The first few a visitor sees, then again; what is sampled differs by the seed of each. */
export function storyPrompts(count: number): readonly Prompt[] {
  return Array.from({ length: count }, (_, i) => ({ kind: 'text', text: BEGINNINGS[i % BEGINNINGS.length] ?? '' }));
}

/** Every run of the load is the same one, so that settings can be compared: the i-th story has seed 1 + i. */
export const STORY_SAMPLING: SamplingControls = {
  temperature: 0.9,
  topP: 0.95,
  topK: 0,
  minP: 0,
  repetitionPenalty: 1,
  seed: 1n,
  maxTokens: STORY_TOKENS,
  stop: [],
};
