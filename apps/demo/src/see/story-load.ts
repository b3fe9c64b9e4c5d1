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

export const STORY_TOKENS = 64;
/** Tokens of the longest beginning, about; what a story needs of KV is this and STORY_TOKENS. */
export const BEGINNING_TOKENS = 12;

/** The first few a visitor sees, then again; what is sampled differs by the seed of each. */
export function storyPrompts(count: number): readonly Prompt[] {
  return Array.from({ length: count }, (_, i) => ({ kind: 'text', text: BEGINNINGS[i % BEGINNINGS.length] ?? '' }));
}

/** What stories that are partly written are made of: as many words as make STORY_TOKENS of the example's tokens, and some. */
const WRITTEN =
  'Once upon a time there was a little girl named Lily. She lived in a small house near a big tree. One day she went ' +
  'outside to play with her red ball. The ball rolled down the hill and into the water. Lily was sad, but a kind dog saw ' +
  'it and swam to get it. They played together until the sun went down.';
const WRITTEN_WORDS: readonly string[] = WRITTEN.split(' ');
/** Of the example's tokenizer, on such text. */
const TOKENS_PER_WORD = 1.2;
const GOLDEN = (Math.sqrt(5) - 1) / 2;

/**
 * The load as it would be if it had been going on for long, from the start: of the first `atOnce` stories each is partly written,
 * at ages spread evenly over a story's length, and has the rest of it to go. Then come whole ones. So stories end, and others are
 * read in, as often while it is measured as they would for ever.
 */
export function steadyPrompts(count: number, atOnce: number): readonly Prompt[] {
  return storyPrompts(count).map((prompt, i) => {
    const age = (i * GOLDEN) % 1;
    const words = Math.floor((age * STORY_TOKENS) / TOKENS_PER_WORD);
    if (i >= atOnce || words === 0) return prompt;
    const text = WRITTEN_WORDS.slice(0, words).join(' ');
    return { kind: 'text', text, maxTokens: Math.max(1, Math.round((1 - age) * STORY_TOKENS)) };
  });
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
