/**
 * What the page knows about its engine: what this browser has, what is open, what is being opened. A pure reducer over the
 * worker's events and the page's own commands; it holds no text of answers (see run-state.ts).
 */
import type {
  Capabilities,
  Command,
  ErrorReport,
  Event,
  ModelChoice,
  ModelReport,
  NodeReport,
  TierReport,
} from '../engine/protocol.ts';
import { plural } from './format.ts';

export type Phase = 'closed' | 'opening' | 'retiering' | 'ready' | 'failed';

export interface Progress {
  readonly stage: string;
  readonly done: number;
  readonly total: number | null;
}

export interface EngineState {
  readonly phase: Phase;
  readonly capabilities: Capabilities | null;
  /** Known from `described` on, so that its memory is shown before it is taken. */
  readonly model: ModelReport | null;
  readonly tiers: TierReport | null;
  readonly progress: Progress | null;
  readonly error: ErrorReport | null;
  /** What was asked for last, kept when it fails, so that it can be opened again. `model` is what it was known to be. */
  readonly asked: { readonly choice: ModelChoice; readonly model: ModelReport | null } | null;
}

export const CLOSED: EngineState = {
  phase: 'closed',
  capabilities: null,
  model: null,
  tiers: null,
  progress: null,
  error: null,
  asked: null,
};

/** What a command that was sent changes at once, before the worker answers. */
export function afterCommand(state: EngineState, command: Command): EngineState {
  switch (command.type) {
    case 'open':
      return {
        ...CLOSED,
        capabilities: state.capabilities,
        phase: 'opening',
        asked: { choice: command.model, model: state.asked?.choice === command.model ? state.asked.model : null },
      };
    case 'retier':
      // A model that is being opened goes on being opened, with the new tiers.
      return { ...state, phase: state.phase === 'opening' ? 'opening' : 'retiering', progress: null, error: null };
    default:
      return state;
  }
}

export function reduceEngine(state: EngineState, event: Event): EngineState {
  switch (event.type) {
    case 'probed':
      return { ...state, capabilities: event.capabilities };
    case 'progress':
      return { ...state, progress: { stage: event.stage, done: event.done, total: event.total } };
    case 'described':
      return { ...state, model: event.model, asked: state.asked && { ...state.asked, model: event.model } };
    case 'ready':
      return { ...state, phase: 'ready', model: event.model, tiers: event.tiers, progress: null, error: null };
    case 'failed':
      return {
        ...CLOSED,
        capabilities: state.capabilities,
        phase: 'failed',
        error: event.error,
        asked: state.asked,
      };
    case 'closed':
      // Opening a model closes the one before it: its `closed` must not undo the opening.
      return state.phase === 'opening' ? state : { ...CLOSED, capabilities: state.capabilities };
    default:
      return state;
  }
}

/** One line for the status region; it changes with the phase, not with every percent. */
export function statusText(state: EngineState, running: boolean): string {
  switch (state.phase) {
    case 'closed':
      return 'No model is loaded.';
    case 'opening':
      return state.model === null ? 'Opening the model…' : `Loading ${state.model.description.name}…`;
    case 'retiering':
      return 'Reopening the tiers…';
    case 'failed':
      return 'Nothing is loaded: opening failed.';
    case 'ready':
      return `${running ? 'Generating' : 'Ready'}: ${state.model?.description.name ?? 'model'} on ${tiersText(state.tiers)}.`;
  }
}

function tiersText(tiers: TierReport | null): string {
  if (tiers === null) return 'its tiers';
  const dense = denseName(tiers.dense.kind);
  if (tiers.settings.mode === 'one-tier') return `${dense}, one tier`;
  return `${dense}, attention at ${nodesText(tiers.nodes)}`;
}

/** `2 workers and 1 remote node`. */
function nodesText(nodes: readonly NodeReport[]): string {
  const kinds = [
    ['worker', 'worker'],
    ['remote', 'remote node'],
  ] as const;
  return kinds
    .map(([kind, noun]) => ({ count: nodes.filter((node) => node.kind === kind).length, noun }))
    .filter(({ count }) => count > 0)
    .map(({ count, noun }) => plural(count, noun))
    .join(' and ');
}

/** The bundled example continues stories rather than converse. */
export function isExample({ asked }: EngineState): boolean {
  return asked?.choice.kind === 'example';
}

/** What a prompt opens again after a failure, by name; null when it opens the example. */
export function askedName({ asked }: EngineState): string | null {
  if (asked === null || asked.choice.kind === 'example') return null;
  return asked.model?.description.name ?? (asked.choice.kind === 'files' ? asked.choice.name : 'the stored model');
}

export function denseName(kind: string): string {
  return kind === 'webgpu' ? 'WebGPU' : kind === 'wasm' ? 'WASM' : kind;
}
