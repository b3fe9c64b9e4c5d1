/** Text that streams in, is void after a lost device, or comes late for another run. */
import { expect, test } from 'vitest';
import type { Prompt } from '../engine/protocol.ts';
import { beginRun, type RunState, reduceRun, tokensOf, tokensPerSecond } from './run-state.ts';

const PROMPTS: readonly Prompt[] = [
  { kind: 'text', text: 'Once' },
  { kind: 'text', text: 'Twice' },
];
const ERROR = { code: 'X', message: 'it broke', hint: null };

function begun(): RunState {
  return beginRun(3, PROMPTS, 1000);
}

function wrote(state: RunState, index: number, text: string, tokens: number, atMs: number): RunState {
  return reduceRun(state, { type: 'tokens', run: state.run, texts: [{ index, text, tokens }] }, atMs);
}

test('text is appended to its own prompt', () => {
  const state = wrote(wrote(wrote(begun(), 0, ' upon', 1, 1100), 1, ' more', 1, 1200), 0, ' a time', 3, 1300);
  expect(state.answers.map(({ text }) => text)).toEqual([' upon a time', ' more']);
  expect(tokensOf(state)).toBe(4);
});

test('the rate counts from the first text, not from the beginning', () => {
  const state = wrote(wrote(begun(), 0, 'a', 1, 2000), 0, 'b', 21, 3000);
  expect(tokensPerSecond(state)).toBeCloseTo(21);
  expect(tokensPerSecond(begun())).toBeNull();
});

test('a finished text that continues what was shown keeps its epoch, another one begins anew', () => {
  const finished = { type: 'finished', run: 3, index: 0, reason: 'stop', tokenIds: [1, 2], promptTokens: 5 } as const;
  const shown = wrote(begun(), 0, ' upon', 1, 1100);
  const same = reduceRun(shown, { ...finished, text: ' upon a' }, 1200);
  expect(same.answers[0]).toMatchObject({
    text: ' upon a',
    tokens: 2,
    promptTokens: 5,
    epoch: 0,
    ended: { reason: 'stop' },
  });
  expect(reduceRun(shown, { ...finished, text: ' else' }, 1200).answers[0]?.epoch).toBe(1);
});

test('after a lost device a text is void and its epoch grows; others stay', () => {
  const shown = wrote(wrote(begun(), 0, 'a', 1, 1100), 1, 'b', 1, 1100);
  const state = reduceRun(shown, { type: 'restarted', run: 3, indices: [0] }, 1200);
  expect(state.answers[0]).toMatchObject({ text: '', tokens: 0, epoch: 1 });
  expect(state.answers[1]).toMatchObject({ text: 'b', epoch: 0 });
});

test('events of another run change nothing', () => {
  const state = begun();
  expect(reduceRun(state, { type: 'tokens', run: 2, texts: [{ index: 0, text: 'late', tokens: 9 }] }, 1100)).toBe(
    state,
  );
  expect(reduceRun(state, { type: 'closed' }, 1100)).toBe(state);
});

test('a text for an index that does not exist is dropped', () => {
  expect(wrote(begun(), 7, 'x', 1, 1100).answers).toEqual(begun().answers);
});

test('a request that failed keeps what was written', () => {
  const state = reduceRun(
    wrote(begun(), 0, 'a', 1, 1100),
    { type: 'requestFailed', run: 3, index: 0, error: ERROR },
    1200,
  );
  expect(state.answers[0]).toMatchObject({ text: 'a', ended: { error: ERROR } });
});

test('an engine that is gone ends the run once', () => {
  const state = reduceRun(wrote(begun(), 0, 'a', 4, 1100), { type: 'failed', error: ERROR }, 1500);
  expect(state.ended).toEqual({ how: 'failed', error: ERROR, wallMs: 500, generatedTokens: 4 });
  const ended = reduceRun(
    begun(),
    { type: 'ended', run: 3, how: 'done', error: null, wallMs: 9, generatedTokens: 2 },
    1,
  );
  expect(reduceRun(ended, { type: 'failed', error: ERROR }, 1500)).toBe(ended);
});
