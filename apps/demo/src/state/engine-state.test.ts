/** What the page says of its engine, as events and commands come. */
import { expect, test } from 'vitest';
import type { ModelChoice, NodeReport } from '../engine/protocol.ts';
import {
  afterCommand,
  askedName,
  CLOSED,
  denseName,
  type EngineState,
  isExample,
  reduceEngine,
  statusText,
} from './engine-state.ts';
import { CAPABILITIES, MODEL, TIERS_OPEN } from './state.fixture.ts';
import { TIERS } from './tier-settings.ts';

const ERROR = { code: 'OOM', message: 'no room', hint: 'fewer workers' };
const open = { type: 'open', model: { kind: 'example' }, tiers: TIERS } as const;

function ready(): EngineState {
  return reduceEngine(afterCommand(CLOSED, open), { type: 'ready', model: MODEL, tiers: TIERS_OPEN });
}

test('opening forgets what was open and keeps what is known of the browser', () => {
  const probed = reduceEngine(ready(), { type: 'probed', capabilities: CAPABILITIES });
  const state = afterCommand(probed, open);
  expect(state).toMatchObject({
    phase: 'opening',
    model: null,
    tiers: null,
    asked: { choice: { kind: 'example' }, model: null },
    capabilities: CAPABILITIES,
  });
});

test('the model is known before its tiers are', () => {
  const state = reduceEngine(afterCommand(CLOSED, open), { type: 'described', model: MODEL });
  expect(state).toMatchObject({ phase: 'opening', model: MODEL, tiers: null });
  expect(statusText(state, false)).toBe('Loading tale-1m…');
});

test('the closing of the model before does not undo an opening', () => {
  const state = afterCommand(ready(), open);
  expect(reduceEngine(state, { type: 'closed' })).toBe(state);
  expect(reduceEngine(ready(), { type: 'closed' })).toMatchObject({ phase: 'closed', model: null });
});

test('other tiers while a model is opened leave it opening', () => {
  expect(afterCommand(ready(), { type: 'retier', tiers: TIERS }).phase).toBe('retiering');
  expect(afterCommand(afterCommand(CLOSED, open), { type: 'retier', tiers: TIERS }).phase).toBe('opening');
});

test('a failure leaves nothing open and says why', () => {
  expect(reduceEngine(ready(), { type: 'failed', error: ERROR })).toMatchObject({
    phase: 'failed',
    model: null,
    tiers: null,
    error: ERROR,
  });
});

test('what a prompt opens again after a failure has a name', () => {
  const failed = (choice: ModelChoice, described: boolean): EngineState => {
    const opening = afterCommand(CLOSED, { ...open, model: choice });
    const known = described ? reduceEngine(opening, { type: 'described', model: MODEL }) : opening;
    return reduceEngine(known, { type: 'failed', error: ERROR });
  };
  const files = { kind: 'files', name: 'mine.gguf', files: new Map(), single: true } as const;
  expect(askedName(failed(files, false))).toBe('mine.gguf');
  expect(askedName(failed(files, true))).toBe('tale-1m');
  expect(askedName(failed({ kind: 'example' }, true))).toBeNull();
  expect(isExample(failed({ kind: 'example' }, true))).toBe(true);
  expect(askedName(CLOSED)).toBeNull();
});

test('the status says what runs where', () => {
  expect(statusText(CLOSED, false)).toBe('No model is loaded.');
  expect(statusText(ready(), false)).toBe('Ready: tale-1m on WASM, attention at 2 workers.');
  const at = (...nodes: readonly NodeReport[]) =>
    statusText(reduceEngine(ready(), { type: 'ready', model: MODEL, tiers: { ...TIERS_OPEN, nodes } }), false);
  const worker = { name: 'w', kind: 'worker' } as const;
  const remote = { name: 'r', kind: 'remote' } as const;
  expect(at(worker)).toMatch(/attention at 1 worker\.$/);
  expect(at(remote)).toMatch(/attention at 1 remote node\.$/);
  expect(at(worker, worker, remote)).toMatch(/attention at 2 workers and 1 remote node\.$/);
  expect(statusText(ready(), true)).toMatch(/^Generating: /);
  const settings = { ...TIERS, mode: 'one-tier' } as const;
  const one = reduceEngine(ready(), { type: 'ready', model: MODEL, tiers: { ...TIERS_OPEN, settings } });
  expect(statusText(one, false)).toBe('Ready: tale-1m on WASM, one tier.');
  expect(denseName('webgpu')).toBe('WebGPU');
});

test('progress does not change the status line', () => {
  const opening = afterCommand(CLOSED, open);
  const later = reduceEngine(opening, { type: 'progress', stage: 'weights', done: 5, total: 9 });
  expect(statusText(later, false)).toBe(statusText(opening, false));
  expect(later.progress).toEqual({ stage: 'weights', done: 5, total: 9 });
});
