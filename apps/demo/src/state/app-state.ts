/**
 * The page's state as signals, and what the page can do with its engine. Every event of the worker goes through the pure
 * reducers beside this file; nothing here computes or draws. One instance a page.
 */
import { batch, computed, type ReadonlySignal, type Signal, signal } from '@preact/signals';
import type {
  Command,
  Event,
  ModelChoice,
  Prompt,
  Sample,
  SamplingControls,
  TierSettings,
} from '../engine/protocol.ts';
import { type BatchState, beginBatch, reduceBatch } from './batch-state.ts';
import { followed, proposedTiers } from './defaults.ts';
import { afterCommand, CLOSED, type EngineState, reduceEngine } from './engine-state.ts';
import { addNotice, dismissNotice, type NewNotice, type Notice, noticeOf, noticeOfThrown } from './notices.ts';
import { beginRun, type RunState, reduceRun } from './run-state.ts';
import { SAMPLING, withModelDefaults } from './sampling-settings.ts';
import { checkTierSettings, restoreTierSettings, storeTierSettings } from './tier-settings.ts';

/** To compare settings by; the injected latency, which changes while things run, left out. */
const tiersText = (settings: TierSettings): string => storeTierSettings({ ...settings, latencyMs: 0 });

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
  readonly batch: ReadonlySignal<BatchState | null>;
  readonly running: ReadonlySignal<boolean>;
  /** A prompt waits for its model to be open. */
  readonly pending: ReadonlySignal<boolean>;
  /** As the visitor chose them, in the form; what is open may be an experiment's instead, see `engine`. */
  readonly tiers: Signal<TierSettings>;
  /** An experiment opened other tiers than the visitor did. */
  readonly experimenting: ReadonlySignal<boolean>;
  readonly sampling: Signal<SamplingControls>;

  open(model: ModelChoice): void;
  /** For what the visitor did not ask for just now: opens it unless something runs or is being opened. @returns whether */
  openIfIdle(model: ModelChoice): boolean;
  /** Reopens the tiers with what the form says, and keeps it for the next visit. */
  applyTiers(): void;
  /** Other tiers for an experiment: neither kept nor put into the form. */
  retier(settings: TierSettings): void;
  close(): void;
  /** Opens a model first when none is: the one that failed before, else the example. Text within one click. */
  generate(prompt: Prompt): void;
  /** For the visualisation, which follows the texts by itself. @returns the number of the run; null while nothing can run */
  generateLoad(prompts: readonly Prompt[], sampling: SamplingControls): number | null;
  stopRun(): void;
  stopLoad(): void;
  runBatch(input: Blob, skipInvalid: boolean): void;
  stopBatch(): void;
  forgetRun(): void;
  /** Of what is open, at once; opening anew from the form has none. */
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
  /** The visualisation's run, until it ends. */
  const load = signal<{ readonly run: number } | null>(null);
  const batchRun = signal<BatchState | null>(null);
  const ownTiers = followed(restoreTierSettings(proposedTiers(null, null), storedTiers), storedTiers !== null);
  const tiers = ownTiers.value;
  const experimenting = signal(false);
  const ownSampling = followed(SAMPLING);
  const sampling = ownSampling.value;
  const waiting = signal<Prompt | null>(null);
  let lastRun = 0;
  let chosen: string | null = null;

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
      if (endsLoad(event)) load.value = null;
      if (batchRun.value !== null) batchRun.value = reduceBatch(batchRun.value, event);
      if (event.type === 'sample') sample.value = event.sample;
      if (event.type === 'failed') waiting.value = null;
      if (event.type === 'probed') ownTiers.propose(proposedTiers(event.capabilities, null));
      if (event.type === 'described')
        ownSampling.propose(withModelDefaults(SAMPLING, event.model.description.generationDefaults));
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

  function endsLoad(event: Event): boolean {
    return event.type === 'failed' || (event.type === 'ended' && event.run === load.value?.run);
  }

  function start(prompt: Prompt): void {
    run.value = beginRun(++lastRun, [prompt], performance.now());
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
    ownTiers.propose(proposedTiers(engine.value.capabilities, model.kind));
    asChosen();
    send({ type: 'open', model, tiers: tiers.value });
  }

  /** What is opened now is what the form says. */
  function asChosen(): void {
    chosen = tiersText(tiers.value);
    experimenting.value = false;
  }

  /** @returns whether there is anything to open tiers for */
  function retier(settings: TierSettings): boolean {
    const { phase } = engine.value;
    if (phase === 'closed' || phase === 'failed') return false;
    send({ type: 'retier', tiers: settings });
    return true;
  }

  const active = (state: { readonly ended: unknown } | null): boolean => state !== null && state.ended === null;
  const running = computed(() => active(run.value) || load.value !== null || active(batchRun.value));

  return {
    engine,
    notices,
    sample,
    run,
    batch: batchRun,
    running,
    pending: computed(() => waiting.value !== null),
    tiers,
    experimenting,
    sampling,

    open,
    openIfIdle(model) {
      const { phase } = engine.value;
      if (running.value || waiting.value !== null || phase === 'opening' || phase === 'retiering') return false;
      open(model);
      return true;
    },
    applyTiers() {
      keepTiers(tiers.value);
      if (retier(tiers.value)) asChosen();
    },
    retier(settings) {
      if (retier(settings)) experimenting.value = tiersText(settings) !== chosen;
    },
    close: () => send({ type: 'close' }),
    generate(prompt) {
      const { phase, asked } = engine.value;
      if (phase === 'ready') return start(prompt);
      waiting.value = prompt;
      if (phase === 'closed' || phase === 'failed') open(asked?.choice ?? { kind: 'example' });
    },
    generateLoad(prompts, loadSampling) {
      if (engine.value.phase !== 'ready') return null;
      load.value = { run: ++lastRun };
      send({ type: 'generate', run: lastRun, prompts, sampling: loadSampling });
      return lastRun;
    },
    stopRun() {
      waiting.value = null;
      stop(run.value);
    },
    stopLoad() {
      if (load.value !== null) send({ type: 'stop', run: load.value.run });
    },
    runBatch(input, skipInvalid) {
      batchRun.value = beginBatch(++lastRun);
      send({ type: 'batch', run: lastRun, input, skipInvalid });
    },
    stopBatch: () => stop(batchRun.value),
    forgetRun() {
      run.value = null;
    },
    setLatency: (ms) => send({ type: 'latency', ms }),
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
