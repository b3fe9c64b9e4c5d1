/** Text goes out soon, and not too often. */
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import type { Event } from './protocol.ts';
import { TokenStream } from './token-stream.ts';

let sent: Extract<Event, { type: 'tokens' }>[] = [];
const stream = () => new TokenStream(7, (event) => sent.push(event));

beforeEach(() => {
  vi.useFakeTimers();
  sent = [];
});
afterEach(() => vi.useRealTimers());

it('joins what comes within a twentieth of a second, of all prompts, with the tokens so far', () => {
  const tokens = stream();
  tokens.push(0, 'a');
  vi.advanceTimersByTime(1);
  expect(sent.length).toBe(1); // the first doesn't wait
  for (const text of ['b', 'c']) tokens.push(0, text);
  tokens.push(1, 'x');
  vi.advanceTimersByTime(30);
  expect(sent.length).toBe(1);
  vi.advanceTimersByTime(30);
  expect(sent[1]).toEqual({
    type: 'tokens',
    run: 7,
    texts: [
      { index: 0, text: 'bc', tokens: 3 },
      { index: 1, text: 'x', tokens: 1 },
    ],
  });
});

it('sends at most twenty messages a second', () => {
  const tokens = stream();
  for (let i = 0; i < 1000; i++) {
    tokens.push(0, 'x');
    vi.advanceTimersByTime(1);
  }
  expect(sent.length).toBeLessThanOrEqual(21);
});

it('forgets what is void, and what its finish tells', () => {
  const tokens = stream();
  tokens.push(0, 'a');
  tokens.push(1, 'b');
  tokens.restart(0);
  tokens.end(1, 5);
  expect(tokens.generatedTokens).toBe(5);
  tokens.flush();
  expect(sent).toEqual([]);
});
