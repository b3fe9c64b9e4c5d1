/**
 * The page's state as signals, and what the page can do with its engine. Every event of the worker goes through the pure
 * reducers beside this file; nothing here computes or draws. One instance a page.
 */
import { batch, computed, type ReadonlySignal, type Signal, signal } from '@preact/signals';
import type {
  Capabilities,
  Command,
  Event,
  ModelChoice,
  Prompt,
  Sample,
  SamplingControls,
  TierSettings,
} from '../engine/protocol.ts';
import { suggestSettings } from '../engine/suggest.ts';
import { type BatchState, beginBatch, reduceBatch } from './batch-state.ts';
import { afterCommand, CLOSED, type EngineState, reduceEngine } from './engine-state.ts';
import { addNotice, dismissNotice, type NewNotice, type Notice, noticeOf, noticeOfThrown } from './notices.ts';
import { beginRun, type RunState, reduceRun } from './run-state.ts';
import { SAMPLING, withModelDefaults } from './sampling-settings.ts';
import { checkTierSettings, restoreTierSettings, TIERS } from './tier-settings.ts';

/** The worker, as far as the page needs it. */
export interface EnginePort {
  send(command: Command): void;
  /** @returns what ends the subscription */
  subscribe(listener: (event: Event) => void): () => void;
  destroy(): void;
}

export interface AppState {
  readonly engine: ReadonlySignal<EngineState>;
  readonly notices: ReadonlySignal<readonly Notice[]>;
  readonly sample: ReadonlySignal<Sample | null>;
  /** The visitor's own prompt. */
  readonly run: ReadonlySignal<RunState | null>;
  /** Prompts that the visualisation asked for. */
  readonly load: ReadonlySignal<RunState | null>;
  readonly batch: ReadonlySignal<BatchState | null>;
  readonly running: ReadonlySignal<boolean>;
  /** A prompt waits for its model to be open. */
  readonly pending: ReadonlySignal<boolean>;
  /** As they stand in the form. */
  readonly tiers: Signal<TierSettings>;
  readonly sampling: Signal<SamplingControls>;

  open(model: ModelChoice): void;
  /** Reopens the tiers with what the form says, and keeps it for the next visit. */
  applyTiers(): void;
  /** The same with other settings, for an experiment: not kept. */
  retier(settings: TierSettings): void;
  close(): void;
  /** Opens the example first when nothing is open: text within one click. */
  generate(prompt: Prompt): void;
  /** @returns the number of the run; null while nothing can run */
  generateLoad(prompts: readonly Prompt[], sampling: SamplingControls): number | null;
  stopRun(): void;
  stopLoad(): void;
  runBatch(input: Blob, skipInvalid: boolean): void;
  stopBatch(): void;
  forgetRun(): void;
  setLatency(ms: number): void;
  tell(notice: NewNotice): void;
  tellThrown(thrown: unknown): void;
  dismiss(id: number): void;
  destroy(): void;
}

export interface AppStateOptions {
  /** The page came by https, which rules out some addresses of attention nodes. */
  readonly secure: boolean;
  /** As storeTierSettings() made it on an earlier visit; null for none. */
  readonly storedTiers: string | null;
  readonly keepTiers: (settings: TierSettings) => void;
}

export function createAppState(port: EnginePort, { secure, storedTiers, keepTiers }: AppStateOptions): AppState {
  const engine = signal<EngineState>(CLOSED);
  const notices = signal<readonly Notice[]>([]);
  const sample = signal<Sample | null>(null);
  const run = signal<RunState | null>(null);
  const load = signal<RunState | null>(null);
  const batchRun = signal<BatchState | null>(null);
  const tiers = signal(restoreTierSettings(TIERS, storedTiers));
  const sampling = signal(SAMPLING);
  const waiting = signal<Prompt | null>(null);
  let lastRun = 0;
  /** Sampling that nobody has changed follows the model's own defaults, tiers that nobody has changed what the browser has. */
  let samplingByDefault = SAMPLING;
  let tiersByDefault = storedTiers === null ? tiers.value : null;

  function send(command: Command): void {
    engine.value = afterCommand(engine.value, command);
    port.send(command);
  }

  function tell(notice: NewNotice): void {
    notices.value = addNotice(notices.value, notice, performance.now());
  }

  function onEvent(event: Event): void {
    const nowMs = performance.now();
    batch(() => {
      engine.value = reduceEngine(engine.value, event);
      if (run.value !== null) run.value = reduceRun(run.value, event, nowMs);
      if (load.value !== null) load.value = reduceRun(load.value, event, nowMs);
      if (batchRun.value !== null) batchRun.value = reduceBatch(batchRun.value, event);
      if (event.type === 'sample') sample.value = event.sample;
      if (event.type === 'failed') waiting.value = null;
      if (event.type === 'probed') suggestTiers(event.capabilities);
      if (event.type === 'described' && sampling.value === samplingByDefault) {
        samplingByDefault = withModelDefaults(SAMPLING, event.model.description.generationDefaults);
        sampling.value = samplingByDefault;
      }
      const notice = noticeOf(event);
      if (notice !== null) tell(notice);
    });
    if (event.type === 'ready' && waiting.value !== null) {
      const prompt = waiting.value;
      waiting.value = null;
      start(prompt);
    }
  }
  const unsubscribe = port.subscribe(onEvent);

  function suggestTiers(capabilities: Capabilities): void {
    if (tiers.value !== tiersByDefault) return;
    tiersByDefault = suggestSettings(capabilities, null);
    tiers.value = tiersByDefault;
  }

  function start(prompt: Prompt): void {
    run.value = beginRun(++lastRun, 'prompt', [prompt], performance.now());
    send({ type: 'generate', run: lastRun, prompts: [prompt], sampling: sampling.value });
  }

  function stop(state: { readonly run: number; readonly ended: unknown } | null): void {
    if (state !== null && state.ended === null) send({ type: 'stop', run: state.run });
  }

  function open(model: ModelChoice): void {
    const [fault] = checkTierSettings(tiers.value, secure);
    if (fault !== undefined) {
      waiting.value = null;
      tell({ level: 'error', text: fault.message, hint: 'Change it under Tiers, then load the model again.' });
      return;
    }
    run.value = null;
    if (model.kind === 'example' && tiers.value === tiersByDefault) {
      tiersByDefault = { ...tiersByDefault, kvBytes: TIERS.kvBytes };
      tiers.value = tiersByDefault;
    }
    send({ type: 'open', model, tiers: tiers.value });
  }

  function retier(settings: TierSettings): void {
    tiers.value = settings;
    const { phase } = engine.value;
    if (phase !== 'closed' && phase !== 'failed') send({ type: 'retier', tiers: settings });
  }

  const active = (state: { readonly ended: unknown } | null): boolean => state !== null && state.ended === null;

  return {
    engine,
    notices,
    sample,
    run,
    load,
    batch: batchRun,
    running: computed(() => active(run.value) || active(load.value) || active(batchRun.value)),
    pending: computed(() => waiting.value !== null),
    tiers,
    sampling,

    open,
    applyTiers() {
      keepTiers(tiers.value);
      retier(tiers.value);
    },
    retier,
    close: () => send({ type: 'close' }),
    generate(prompt) {
      const { phase } = engine.value;
      if (phase === 'ready') return start(prompt);
      waiting.value = prompt;
      if (phase === 'closed' || phase === 'failed') open({ kind: 'example' });
    },
    generateLoad(prompts, loadSampling) {
      if (engine.value.phase !== 'ready') return null;
      load.value = beginRun(++lastRun, 'load', prompts, performance.now());
      send({ type: 'generate', run: lastRun, prompts, sampling: loadSampling });
      return lastRun;
    },
    stopRun() {
      waiting.value = null;
      stop(run.value);
    },
    stopLoad: () => stop(load.value),
    runBatch(input, skipInvalid) {
      batchRun.value = beginBatch(++lastRun);
      send({ type: 'batch', run: lastRun, input, skipInvalid });
    },
    stopBatch: () => stop(batchRun.value),
    forgetRun() {
      run.value = null;
    },
    setLatency(ms) {
      tiers.value = { ...tiers.value, latencyMs: ms };
      send({ type: 'latency', ms });
    },
    tell,
    tellThrown: (thrown) => tell(noticeOfThrown(thrown)),
    dismiss(id) {
      notices.value = dismissNotice(notices.value, id);
    },
    destroy() {
      unsubscribe();
      port.destroy();
    },
  };
}
