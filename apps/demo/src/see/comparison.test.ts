import { expect, test } from 'vitest';
import type { Event } from '../engine/protocol.ts';
import {
  type ComparisonState,
  type Input,
  MEASURE_MS,
  STUCK_MS,
  stepComparison,
  type Trial,
  WARM_MS,
} from './comparison.ts';
import { DEFAULT_KNOBS, SETUPS, settingsFor } from './experiment-settings.ts';
import { report, SETTINGS } from './sample.fixture.ts';
import type { SeriesPoint } from './sample-log.ts';

const TOKEN_BYTES = 1536;
const TRIALS: readonly Trial[] = SETUPS.map((setup) => ({
  setup,
  settings: settingsFor(setup, DEFAULT_KNOBS, SETTINGS, TOKEN_BYTES),
}));
const MODEL = undefined as never;

function point(over: Partial<SeriesPoint> = {}): SeriesPoint {
  return {
    atMs: 0,
    overMs: 200,
    tokensPerSecond: 1000,
    denseShare: 0.5,
    attentionShare: 0.1,
    bytesOutPerSecond: 0,
    bytesInPerSecond: 0,
    kvUsedBytes: 0,
    inFlight: 1,
    running: 4,
    waiting: 10,
    rowsPerMicroBatch: 4,
    hiddenShare: null,
    ...over,
  };
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

  points(ms: number, over: Partial<SeriesPoint> = {}): this {
    for (let at = 0; at < ms; at += 200) this.send({ type: 'point', point: point(over) });
    return this;
  }

  start(busyRun: number | null = null): this {
    return this.send({ type: 'start', trials: TRIALS, restore: SETTINGS, busyRun });
  }
}

test('three trials, one after the other, each measured after it is warm; then the tiers are what they were', () => {
  const machine = new Machine().start();
  for (const trial of [0, 1, 2]) {
    machine.send(ready(trial), { type: 'loaded', run: trial + 7 });
    machine.points(600, { tokensPerSecond: 0 }); // prefill
    machine.points(WARM_MS, { tokensPerSecond: 9999 }); // doesn't count
    machine.points(MEASURE_MS, { tokensPerSecond: 100 * (trial + 1), hiddenShare: 0.25 * trial });
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

test('a fast machine that runs out of prompts is measured by what there was', () => {
  const machine = new Machine().start().send(ready(0), { type: 'loaded', run: 1 });
  machine
    .points(WARM_MS)
    .points(1000, { tokensPerSecond: 5000 })
    .send(ended(1, { how: 'done' }));
  expect(machine.state).toMatchObject({ trial: 1, results: [{ tokensPerSecond: 5000, measuredMs: 1000 }] });
  machine.send(ready(1), { type: 'loaded', run: 2 }).send(ended(2, { how: 'done', generatedTokens: 300, wallMs: 100 }));
  expect(machine.state).toMatchObject({ trial: 2, results: [{}, { tokensPerSecond: 3000, measuredMs: 100 }] });
});

test('cancelling stops what runs and puts the tiers back', () => {
  const machine = new Machine()
    .start()
    .send(ready(0), { type: 'loaded', run: 1 })
    .points(WARM_MS)
    .send({ type: 'cancel' });
  expect(machine.state.phase).toBe('cancelled');
  expect(machine.done.slice(-2)).toEqual(['stop', 'retier two-tiers auto']);
  machine.send(ended(1), ready(0), { type: 'point', point: point() });
  expect(machine.state.phase).toBe('cancelled');
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
