import { afterEach, expect, test } from 'vitest';
import type { Event, Prompt, SamplingControls, TierSettings } from '../engine/protocol.ts';
import { Experiment } from './experiment.ts';
import {
  DEFAULT_KNOBS,
  SETUPS,
  sameTiers,
  settingsFor,
  setupOf,
  storiesAtOnce,
  storyKvBytes,
} from './experiment-settings.ts';
import { report, SETTINGS, sampleAt } from './sample.fixture.ts';
import { SampleLog } from './sample-log.ts';
import { STORY_TOKENS, steadyPrompts } from './story-load.ts';
import { STORIES_SHOWN, StoryTexts } from './story-texts.ts';

const TOKEN_BYTES = 1536;
const made: Experiment[] = [];
afterEach(() => {
  for (const experiment of made.splice(0)) experiment.destroy();
});

function page() {
  const calls: string[] = [];
  const log = new SampleLog({ schedule: () => {}, now: () => 0 });
  let runs = 0;
  const experiment = new Experiment(log, {
    onRetier: (settings: TierSettings) => calls.push(`retier ${settings.mode} ${settings.inFlight}`),
    onLoad(prompts: readonly Prompt[], sampling: SamplingControls) {
      calls.push(`load ${prompts.length} of seed ${sampling.seed}`);
      return ++runs;
    },
    onStop: () => calls.push('stop'),
  });
  made.push(experiment);
  const ended = (run: number): Event => ({
    type: 'ended',
    run,
    how: 'stopped',
    error: null,
    wallMs: 1,
    generatedTokens: 1,
  });
  const ready: Event = { type: 'ready', model: undefined as never, tiers: report() };
  return { calls, log, experiment, ended, ready };
}

const ONE_TIER = settingsFor('one-tier', DEFAULT_KNOBS, SETTINGS, TOKEN_BYTES);
const MANY = settingsFor('many-in-flight', DEFAULT_KNOBS, SETTINGS, TOKEN_BYTES);

test('other tiers while stories are written: stop, change, write on', () => {
  const { calls, log, experiment, ended, ready } = page();
  experiment.start(48, null);
  experiment.change(ONE_TIER);
  experiment.change(MANY); // changed their mind before the run ended
  expect(calls).toEqual(['load 48 of seed 1', 'stop']);
  log.take(ended(99)); // the visitor's own prompt
  expect(calls).toHaveLength(2);
  log.take(ended(1));
  log.take(ready);
  expect(calls.slice(2)).toEqual(['retier two-tiers 16', 'load 48 of seed 1']);
  expect(experiment.load.value?.run).toBe(2);
});

test('tiers that were set by hand are changed before stories are written', () => {
  const { calls, log, experiment, ready } = page();
  experiment.start(48, MANY);
  log.take(ready);
  expect(calls).toEqual(['retier two-tiers 16', 'load 48 of seed 1']);
});

test('stopping means that nothing begins again, and so does a failure', () => {
  const { calls, log, experiment, ended, ready } = page();
  experiment.start(48, null);
  experiment.change(ONE_TIER);
  experiment.stop();
  log.take(ended(1));
  log.take(ready);
  expect(calls).toEqual(['load 48 of seed 1', 'stop', 'stop']);
  experiment.start(48, MANY);
  log.take({ type: 'failed', error: { code: 'X', message: 'x', hint: null } });
  log.take(ready);
  expect(calls.slice(3)).toEqual(['retier two-tiers 16']);
});

test('a run that failed is not followed by other tiers: what failed it is what is said', () => {
  const { calls, log, experiment, ended } = page();
  experiment.start(48, null);
  experiment.change(ONE_TIER);
  log.take({ ...ended(1), how: 'failed', error: { code: 'DEVICE_LOST', message: 'gone', hint: null } } as Event);
  log.take({ type: 'failed', error: { code: 'DEVICE_LOST', message: 'gone', hint: null } });
  expect(calls).toEqual(['load 48 of seed 1', 'stop']);
});

test('the first words of a story are there for a wall that comes later', () => {
  const { log, experiment } = page();
  experiment.start(48, null);
  log.take({ type: 'tokens', run: 1, texts: [{ index: 0, text: ' there', tokens: 1 }] });
  expect(experiment.load.value?.texts.story(0)).toEqual({ text: 'Once upon a time there', state: 'writing' });
});

test('each point of the log is told to the comparison once, also when several come at a time', () => {
  const { log, experiment } = page();
  const trials = SETUPS.map((setup) => ({ setup, settings: SETTINGS, atOnce: 1 }));
  experiment.compare(trials, SETTINGS, 10);
  log.take({ type: 'ready', model: undefined as never, tiers: report(SETTINGS) });
  const stats = (generatedTokens: number) => ({ stats: { generatedTokens } });
  for (const sample of [
    sampleAt(0),
    sampleAt(200, { ...stats(1), completeUntilMs: 0 }),
    sampleAt(400, { ...stats(2), completeUntilMs: 0 }),
    sampleAt(600, stats(3)),
  ])
    log.take({ type: 'sample', sample });
  const state = experiment.comparison.value;
  expect(state.phase === 'running' && state.stretches.map(({ generatedTokens }) => generatedTokens)).toEqual([1, 1, 1]);
});

test('the load of a comparison begins as if it had gone on for long: stories at all ages, then whole ones', () => {
  const prompts = steadyPrompts(200, 100);
  const lengthOf = (prompt: Prompt) => (prompt.kind === 'text' ? (prompt.maxTokens ?? STORY_TOKENS) : 0);
  const words = (prompt: Prompt) => (prompt.kind === 'text' ? prompt.text.split(' ').length : 0);
  for (const some of [prompts.slice(0, 20), prompts.slice(40, 70), prompts.slice(0, 100)]) {
    const mean = some.reduce((sum, prompt) => sum + lengthOf(prompt), 0) / some.length;
    expect(Math.abs(mean / STORY_TOKENS - 0.5)).toBeLessThan(0.07);
  }
  // What is written and what is to come make a whole story, about.
  for (const prompt of prompts.slice(0, 100)) {
    if (lengthOf(prompt) < STORY_TOKENS)
      expect(Math.abs(words(prompt) * 1.2 + lengthOf(prompt) - STORY_TOKENS)).toBeLessThan(3);
  }
  expect(prompts.slice(100).every((prompt) => lengthOf(prompt) === STORY_TOKENS)).toBe(true);
});

test('comparing stops the stories and goes through all three', () => {
  const { calls, log, experiment, ended } = page();
  experiment.start(48, null);
  const trials = SETUPS.map((setup) => ({
    setup,
    settings: settingsFor(setup, DEFAULT_KNOBS, SETTINGS, TOKEN_BYTES),
    atOnce: storiesAtOnce(setup, DEFAULT_KNOBS),
  }));
  experiment.compare(trials, SETTINGS, 500);
  log.take(ended(1));
  log.take({ type: 'ready', model: undefined as never, tiers: report(trials[0]?.settings) });
  expect(calls).toEqual(['load 48 of seed 1', 'stop', 'retier one-tier 1', 'load 500 of seed 1']);
  experiment.change(MANY); // not now
  experiment.stop();
  expect(calls.slice(4)).toEqual(['stop', 'retier two-tiers auto']);
  expect(experiment.comparison.value.phase).toBe('cancelled');
});

test('the three settings differ in what they say and in nothing else', () => {
  const [one, single, many] = SETUPS.map((setup) => settingsFor(setup, DEFAULT_KNOBS, SETTINGS, TOKEN_BYTES));
  expect(one).toMatchObject({ mode: 'one-tier', inFlight: 1, kvBytes: storyKvBytes(2, TOKEN_BYTES) });
  expect(single).toMatchObject({ mode: 'two-tiers', inFlight: 1, microBatchRows: 32, latencyMs: 10 });
  expect(many).toEqual({ ...single, inFlight: 16 });
  // Room for all that is in flight, and never less than the visitor gave.
  expect(many?.kvBytes).toBeGreaterThanOrEqual(storyKvBytes(512, TOKEN_BYTES));
  const rich = { ...SETTINGS, kvBytes: 2 ** 30 };
  expect(settingsFor('many-in-flight', DEFAULT_KNOBS, rich, TOKEN_BYTES).kvBytes).toBe(2 ** 30);
  const none = settingsFor('many-in-flight', DEFAULT_KNOBS, { ...SETTINGS, workers: 0 }, TOKEN_BYTES);
  expect(none.workers).toBe(1);
});

test('which of the three is open is told from the tiers; those set by hand are none', () => {
  for (const setup of SETUPS) {
    const settings = settingsFor(setup, DEFAULT_KNOBS, SETTINGS, TOKEN_BYTES);
    expect(setupOf(settings, DEFAULT_KNOBS, TOKEN_BYTES)).toBe(setup);
    expect(sameTiers(settings, { ...settings, latencyMs: 3 })).toBe(true);
  }
  expect(setupOf(SETTINGS, DEFAULT_KNOBS, TOKEN_BYTES)).toBeNull();
});

test('stories keep the text of the first few and count the rest', () => {
  const texts = new StoryTexts(
    4,
    Array.from({ length: 100 }, (_, i) => `Start ${i}`),
  );
  expect(texts.takeChanged()).toHaveLength(STORIES_SHOWN);
  texts.take({ type: 'tokens', run: 3, texts: [{ index: 0, text: ' other run', tokens: 1 }] });
  texts.take({
    type: 'tokens',
    run: 4,
    texts: [
      { index: 0, text: ' a', tokens: 1 },
      { index: 99, text: ' b', tokens: 1 },
      { index: 1000, text: ' nobody', tokens: 1 },
    ],
  });
  expect(texts.takeChanged()).toEqual([0]);
  expect(texts.story(0)).toEqual({ text: 'Start 0 a', state: 'writing' });
  expect(texts.countOf('writing')).toBe(2);
  texts.take({ type: 'restarted', run: 4, indices: [0] });
  expect(texts.story(0)).toEqual({ text: 'Start 0', state: 'waiting' });
  texts.take({ type: 'finished', run: 4, index: 0, reason: 'stop', text: ' whole', tokenIds: [1], promptTokens: 1 });
  texts.take({ type: 'requestFailed', run: 4, index: 1, error: { code: 'X', message: 'too long', hint: null } });
  expect(texts.story(0).text).toBe('Start 0 whole');
  expect([texts.countOf('done'), texts.countOf('failed'), texts.failure]).toEqual([1, 1, 'too long']);
});
