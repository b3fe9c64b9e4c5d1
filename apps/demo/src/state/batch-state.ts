/** A batch as it runs: what the worker counted, and the files that it made. A pure reducer; events of other runs are dropped. */
import type { BatchSummary, ErrorReport, Event } from '../engine/protocol.ts';

export interface BatchState {
  readonly run: number;
  readonly summary: BatchSummary | null;
  readonly succeeded: number;
  readonly failed: number;
  readonly generatedTokens: number;
  readonly files: { readonly results: Blob; readonly errors: Blob; readonly complete: boolean } | null;
  readonly ended: {
    readonly how: 'done' | 'stopped' | 'failed';
    readonly error: ErrorReport | null;
    readonly wallMs: number;
  } | null;
}

export function beginBatch(run: number): BatchState {
  return { run, summary: null, succeeded: 0, failed: 0, generatedTokens: 0, files: null, ended: null };
}

export function reduceBatch(state: BatchState, event: Event): BatchState {
  if (event.type === 'failed')
    return state.ended === null ? { ...state, ended: { how: 'failed', error: event.error, wallMs: 0 } } : state;
  if (!('run' in event) || event.run !== state.run) return state;
  switch (event.type) {
    case 'batch': {
      const { summary, succeeded, failed, generatedTokens } = event;
      return { ...state, summary, succeeded, failed, generatedTokens };
    }
    case 'batchResults':
      return { ...state, files: { results: event.results, errors: event.errors, complete: event.complete } };
    case 'ended':
      return { ...state, ended: { how: event.how, error: event.error, wallMs: event.wallMs } };
    default:
      return state;
  }
}

/** From 0 to 1; null while the input is still being read. */
export function batchShare(state: BatchState): number | null {
  if (state.summary === null) return null;
  const { requests } = state.summary;
  return requests === 0 ? 1 : Math.min(1, (state.succeeded + state.failed) / requests);
}
