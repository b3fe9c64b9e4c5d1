/**
 * Compares settings by running the same load in each, one after the other: a state machine without time, threads or page. It is
 * told what happens and answers with what is to be done. Each trial goes stopping → opening → warming → measuring → ending;
 * rates count over the measuring alone, when prompts are in and every micro-batch is on its way.
 */
import type { Event, TierSettings } from '../engine/protocol.ts';
import { type Setup, sameTiers } from './experiment-settings.ts';
import type { SeriesPoint } from './sample-log.ts';

/** After the first token, so that prefill is over and the pipeline full. */
export const WARM_MS = 2_000;
export const MEASURE_MS = 4_000;
/** A trial that ran out of prompts counts if it was measured this long. */
const LEAST_MEASURED_MS = 800;
/** Nothing happened for this long: something is stuck. */
export const STUCK_MS = 60_000;

export interface Trial {
  readonly setup: Setup;
  readonly settings: TierSettings;
}

export interface Measurement {
  readonly setup: Setup;
  readonly tokensPerSecond: number;
  readonly denseShare: number;
  readonly attentionShare: number;
  /** Of the time away, hidden; null when nothing was away. */
  readonly hiddenShare: number | null;
  readonly rowsPerMicroBatch: number;
  /** Sequences running at once, on average. */
  readonly running: number;
  readonly kvUsedBytes: number;
  readonly measuredMs: number;
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
  /** Time since the first token of this trial. */
  readonly warmMs: number | null;
  readonly points: readonly SeriesPoint[];
  readonly results: readonly Measurement[];
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
  | { readonly type: 'point'; readonly point: SeriesPoint }
  | { readonly type: 'tick'; readonly nowMs: number }
  | { readonly type: 'cancel' };

export type Effect =
  | { readonly type: 'retier'; readonly settings: TierSettings }
  | { readonly type: 'load' }
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
    case 'point':
      return onPoint(state, input.point);
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
    warmMs: null,
    points: [],
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
    case 'ready':
      if (state.stage !== 'opening' || !sameTiers(event.tiers.settings, trial.settings)) return stay(state);
      return { state: { ...state, stage: 'warming', run: null, progressMs: null }, effects: [{ type: 'load' }] };
    case 'failed':
    case 'closed':
      return fail(state, event.type === 'failed' ? event.error.message : 'the model was closed');
    case 'requestFailed':
      return stay(event.run === state.run ? { ...state, firstError: state.firstError ?? event.error.message } : state);
    case 'ended':
      return event.run === state.run ? onEnded(state, event) : stay(state);
    default:
      return stay(state);
  }
}

function onEnded(state: Running, event: Extract<Event, { type: 'ended' }>): Step {
  const trial = state.trials[state.trial];
  if (state.stage === 'stopping') return open({ ...state, run: null });
  if (state.stage === 'ending') return next(state);
  if (trial === undefined || (state.stage !== 'warming' && state.stage !== 'measuring')) return stay(state);
  if (event.how === 'failed') return fail(state, event.error?.message ?? 'the run failed');
  if (event.how === 'stopped') return leave({ ...state, run: null }, { phase: 'cancelled', results: state.results });
  if (event.generatedTokens === 0) return fail(state, state.firstError ?? 'no token was generated');
  // All prompts are done already: what was measured counts, else the whole run does.
  if (measuredMs(state.points) >= LEAST_MEASURED_MS) return next(withResult(state, measure(trial.setup, state.points)));
  return next(withResult(state, { ...measure(trial.setup, state.points), ...wholeRun(event) }));
}

function onPoint(state: Running, point: SeriesPoint): Step {
  const trial = state.trials[state.trial];
  if (trial === undefined || state.run === null) return stay(state);
  const moved = point.tokensPerSecond > 0 ? { ...state, progressMs: null } : state;
  if (state.stage === 'warming') {
    if (state.warmMs === null && point.tokensPerSecond === 0) return stay(moved);
    const warmMs = (state.warmMs ?? 0) + point.overMs;
    return stay({ ...moved, warmMs, stage: warmMs >= WARM_MS ? 'measuring' : 'warming' });
  }
  if (state.stage !== 'measuring') return stay(state);
  const points = [...state.points, point];
  if (measuredMs(points) < MEASURE_MS) return stay({ ...moved, points });
  const measured = withResult({ ...moved, points }, measure(trial.setup, points));
  return { state: { ...measured, stage: 'ending' }, effects: [{ type: 'stop' }] };
}

function measuredMs(points: readonly SeriesPoint[]): number {
  return points.reduce((sum, { overMs }) => sum + overMs, 0);
}

export function measure(setup: Setup, points: readonly SeriesPoint[]): Measurement {
  const total = measuredMs(points);
  const mean = (of: (point: SeriesPoint) => number) =>
    total > 0 ? points.reduce((sum, point) => sum + of(point) * point.overMs, 0) / total : 0;
  const away = points.filter((point) => point.hiddenShare !== null);
  return {
    setup,
    tokensPerSecond: mean((point) => point.tokensPerSecond),
    denseShare: mean((point) => point.denseShare),
    attentionShare: mean((point) => point.attentionShare),
    hiddenShare:
      away.length === 0 ? null : away.reduce((sum, point) => sum + (point.hiddenShare ?? 0), 0) / away.length,
    rowsPerMicroBatch: mean((point) => point.rowsPerMicroBatch),
    running: mean((point) => point.running),
    kvUsedBytes: mean((point) => point.kvUsedBytes),
    measuredMs: total,
  };
}

function wholeRun({ generatedTokens, wallMs }: { readonly generatedTokens: number; readonly wallMs: number }) {
  return { tokensPerSecond: wallMs > 0 ? (generatedTokens / wallMs) * 1000 : 0, measuredMs: wallMs };
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
  const fresh = { ...state, stage: 'opening', warmMs: null, points: [], firstError: null, progressMs: null } as const;
  return { state: fresh, effects: [{ type: 'retier', settings: trial.settings }] };
}

function stay(state: ComparisonState): Step {
  return { state, effects: [] };
}

function fail(state: Running, reason: string): Step {
  return leave(state, { phase: 'failed', reason, results: state.results });
}

/** Ends early: what runs is stopped, and the tiers become what they were. */
function leave(state: Running, to: ComparisonState): Step {
  const stop: readonly Effect[] = state.run === null ? [] : [{ type: 'stop' }];
  return { state: to, effects: [...stop, { type: 'retier', settings: state.restore }] };
}
