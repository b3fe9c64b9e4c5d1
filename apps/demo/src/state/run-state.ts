/**
 * One run of prompts as it comes: text so far, tokens, how each ended. A pure reducer over the worker's events; events of
 * other runs leave it as it is, so what is late for an old run is dropped.
 */
import type { FinishReason } from '@glinthawk/engine';
import type { ErrorReport, Event, Prompt } from '../engine/protocol.ts';

export interface AnswerState {
  readonly text: string;
  readonly tokens: number;
  readonly promptTokens: number;
  /** Grows when the text begins anew, so that a view which appends knows to start over. */
  readonly epoch: number;
  readonly ended: { readonly reason: FinishReason } | { readonly error: ErrorReport } | null;
}

export interface RunState {
  readonly run: number;
  readonly prompts: readonly Prompt[];
  readonly answers: readonly AnswerState[];
  readonly beganAtMs: number;
  /** When the first text came; rates count from here. */
  readonly firstAtMs: number | null;
  readonly lastAtMs: number | null;
  readonly ended: {
    readonly how: 'done' | 'stopped' | 'failed';
    readonly error: ErrorReport | null;
    readonly wallMs: number;
    readonly generatedTokens: number;
  } | null;
}

const NOTHING_YET: AnswerState = { text: '', tokens: 0, promptTokens: 0, epoch: 0, ended: null };

export function beginRun(run: number, prompts: readonly Prompt[], beganAtMs: number): RunState {
  return {
    run,
    prompts,
    answers: prompts.map(() => NOTHING_YET),
    beganAtMs,
    firstAtMs: null,
    lastAtMs: null,
    ended: null,
  };
}

export function reduceRun(state: RunState, event: Event, nowMs: number): RunState {
  if (!('run' in event)) return event.type === 'failed' ? failed(state, event.error, nowMs) : state;
  if (event.run !== state.run) return state;
  switch (event.type) {
    case 'tokens': {
      const answers = [...state.answers];
      for (const { index, text, tokens } of event.texts) {
        const answer = answers[index];
        if (answer !== undefined) answers[index] = { ...answer, text: answer.text + text, tokens };
      }
      return { ...state, answers, firstAtMs: state.firstAtMs ?? nowMs, lastAtMs: nowMs };
    }
    case 'finished':
      return change(state, event.index, (answer) => ({
        ...answer,
        text: event.text,
        tokens: event.tokenIds.length,
        promptTokens: event.promptTokens,
        epoch: event.text.startsWith(answer.text) ? answer.epoch : answer.epoch + 1,
        ended: { reason: event.reason },
      }));
    case 'requestFailed':
      return change(state, event.index, (answer) => ({ ...answer, ended: { error: event.error } }));
    case 'restarted': {
      const again = new Set(event.indices);
      const answers = state.answers.map((answer, i) =>
        again.has(i) ? { ...NOTHING_YET, epoch: answer.epoch + 1 } : answer,
      );
      return { ...state, answers };
    }
    case 'ended':
      return {
        ...state,
        ended: { how: event.how, error: event.error, wallMs: event.wallMs, generatedTokens: event.generatedTokens },
      };
    default:
      return state;
  }
}

/** The engine is gone: what was written stays, and nothing more will come. */
function failed(state: RunState, error: ErrorReport, nowMs: number): RunState {
  if (state.ended !== null) return state;
  const ended = { how: 'failed', error, wallMs: nowMs - state.beganAtMs, generatedTokens: tokensOf(state) } as const;
  return { ...state, ended };
}

function change(state: RunState, index: number, by: (answer: AnswerState) => AnswerState): RunState {
  return { ...state, answers: state.answers.map((answer, i) => (i === index ? by(answer) : answer)) };
}

export function tokensOf(state: RunState): number {
  return state.answers.reduce((sum, { tokens }) => sum + tokens, 0);
}

/** Tokens a second since the first came; null before there is anything to count. */
export function tokensPerSecond(state: RunState): number | null {
  if (state.firstAtMs === null || state.lastAtMs === null) return null;
  const ms = state.lastAtMs - state.firstAtMs;
  return ms > 0 ? (tokensOf(state) / ms) * 1000 : null;
}
