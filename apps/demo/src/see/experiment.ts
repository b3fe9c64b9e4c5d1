/**
 * Carries the experiment out: sets up the tiers that a visitor chose, keeps the load going across a change of them, and runs the
 * comparison. It decides nothing by itself but the order: a run is stopped before tiers change and begun again after.
 */
import { type ReadonlySignal, signal } from '@preact/signals';
import type { Event, Prompt, SamplingControls, TierSettings } from '../engine/protocol.ts';
import { type ComparisonState, type Input, stepComparison, type Trial } from './comparison.ts';
import type { SampleLog } from './sample-log.ts';
import { STORY_SAMPLING, steadyPrompts, storyPrompts } from './story-load.ts';
import { StoryTexts } from './story-texts.ts';

export interface ExperimentPorts {
  onRetier(settings: TierSettings): void;
  /** @returns the number of the run; null when nothing can run now */
  onLoad(prompts: readonly Prompt[], sampling: SamplingControls): number | null;
  onStop(): void;
}

/** A load that was begun. */
export interface ActiveLoad {
  readonly run: number;
  readonly stories: number;
  /** What was written so far: kept here, as a view of it may come after the first words. */
  readonly texts: StoryTexts;
}

const TICK_MS = 1_000;

export class Experiment {
  readonly #log: SampleLog;
  readonly #ports: ExperimentPorts;
  readonly #load = signal<ActiveLoad | null>(null);
  readonly #comparison = signal<ComparisonState>({ phase: 'idle' });
  readonly #unlisten: () => void;
  readonly #timer: ReturnType<typeof setInterval>;
  /** Tiers to change to once the load has stopped, and the load to begin then. */
  #wanted: { readonly settings: TierSettings; readonly stories: number } | null = null;
  #compareStories = 0;
  #awaitsReady = 0;
  /** Of the log's points, those that the comparison was told of. */
  #pointsTold = 0;

  constructor(log: SampleLog, ports: ExperimentPorts) {
    this.#log = log;
    this.#ports = ports;
    this.#unlisten = log.listen((event) => this.#onEvent(event));
    this.#timer = setInterval(() => this.#step({ type: 'tick', nowMs: performance.now() }), TICK_MS);
  }

  /** The load under way. */
  get load(): ReadonlySignal<ActiveLoad | null> {
    return this.#load;
  }

  get comparison(): ReadonlySignal<ComparisonState> {
    return this.#comparison;
  }

  get comparing(): boolean {
    return this.#comparison.value.phase === 'running';
  }

  /** Other tiers; the load, if one is under way, begins again on them. */
  change(settings: TierSettings): void {
    if (this.comparing) return;
    const load = this.#load.value;
    if (load === null) {
      this.#awaitsReady = 0;
      this.#ports.onRetier(settings);
      return;
    }
    const stopping = this.#wanted !== null;
    this.#wanted = { settings, stories: load.stories };
    if (!stopping) this.#ports.onStop();
  }

  /** @param settings tiers to change to first; null keeps those that are open */
  start(stories: number, settings: TierSettings | null): void {
    if (this.#load.value !== null || this.comparing) return;
    if (settings === null) {
      this.#begin(storyPrompts(stories));
    } else {
      this.#awaitsReady = stories;
      this.#ports.onRetier(settings);
    }
  }

  stop(): void {
    if (this.comparing) {
      this.#step({ type: 'cancel' });
      return;
    }
    this.#wanted = null;
    this.#awaitsReady = 0;
    if (this.#load.value !== null) this.#ports.onStop();
  }

  /** @param stories more than enough for the time that a trial is measured */
  compare(trials: readonly Trial[], restore: TierSettings, stories: number): void {
    this.#wanted = null;
    this.#compareStories = stories;
    this.#step({ type: 'start', trials, restore, busyRun: this.#load.value?.run ?? null });
  }

  destroy(): void {
    clearInterval(this.#timer);
    this.#unlisten();
  }

  #begin(prompts: readonly Prompt[]): number | null {
    const run = this.#ports.onLoad(prompts, STORY_SAMPLING);
    if (run === null) return null;
    const beginnings = prompts.map((prompt) => (prompt.kind === 'text' ? prompt.text : ''));
    this.#load.value = { run, stories: prompts.length, texts: new StoryTexts(run, beginnings) };
    return run;
  }

  #onEvent(event: Event): void {
    const load = this.#load.value;
    load?.texts.take(event);
    const ended = event.type === 'ended' && event.run === load?.run;
    if (ended || event.type === 'failed' || event.type === 'closed') this.#load.value = null;
    const points = this.#log.pointsMade - this.#pointsTold;
    this.#pointsTold = this.#log.pointsMade;
    if (this.comparing) {
      this.#step({ type: 'event', event });
      if (points > 0)
        for (const { stretch } of this.#log.series.slice(-points)) this.#step({ type: 'stretch', stretch });
      return;
    }
    if (event.type === 'failed' || event.type === 'closed') {
      this.#wanted = null;
      this.#awaitsReady = 0;
    } else if (ended && this.#wanted !== null) {
      const { settings, stories } = this.#wanted;
      this.#wanted = null;
      // What failed the run may have taken the engine with it.
      if (event.how === 'failed') return;
      this.#awaitsReady = stories;
      this.#ports.onRetier(settings);
    } else if (event.type === 'ready' && this.#awaitsReady > 0) {
      const stories = this.#awaitsReady;
      this.#awaitsReady = 0;
      this.#begin(storyPrompts(stories));
    }
  }

  #step(input: Input): void {
    const { state, effects } = stepComparison(this.#comparison.value, input);
    this.#comparison.value = state;
    for (const effect of effects) {
      switch (effect.type) {
        case 'retier':
          this.#ports.onRetier(effect.settings);
          break;
        case 'stop':
          this.#ports.onStop();
          break;
        case 'load':
          this.#step({ type: 'loaded', run: this.#begin(steadyPrompts(this.#compareStories, effect.atOnce)) });
          break;
        default:
          effect satisfies never;
      }
    }
  }
}
