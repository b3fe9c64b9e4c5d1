/** The page over a worker that only listens: what is sent when, and what follows from what comes back. */
import { expect, test } from 'vitest';
import type { Command, Event, Prompt } from '../engine/protocol.ts';
import { type AppState, createAppState } from './app-state.ts';
import { CAPABILITIES, MODEL, TIERS_OPEN } from './state.fixture.ts';
import { storeTierSettings, TIERS } from './tier-settings.ts';

const PROMPT: Prompt = { kind: 'text', text: 'Once' };

function page(storedTiers: string | null = null) {
  const sent: Command[] = [];
  const kept: string[] = [];
  let listener: (event: Event) => void = () => undefined;
  const port = {
    send: (command: Command) => sent.push(command),
    subscribe(added: (event: Event) => void) {
      listener = added;
      return () => undefined;
    },
    destroy: () => undefined,
  };
  const keepTiers = (settings: typeof TIERS): number => kept.push(storeTierSettings(settings));
  const app = createAppState(port, { secure: false, storedTiers, keepTiers });
  return { app, sent, kept, emit: (event: Event) => listener(event) };
}

function openExample({ app, emit }: { readonly app: AppState; readonly emit: (event: Event) => void }): void {
  app.open({ kind: 'example' });
  emit({ type: 'described', model: MODEL });
  emit({ type: 'ready', model: MODEL, tiers: TIERS_OPEN });
}

test('one click: a prompt without a model opens the example, and runs when it is ready', () => {
  const { app, sent, emit } = page();
  app.generate(PROMPT);
  expect(sent.map(({ type }) => type)).toEqual(['open']);
  expect(app.pending.value).toBe(true);
  emit({ type: 'described', model: MODEL });
  emit({ type: 'ready', model: MODEL, tiers: TIERS_OPEN });
  expect(sent.at(-1)).toMatchObject({ type: 'generate', run: 1, prompts: [PROMPT] });
  expect(app.pending.value).toBe(false);
  expect(app.running.value).toBe(true);
});

test('a prompt that waits is forgotten when opening fails, and when it is stopped', () => {
  const { app, sent, emit } = page();
  app.generate(PROMPT);
  emit({ type: 'failed', error: { code: 'X', message: 'no room', hint: 'fewer workers' } });
  expect(app.pending.value).toBe(false);
  expect(app.notices.value).toMatchObject([{ level: 'error', text: 'No room.', hint: 'Fewer workers.' }]);
  app.generate(PROMPT);
  app.stopRun();
  emit({ type: 'ready', model: MODEL, tiers: TIERS_OPEN });
  expect(sent.filter(({ type }) => type === 'generate')).toEqual([]);
});

test("sampling takes the model's defaults until somebody changes it", () => {
  const first = page();
  openExample(first);
  expect(first.app.sampling.value).toMatchObject({ temperature: 0.7, topP: 0.9 });
  const second = page();
  second.app.sampling.value = { ...second.app.sampling.value, temperature: 0 };
  openExample(second);
  expect(second.app.sampling.value.temperature).toBe(0);
});

test('tiers follow what the browser has until somebody changes them', () => {
  const first = page();
  first.emit({ type: 'probed', capabilities: CAPABILITIES });
  expect(first.app.tiers.value.workers).toBeGreaterThan(1);
  const second = page(storeTierSettings({ ...TIERS, workers: 3 }));
  second.emit({ type: 'probed', capabilities: CAPABILITIES });
  expect(second.app.tiers.value.workers).toBe(3);
});

test('the example gets KV memory of its own size unless somebody said otherwise', () => {
  const { app, sent, emit } = page();
  emit({ type: 'probed', capabilities: CAPABILITIES });
  app.open({ kind: 'example' });
  expect(sent.at(-1)).toMatchObject({ type: 'open', tiers: { kvBytes: TIERS.kvBytes } });
});

test('Apply is kept for the next visit, an experiment is not', () => {
  const parts = page();
  const { app, sent, kept } = parts;
  app.applyTiers();
  expect(sent).toEqual([]);
  expect(kept).toHaveLength(1);
  openExample(parts);
  app.retier({ ...TIERS, mode: 'one-tier' });
  expect(sent.at(-1)).toMatchObject({ type: 'retier', tiers: { mode: 'one-tier' } });
  expect(app.tiers.value).toEqual(TIERS);
  expect(app.experimenting.value).toBe(true);
  expect(kept).toHaveLength(1);
  app.retier({ ...TIERS, latencyMs: 5 });
  expect(app.experimenting.value, 'back to what was chosen').toBe(false);
});

test('after an experiment a model opens, and Apply reopens, with the tiers of the form', () => {
  const parts = page();
  const { app, sent } = parts;
  openExample(parts);
  const experiment = { ...TIERS, mode: 'one-tier', kvBytes: 1000, inFlight: 1 } as const;
  app.retier(experiment);
  app.setLatency(20);
  app.open({ kind: 'stored', id: 'x' });
  expect(app.notices.value).toEqual([]);
  expect(sent.at(-1)).toMatchObject({
    type: 'open',
    tiers: { mode: 'two-tiers', kvBytes: TIERS.kvBytes, latencyMs: 0 },
  });
  app.retier(experiment);
  app.applyTiers();
  expect(sent.at(-1)).toEqual({ type: 'retier', tiers: TIERS });
  expect(app.experimenting.value).toBe(false);
});

test('after a failure a prompt opens the model that the visitor had, after Unload the example', () => {
  const { app, sent, emit } = page();
  const choice = { kind: 'stored', id: 'mine' } as const;
  app.open(choice);
  emit({ type: 'described', model: MODEL });
  emit({ type: 'ready', model: MODEL, tiers: TIERS_OPEN });
  emit({ type: 'failed', error: { code: 'X', message: 'gone', hint: null } });
  expect(app.engine.value).toMatchObject({ phase: 'failed', model: null, asked: { choice, model: MODEL } });
  app.generate(PROMPT);
  expect(sent.at(-1)).toMatchObject({ type: 'open', model: choice });
  expect(app.engine.value.asked?.model, 'what it is known to be').toBe(MODEL);
  emit({ type: 'ready', model: MODEL, tiers: TIERS_OPEN });
  expect(sent.at(-1)).toMatchObject({ type: 'generate', prompts: [PROMPT] });
  emit({ type: 'closed' });
  app.generate(PROMPT);
  expect(sent.at(-1)).toMatchObject({ type: 'open', model: { kind: 'example' } });
});

test('what nobody asks for just now is opened only while nothing runs', () => {
  const parts = page();
  const { app, sent, emit } = parts;
  const downloaded = { kind: 'stored', id: 'new' } as const;
  openExample(parts);
  app.runBatch(new Blob(['{"prompt":"a"}']), false);
  expect(app.openIfIdle(downloaded)).toBe(false);
  expect(sent.at(-1)).toMatchObject({ type: 'batch' });
  emit({ type: 'ended', run: 1, how: 'done', error: null, wallMs: 1, generatedTokens: 0 });
  expect(app.openIfIdle(downloaded)).toBe(true);
  expect(sent.at(-1)).toMatchObject({ type: 'open', model: downloaded });
  expect(app.openIfIdle(downloaded), 'while it is being opened').toBe(false);
});

test('tiers that cannot be are said before anything is closed for them', () => {
  const { app, sent } = page();
  app.tiers.value = { ...TIERS, workers: 0 };
  app.open({ kind: 'example' });
  expect(sent).toEqual([]);
  expect(app.notices.value[0]?.text).toMatch(/at least one remote node/);
});

test('a load runs beside a prompt, each with a run of its own, and each is stopped by itself', () => {
  const parts = page();
  const { app, sent } = parts;
  expect(app.generateLoad([PROMPT], app.sampling.value)).toBeNull();
  openExample(parts);
  app.generate(PROMPT);
  expect(app.generateLoad([PROMPT, PROMPT], app.sampling.value)).toBe(2);
  app.stopLoad();
  expect(sent.at(-1)).toEqual({ type: 'stop', run: 2 });
  parts.emit({ type: 'ended', run: 2, how: 'stopped', error: null, wallMs: 1, generatedTokens: 0 });
  app.stopLoad();
  expect(sent.filter(({ type }) => type === 'stop')).toHaveLength(1);
  expect(app.running.value).toBe(true);
});
