/**
 * Compares settings by running the same load in each, one after the other: a state machine without time, threads or page. It is
 * told what happens and answers with what is to be done. Each trial goes stopping → opening → warming → measuring → ending;
 * rates count over the measuring alone, which begins when the load has become steady (or is noted not to have).
 */
import type { Event, TierSettings } from '../engine/protocol.ts';
import { type Setup, sameTiers } from './experiment-settings.ts';
import { type Figures, figuresOf, type Stretch } from './figures.ts';

/** After the first token: at least so long, until the load is steady, and not longer than the most, to which what earlier trials left of theirs is added. */
export const WARM_MS = 2_000;
export const MAX_WARM_MS = 8_000;
/** Steady is what is about the same in two such times after each other. */
const STEADY_OVER_MS = 1_000;
const STEADY_WITHIN = 0.1;
/** What a few sequences vary by when one ends: sequences, tokens of context. */
const ONE_SEQUENCE = 1;
const FEW_TOKENS = 8;
export const MEASURE_MS = 4_000;
/** A trial that ran out of prompts counts if it was measured this long. */
const MIN_MEASURED_MS = 800;
/** Nothing happened for this long: something is stuck. */
export const STUCK_MS = 60_000;

export interface Trial {
  readonly setup: Setup;
  readonly settings: TierSettings;
  /** About how many stories it writes at once. */
  readonly atOnce: number;
}

export interface Measurement extends Figures {
  readonly setup: Setup;
  /** Whether as many stories as before, as long as before, were under way when measuring began. */
  readonly steady: boolean;
}

export type Stage = 'stopping' | 'opening' | 'warming' | 'measuring' | 'ending';

export type ComparisonState =
  | { readonly phase: 'idle' }
  | Running
  | { readonly phase: 'done'; readonly results: readonly Measurement[] }
  | { readonly phase: 'failed'; readonly reason: string; readonly results: readonly Measurement[] }
  | { readonly phase: 'cancelled'; readonly results: readonly Measurement[] };

export interface Running {
  readonly phase: 'running';
  readonly trials: readonly Trial[];
  /** What to go back to in the end. */
  readonly restore: TierSettings;
  readonly trial: number;
  readonly stage: Stage;
  /** Of the load under way. */
  readonly run: number | null;
  /** Since the first token of this trial while warming, since it was warm while measuring. */
  readonly stretches: readonly Stretch[];
  readonly steady: boolean;
  /** That earlier trials took to become warm. */
  readonly warmedMs: number;
  /** Of the first `atOnce` stories, those that have written something, or ended at once. */
  readonly begun: ReadonlySet<number>;
  readonly results: readonly Measurement[];
  /** Of its requests or of opening it. */
  readonly firstError: string | null;
  /** When something last happened; null until the first tick after it. */
  readonly progressMs: number | null;
}

export type Input =
  | {
      readonly type: 'start';
      readonly trials: readonly Trial[];
      readonly restore: TierSettings;
      readonly busyRun: number | null;
    }
  /** The load was begun as this run; null when it could not be. */
  | { readonly type: 'loaded'; readonly run: number | null }
  | { readonly type: 'event'; readonly event: Event }
  | { readonly type: 'stretch'; readonly stretch: Stretch }
  | { readonly type: 'tick'; readonly nowMs: number }
  | { readonly type: 'cancel' };

export type Effect =
  | { readonly type: 'retier'; readonly settings: TierSettings }
  /** Write stories, about so many of them at once. */
  | { readonly type: 'load'; readonly atOnce: number }
  | { readonly type: 'stop' };

export interface Step {
  readonly state: ComparisonState;
  readonly effects: readonly Effect[];
}

export function stepComparison(state: ComparisonState, input: Input): Step {
  if (input.type === 'start') return start(state, input);
  if (state.phase !== 'running') return { state, effects: [] };
  switch (input.type) {
    case 'loaded':
      return input.run === null
        ? fail(state, 'the load could not be started')
        : stay({ ...state, run: input.run, progressMs: null });
    case 'event':
      return onEvent(state, input.event);
    case 'stretch':
      return onStretch(state, input.stretch);
    case 'tick':
      if (state.progressMs === null) return stay({ ...state, progressMs: input.nowMs });
      return input.nowMs - state.progressMs > STUCK_MS
        ? fail(state, `nothing happened for ${STUCK_MS / 1000} s while ${state.stage}`)
        : stay(state);
    case 'cancel':
      return leave(state, { phase: 'cancelled', results: state.results });
    default:
      return input satisfies never;
  }
}

function start(state: ComparisonState, { trials, restore, busyRun }: Extract<Input, { type: 'start' }>): Step {
  const [first] = trials;
  if (state.phase === 'running' || first === undefined) return { state, effects: [] };
  const fresh: Running = {
    phase: 'running',
    trials,
    restore,
    trial: 0,
    stage: busyRun === null ? 'opening' : 'stopping',
    run: busyRun,
    stretches: [],
    steady: false,
    warmedMs: 0,
    begun: new Set(),
    results: [],
    firstError: null,
    progressMs: null,
  };
  return {
    state: fresh,
    effects: busyRun === null ? [{ type: 'retier', settings: first.settings }] : [{ type: 'stop' }],
  };
}

function onEvent(state: Running, event: Event): Step {
  const trial = state.trials[state.trial];
  if (trial === undefined) return stay(state);
  switch (event.type) {
    case 'ready': {
      if (state.stage !== 'opening') return stay(state);
      if (sameTiers(event.tiers.settings, trial.settings)) {
        const load: Effect = { type: 'load', atOnce: trial.atOnce };
        return { state: { ...state, stage: 'warming', run: null, progressMs: null }, effects: [load] };
      }
      // Those of the trial could not be had, and what was there before is back; or this is late news of something else.
      return stay(state.firstError === null ? state : end(state, state.firstError));
    }
    case 'notice':
      if (state.stage !== 'opening' || event.notice.level !== 'error') return stay(state);
      return stay({ ...state, firstError: state.firstError ?? event.notice.text });
    // Nothing is open now that other tiers could be put under.
    case 'failed':
      return stay(end(state, event.error.message));
    case 'closed':
      return stay(end(state, 'the model was closed'));
    case 'requestFailed':
      if (event.run !== state.run) return stay(state);
      return stay({ ...withBegun(state, [event], trial), firstError: state.firstError ?? event.error.message });
    case 'finished':
      return stay(event.run === state.run ? withBegun(state, [event], trial) : state);
    case 'tokens':
      return stay(event.run === state.run ? withBegun(state, event.texts, trial) : state);
    case 'ended':
      return event.run === state.run ? onEnded(state, event) : stay(state);
    default:
      return stay(state);
  }
}

function onEnded(state: Running, event: Extract<Event, { type: 'ended' }>): Step {
  const trial = state.trials[state.trial];
  // What failed the run may have taken the engine with it: asking for other tiers would only bury what it says.
  if (event.how === 'failed') return stay(end(state, event.error?.message ?? 'the run failed'));
  if (state.stage === 'stopping') return open({ ...state, run: null });
  if (state.stage === 'ending') return next(state);
  if (trial === undefined || (state.stage !== 'warming' && state.stage !== 'measuring')) return stay(state);
  // Stopped by what was opened or closed meanwhile: that stands.
  if (event.how === 'stopped') return stay({ phase: 'cancelled', results: state.results });
  if (event.generatedTokens === 0) return fail(state, state.firstError ?? 'no token was generated');
  // All prompts are done already: what was measured counts, else the whole run does.
  const measured = state.stage === 'measuring' && lengthOf(state.stretches) >= MIN_MEASURED_MS;
  const whole = measured ? {} : { ...wholeRun(event), steady: false };
  return next(withResult(state, { ...measurement(trial.setup, state), ...whole }));
}

function onStretch(state: Running, stretch: Stretch): Step {
  const trial = state.trials[state.trial];
  if (trial === undefined || state.run === null) return stay(state);
  const moved = stretch.generatedTokens > 0 ? { ...state, progressMs: null } : state;
  if (state.stage !== 'warming' && state.stage !== 'measuring') return stay(state);
  if (state.stage === 'warming' && state.stretches.length === 0 && stretch.generatedTokens === 0) return stay(moved);
  const stretches = [...state.stretches, stretch];
  if (state.stage === 'warming') {
    const begun = state.begun.size >= trial.atOnce;
    const steady = begun && lengthOf(stretches) >= WARM_MS && isSteady(stretches);
    const warmedMs = state.warmedMs + lengthOf(stretches);
    if (!steady && warmedMs < (state.trial + 1) * MAX_WARM_MS) return stay({ ...moved, stretches });
    return stay({ ...moved, stage: 'measuring', stretches: [], steady, warmedMs });
  }
  if (lengthOf(stretches) < MEASURE_MS) return stay({ ...moved, stretches });
  const measured = withResult(moved, measurement(trial.setup, { ...moved, stretches }));
  return { state: { ...measured, stage: 'ending' }, effects: [{ type: 'stop' }] };
}

function withBegun(state: Running, stories: readonly { readonly index: number }[], { atOnce }: Trial): Running {
  const fresh = stories.filter(({ index }) => index < atOnce && !state.begun.has(index));
  return fresh.length === 0
    ? state
    : { ...state, begun: new Set([...state.begun, ...fresh.map(({ index }) => index)]) };
}

function lengthOf(stretches: readonly Stretch[]): number {
  return stretches.reduce((sum, { overMs }) => sum + overMs, 0);
}

/** As many sequences, with as much text, and as much of it read rather than written, as a moment before. */
export function isSteady(stretches: readonly Stretch[]): boolean {
  let from = stretches.length;
  const before = (): Figures | null => {
    const until = from;
    while (from > 0 && lengthOf(stretches.slice(from, until)) < STEADY_OVER_MS) from--;
    const piece = stretches.slice(from, until);
    return lengthOf(piece) < STEADY_OVER_MS ? null : figuresOf(piece);
  };
  const [now, then] = [before(), before()];
  if (now === null || then === null) return false;
  const alike = (a: number, b: number, least: number) =>
    Math.abs(a - b) <= Math.max(least, STEADY_WITHIN * Math.max(a, b));
  const reading = ({ prefillRows, decodeRows }: Figures) => prefillRows / Math.max(1e-9, prefillRows + decodeRows);
  return (
    alike(now.running, then.running, ONE_SEQUENCE) &&
    alike(now.contextTokens, then.contextTokens, FEW_TOKENS) &&
    Math.abs(reading(now) - reading(then)) <= STEADY_WITHIN
  );
}

function measurement(setup: Setup, { stretches, steady }: Running): Measurement {
  return { ...figuresOf(stretches), setup, steady };
}

function wholeRun({ generatedTokens, wallMs }: { readonly generatedTokens: number; readonly wallMs: number }) {
  return { tokensPerSecond: wallMs > 0 ? (generatedTokens / wallMs) * 1000 : 0, overMs: wallMs };
}

function withResult(state: Running, result: Measurement): Running {
  return { ...state, results: [...state.results, result] };
}

/** The trial's run is over. */
function next(state: Running): Step {
  const trial = state.trial + 1;
  if (trial < state.trials.length) return open({ ...state, trial, run: null });
  return { state: { phase: 'done', results: state.results }, effects: [{ type: 'retier', settings: state.restore }] };
}

function open(state: Running): Step {
  const trial = state.trials[state.trial];
  if (trial === undefined) return stay(state);
  const cleared = { stretches: [], steady: false, begun: new Set<number>(), firstError: null, progressMs: null };
  const fresh: Running = { ...state, ...cleared, stage: 'opening' };
  return { state: fresh, effects: [{ type: 'retier', settings: trial.settings }] };
}

function stay(state: ComparisonState): Step {
  return { state, effects: [] };
}

function end({ results }: Running, reason: string): ComparisonState {
  return { phase: 'failed', reason, results };
}

function fail(state: Running, reason: string): Step {
  return leave(state, end(state, reason));
}

/** Ends early: what runs is stopped, and the tiers become what they were. */
function leave(state: Running, to: ComparisonState): Step {
  const stop: readonly Effect[] = state.run === null ? [] : [{ type: 'stop' }];
  return { state: to, effects: [...stop, { type: 'retier', settings: state.restore }] };
}
