import { expect, test } from 'vitest';
import type { Measurement } from './comparison.ts';
import { DEFAULT_KNOBS, type Setup } from './experiment-settings.ts';
import { figuresOf } from './figures.ts';
import { verdict } from './verdict.ts';

function measured(setup: Setup, tokensPerSecond: number, over: Partial<Measurement> = {}): Measurement {
  const base = { denseShare: 0.5, attentionShare: 0.1, hiddenShare: 0.6, decodeRows: 16, running: 16 };
  return { ...figuresOf([]), setup, tokensPerSecond, steady: true, ...base, ...over };
}

const judge = (one: Measurement, single: Measurement, many: Measurement) => verdict([one, single, many], DEFAULT_KNOBS);

test('many in flight wins: by how much, how batches grew, how much was hidden', () => {
  const { winner, headline, why } = judge(
    measured('one-tier', 1244, { running: 4.8, decodeRows: 4.7, preemptionsPerSecond: 5.9, hiddenShare: null }),
    measured('one-in-flight', 195),
    measured('many-in-flight', 1639, { running: 381, hiddenShare: 0.94, denseShare: 0.96 }),
  );
  expect(winner).toBe('many-in-flight');
  expect(headline).toContain('1,639 tokens a second, 1.3 times one tier');
  expect(headline).toContain('8.4 times the 195 of 1 in flight');
  expect(why).toContain('4.8 stories');
  expect(why).toContain('wrote 4.7 tokens (and 5.9 times a second one story made room for another');
  expect(why).toContain('94 % was hidden');
});

test('one tier wins while two tiers stand idle: more in flight would change that', () => {
  const { winner, headline, why } = judge(
    measured('one-tier', 3000),
    measured('one-in-flight', 200),
    measured('many-in-flight', 700, { denseShare: 0.2, hiddenShare: 0.2 }),
  );
  expect(winner).toBe('one-tier');
  expect(headline).toContain('One tier wins here: 3,000');
  expect(why).toContain('80 % of the time away was exposed');
  expect(why).toContain('More in flight');
});

test('one tier wins though two tiers are busy: its memory was enough', () => {
  const { winner, why } = judge(
    measured('one-tier', 7000, { decodeRows: 64 }),
    measured('one-in-flight', 200),
    measured('many-in-flight', 5000, { denseShare: 0.97 }),
  );
  expect(winner).toBe('one-tier');
  expect(why).toContain('64 tokens a call');
  expect(why).toContain('longer contexts');
});

test('1 in flight may win, and says so', () => {
  const { winner, why } = judge(
    measured('one-tier', 1000),
    measured('one-in-flight', 4000, { decodeRows: 16 }),
    measured('many-in-flight', 3000, { decodeRows: 2.1 }),
  );
  expect(winner).toBe('one-in-flight');
  expect(why).toContain('2.1 tokens a call instead of 16');
});

test('nothing is decided against what was not steady and might have won; what could not have won all the same has lost', () => {
  const one = measured('one-tier', 996);
  const reading = measured('many-in-flight', 741, { steady: false, decodeRows: 17.8, prefillRows: 14.2 });
  const undecided = judge(one, measured('one-in-flight', 194), reading);
  expect(undecided.winner).toBeNull();
  expect(undecided.headline).toContain('Not decided: two tiers with 16 in flight was not steady');
  expect(undecided.why).toContain('wrote 18 tokens and read 14.2');
  const slow = measured('one-in-flight', 194, { steady: false, prefillRows: 16 });
  expect(judge(one, slow, measured('many-in-flight', 500)).winner).toBe('one-tier');
  expect(judge(one, measured('one-in-flight', 1), { ...reading, tokensPerSecond: 2000 }).winner).toBe('many-in-flight');
});

test('what is less than 5 % apart is a tie', () => {
  const { winner, headline } = judge(
    measured('one-tier', 1000),
    measured('one-in-flight', 100),
    measured('many-in-flight', 1030),
  );
  expect(winner).toBeNull();
  expect(headline).toContain('A tie');
});

test('without figures there is no claim', () => {
  expect(verdict([], DEFAULT_KNOBS).winner).toBeNull();
  const nothing = judge(measured('one-tier', 0), measured('one-in-flight', 0), measured('many-in-flight', 0));
  expect(nothing).toMatchObject({ winner: null, headline: 'Nothing was generated.' });
});
