import { expect, test } from 'vitest';
import type { Event } from '../engine/protocol.ts';
import {
  type ComparisonState,
  type Input,
  isSteady,
  MAX_WARM_MS,
  MEASURE_MS,
  STUCK_MS,
  stepComparison,
  type Trial,
  WARM_MS,
} from './comparison.ts';
import { DEFAULT_KNOBS, SETUPS, settingsFor } from './experiment-settings.ts';
import type { Stretch } from './figures.ts';
import { report, SETTINGS, stretchOf } from './sample.fixture.ts';

const TOKEN_BYTES = 1536;
const TRIALS: readonly Trial[] = SETUPS.map((setup) => ({
  setup,
  settings: settingsFor(setup, DEFAULT_KNOBS, SETTINGS, TOKEN_BYTES),
  atOnce: 2,
}));
const MODEL = undefined as never;

/** A fifth of a second of a load that goes on evenly. */
function even(over: Partial<Stretch> = {}): Stretch {
  return stretchOf({ generatedTokens: 200, steps: 50, rows: 220, running: 4, contextTokens: 30, ...over });
}

const ended = (run: number, over: Partial<Extract<Event, { type: 'ended' }>> = {}): Input => ({
  type: 'event',
  event: { type: 'ended', run, how: 'stopped', error: null, wallMs: 1000, generatedTokens: 500, ...over },
});
const ready = (trial: number): Input => ({
  type: 'event',
  event: { type: 'ready', model: MODEL, tiers: report(TRIALS[trial]?.settings) },
});

class Machine {
  state: ComparisonState = { phase: 'idle' };
  readonly done: string[] = [];

  send(...inputs: readonly Input[]): this {
    for (const input of inputs) {
      const { state, effects } = stepComparison(this.state, input);
      this.state = state;
      for (const effect of effects)
        this.done.push(
          effect.type === 'retier' ? `retier ${effect.settings.mode} ${effect.settings.inFlight}` : effect.type,
        );
    }
    return this;
  }

  stretches(ms: number, over: Partial<Stretch> | ((atMs: number) => Partial<Stretch>) = {}): this {
    for (let at = 0; at < ms; at += 200)
      this.send({ type: 'stretch', stretch: even(typeof over === 'function' ? over(at) : over) });
    return this;
  }

  /** The tiers of a trial are open, and all stories that are written at once have begun. */
  begin(trial: number, run: number): this {
    const texts = [0, 1].map((index) => ({ index, text: 'a', tokens: 1 }));
    return this.send(ready(trial), { type: 'loaded', run }, { type: 'event', event: { type: 'tokens', run, texts } });
  }

  start(busyRun: number | null = null): this {
    return this.send({ type: 'start', trials: TRIALS, restore: SETTINGS, busyRun });
  }
}

test('three trials, one after the other, each measured after it is warm; then the tiers are what they were', () => {
  const machine = new Machine().start();
  for (const trial of [0, 1, 2]) {
    machine.begin(trial, trial + 7);
    machine.stretches(600, { generatedTokens: 0 }); // prefill
    machine.stretches(WARM_MS, { generatedTokens: 9999 }); // doesn't count
    machine.stretches(MEASURE_MS, {
      generatedTokens: 20 * (trial + 1),
      hiddenMs: 50 * trial,
      exposedMs: 200 - 50 * trial,
    });
    expect(machine.state).toMatchObject({ stage: 'ending' });
    machine.send(ended(trial + 7));
  }
  expect(machine.done).toEqual([
    'retier one-tier 1',
    'load',
    'stop',
    'retier two-tiers 1',
    'load',
    'stop',
    'retier two-tiers 16',
    'load',
    'stop',
    'retier two-tiers auto',
  ]);
  if (machine.state.phase !== 'done') throw new Error(machine.state.phase);
  expect(machine.state.results.map(({ setup, tokensPerSecond }) => [setup, Math.round(tokensPerSecond)])).toEqual([
    ['one-tier', 100],
    ['one-in-flight', 200],
    ['many-in-flight', 300],
  ]);
  expect(machine.state.results[2]?.hiddenShare).toBeCloseTo(0.5);
});

test('a load that is under way is stopped first', () => {
  const machine = new Machine().start(3);
  expect(machine.done).toEqual(['stop']);
  machine.send(ready(0)); // of something else
  expect(machine.done).toEqual(['stop']);
  machine.send(ended(3));
  expect(machine.done).toEqual(['stop', 'retier one-tier 1']);
});

test('tiers that are ready but not those of the trial begin nothing', () => {
  const machine = new Machine().start().send(ready(2));
  expect(machine.state).toMatchObject({ stage: 'opening' });
});

test('measuring begins when all stories of the beginning are under way and the load is steady', () => {
  const machine = new Machine().start().send(ready(0), { type: 'loaded', run: 1 });
  machine.stretches(WARM_MS + 1000);
  expect(machine.state).toMatchObject({ stage: 'warming' }); // not one has written
  machine.begin(0, 1);
  const growing = new Machine().start().begin(0, 1);
  growing.stretches(4_000, (atMs) => ({ running: 10 + atMs / 20 }));
  expect(growing.state).toMatchObject({ stage: 'warming' });
  growing.stretches(2_200, { running: 210 });
  expect(growing.state).toMatchObject({ stage: 'measuring', steady: true });
});

test('a load that does not become steady is measured all the same, and noted not to have been', () => {
  const machine = new Machine().start().begin(0, 1);
  machine.stretches(MAX_WARM_MS, (atMs) => ({ contextTokens: atMs / 20 }));
  expect(machine.state).toMatchObject({ stage: 'measuring', steady: false });
  machine.stretches(MEASURE_MS).send(ended(1));
  expect(machine.state).toMatchObject({ results: [{ steady: false }] });
});

test('what a trial leaves of its time to become steady is there for the next', () => {
  const machine = new Machine()
    .start()
    .begin(0, 1)
    .stretches(WARM_MS + MEASURE_MS)
    .send(ended(1));
  const unsteady = (atMs: number) => ({ running: atMs % 2_000 < 1_000 ? 10 : 100 });
  machine.begin(1, 2).stretches(2 * MAX_WARM_MS - WARM_MS - 200, unsteady);
  expect(machine.state).toMatchObject({ trial: 1, stage: 'warming' });
  machine.stretches(200, { running: 50 });
  expect(machine.state).toMatchObject({ trial: 1, stage: 'measuring', steady: false });
});

test('steady is as many sequences as before, as much text, and as much reading', () => {
  const twice = (then: Partial<Stretch>, now: Partial<Stretch>) => [
    ...Array.from({ length: 5 }, () => even(then)),
    ...Array.from({ length: 5 }, () => even(now)),
  ];
  expect(isSteady(twice({}, {}))).toBe(true);
  expect(isSteady(twice({ running: 100 }, { running: 120 }))).toBe(false);
  expect(isSteady(twice({ running: 3.6 }, { running: 4.4 }))).toBe(true); // one of a few that ended
  expect(isSteady(twice({ contextTokens: 20 }, { contextTokens: 32 }))).toBe(false);
  expect(isSteady(twice({ rows: 400 }, { rows: 220 }))).toBe(false);
  expect(isSteady([even(), even()])).toBe(false);
});

test('a fast machine that runs out of prompts is measured by what there was', () => {
  const machine = new Machine().start().begin(0, 1);
  machine
    .stretches(WARM_MS)
    .stretches(1000, { generatedTokens: 1000 })
    .send(ended(1, { how: 'done' }));
  expect(machine.state).toMatchObject({ trial: 1, results: [{ tokensPerSecond: 5000, overMs: 1000, steady: true }] });
  machine.begin(1, 2).send(ended(2, { how: 'done', generatedTokens: 300, wallMs: 100 }));
  expect(machine.state).toMatchObject({
    trial: 2,
    results: [{}, { tokensPerSecond: 3000, overMs: 100, steady: false }],
  });
});

test('cancelling stops what runs and puts the tiers back', () => {
  const machine = new Machine().start().begin(0, 1).stretches(WARM_MS).send({ type: 'cancel' });
  expect(machine.state.phase).toBe('cancelled');
  expect(machine.done.slice(-2)).toEqual(['stop', 'retier two-tiers auto']);
  machine.send(ended(1), ready(0), { type: 'stretch', stretch: even() });
  expect(machine.state.phase).toBe('cancelled');
});

test('after a failure no other tiers are asked for: that would bury what it says', () => {
  const error = { code: 'DEVICE_LOST', message: 'the device is gone', hint: null };
  const failed: Input = { type: 'event', event: { type: 'failed', error } };
  const atOnce = new Machine().start().begin(0, 1);
  const before = [...atOnce.done];
  // The worker's order: the run ends, then the session is told to have failed.
  atOnce.send(ended(1, { how: 'failed', error }), failed);
  expect(atOnce.done).toEqual(before);
  expect(atOnce.state).toMatchObject({ phase: 'failed', reason: 'the device is gone' });
  const opening = new Machine().start().send(failed);
  expect(opening.done).toEqual(['retier one-tier 1']);
  const ending = new Machine()
    .start()
    .begin(0, 1)
    .stretches(WARM_MS + MEASURE_MS)
    .send(ended(1, { how: 'failed', error }));
  expect(ending.state.phase).toBe('failed');
  expect(ending.done.at(-1)).toBe('stop');
});

test('what is opened or closed meanwhile stands: the tiers of before are not put back over it', () => {
  const closed = new Machine()
    .start()
    .begin(0, 1)
    .send(ended(1, { how: 'stopped' }), { type: 'event', event: { type: 'closed' } });
  expect(closed.state.phase).toBe('cancelled');
  expect(closed.done).toEqual(['retier one-tier 1', 'load']);
});

test('tiers that could not be had, and those of before that came back, end it with the reason', () => {
  const machine = new Machine().start();
  machine.send(
    { type: 'event', event: { type: 'notice', notice: { level: 'error', text: 'no memory for it' } } },
    ready(2),
  );
  expect(machine.state).toMatchObject({ phase: 'failed', reason: 'no memory for it' });
  expect(machine.done).toEqual(['retier one-tier 1']);
});

test('failures end it with their reason: an engine that fails, a run that fails, prompts that all fail, nothing at all', () => {
  const error = { code: 'X', message: 'no room', hint: null };
  const opened = () => new Machine().start().send(ready(0), { type: 'loaded', run: 1 });
  const reasonOf = ({ state }: Machine) => (state.phase === 'failed' ? state.reason : state.phase);
  expect(reasonOf(new Machine().start().send({ type: 'event', event: { type: 'failed', error } }))).toBe('no room');
  expect(reasonOf(opened().send(ended(1, { how: 'failed', error })))).toBe('no room');
  const allFailed = opened().send({ type: 'event', event: { type: 'requestFailed', run: 1, index: 0, error } });
  expect(reasonOf(allFailed.send(ended(1, { how: 'done', generatedTokens: 0 })))).toBe('no room');
  expect(reasonOf(new Machine().start().send(ready(0), { type: 'loaded', run: null }))).toContain(
    'could not be started',
  );
  const stuck = opened().send({ type: 'tick', nowMs: 1000 }, { type: 'tick', nowMs: 1000 + STUCK_MS });
  expect(stuck.state.phase).toBe('running');
  expect(reasonOf(stuck.send({ type: 'tick', nowMs: 1001 + STUCK_MS }))).toContain('warming');
});

test('it can be run again after it ended, and not twice at once', () => {
  const machine = new Machine().start().start();
  expect(machine.done).toEqual(['retier one-tier 1']);
  machine.send({ type: 'cancel' }).start();
  expect(machine.state.phase).toBe('running');
});
