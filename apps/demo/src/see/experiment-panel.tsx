/** The experiment's controls: which tiers, how far apart, how much in flight, how much memory; the load; the comparison. */
import { type Signal, useComputed, useSignal } from '@preact/signals';
import { useEffect, useId, useRef } from 'preact/hooks';
import type { TierReport } from '../engine/protocol.ts';
import { formatBytes } from '../state/format.ts';
import { ComparisonView } from './comparison-view.tsx';
import type { Experiment } from './experiment.ts';
import {
  type Knobs,
  MAX_MANY,
  MAX_ROUND_TRIP_MS,
  MIN_MANY,
  ROW_CHOICES,
  SETUP_NAMES,
  SETUPS,
  type Setup,
  STORY_CHOICES,
  settingsFor,
  setupOf,
  storiesAtOnce,
  storiesInFlight,
  storyKvBytes,
  tokenBytesOf,
} from './experiment-settings.ts';

const FEW_STORIES = 48;
/** A trial is measured for some seconds; stories that end are followed by others. */
const STORIES_TO_COMPARE = 2_000;

export interface ExperimentPanelProps {
  readonly experiment: Experiment;
  readonly tiers: TierReport | null;
  /** Something of the page's own is under way: opening, a prompt, a batch. */
  readonly busy: boolean;
  readonly knobs: Signal<Knobs>;
  onLatency(ms: number): void;
  /** Opens the example model. */
  onOpen(): void;
}

export function ExperimentPanel({ experiment, tiers, busy, knobs, onLatency, onOpen }: ExperimentPanelProps) {
  const comparison = experiment.comparison.value;
  const comparing = comparison.phase === 'running';
  const loading = experiment.load.value !== null;
  const blocked = comparing || (busy && !loading);
  const compared = useSignal(knobs.value);
  /** Kept while a slider moves away from what is open. */
  const chosen = useSignal<Setup | null>(null);
  /** Chosen, and not open yet: as long as the tiers are still those that it was chosen over. */
  const coming = useSignal<{ readonly setup: Setup; readonly over: TierReport | null } | null>(null);
  const many = useComputed(() => storiesInFlight(knobs.value));
  const tokenBytes = tiers === null ? 1 : tokenBytesOf(tiers);
  const setup = tiers === null ? null : setupOf(tiers.settings, knobs.value, tokenBytes);

  /** What was asked for before a model was there: done when the example is open, forgotten if it does not open. */
  const wanted = useRef<((open: TierReport) => void) | null>(null);
  const once = (act: (open: TierReport) => void) => {
    if (tiers !== null) return act(tiers);
    wanted.current = act;
    onOpen();
  };
  const choose = (next: Setup) => {
    chosen.value = next;
    coming.value = { setup: next, over: tiers };
    once((open) => experiment.change(settingsFor(next, knobs.value, open.settings, tokenBytesOf(open))));
  };
  useEffect(() => {
    if (tiers === null && busy) return;
    const act = wanted.current;
    wanted.current = null;
    if (tiers !== null) act?.(tiers);
  }, [tiers, busy]);
  /** A knob that tiers are made with: they are made again if it concerns those that are open. */
  const turn = (change: Partial<Knobs>, concerned: readonly Setup[]) => {
    const open = chosen.value;
    knobs.value = { ...knobs.value, ...change };
    if (open !== null && tiers !== null && concerned.includes(open) && !blocked) choose(open);
  };
  /** Tiers that were set by hand would not show what the knobs say. */
  const write = (stories: number) =>
    once((open) => {
      const { settings } = open;
      const bytes = tokenBytesOf(open);
      const known = setupOf(settings, knobs.value, bytes) !== null;
      experiment.start(stories, known ? null : settingsFor('many-in-flight', knobs.value, settings, bytes));
    });
  const compare = () =>
    once((open) => {
      compared.value = knobs.value;
      const bytes = tokenBytesOf(open);
      const trials = SETUPS.map((each) => ({
        setup: each,
        settings: settingsFor(each, knobs.value, open.settings, bytes),
        atOnce: storiesAtOnce(each, knobs.value),
      }));
      experiment.compare(trials, open.settings, STORIES_TO_COMPARE);
    });

  return (
    <div class="see-experiment">
      <SetupSwitch
        setup={coming.value?.over === tiers ? coming.value.setup : setup}
        blocked={blocked}
        onChoose={choose}
      />
      <div class="see-knobs">
        <Slider
          label="Round trip"
          value={knobs.value.latencyMs}
          least={0}
          most={MAX_ROUND_TRIP_MS}
          shown={`${knobs.value.latencyMs} ms`}
          note={latencyNote(setup, tiers)}
          disabled={comparing}
          onInput={(latencyMs) => {
            knobs.value = { ...knobs.value, latencyMs };
            onLatency(latencyMs);
          }}
        />
        <Slider
          label="“Many” in flight"
          value={knobs.value.inFlight}
          least={MIN_MANY}
          most={MAX_MANY}
          shown={String(knobs.value.inFlight)}
          note={`${many.value} stories under way`}
          disabled={comparing}
          onInput={(inFlight) => {
            knobs.value = { ...knobs.value, inFlight };
          }}
          onChange={() => turn({}, ['many-in-flight'])}
        />
        <Choice
          label="Rows of a micro-batch"
          value={knobs.value.rows}
          choices={ROW_CHOICES.map((rows) => ({ value: rows, name: String(rows) }))}
          note="at most, in two tiers"
          disabled={blocked}
          onChange={(rows) => turn({ rows }, ['one-in-flight', 'many-in-flight'])}
        />
        <Choice
          label="KV memory of one tier"
          value={knobs.value.oneTierStories}
          choices={STORY_CHOICES.map((stories) => ({ value: stories, name: storiesOf(stories, tiers, tokenBytes) }))}
          note="at full length; more fit while they grow"
          disabled={blocked}
          onChange={(oneTierStories) => turn({ oneTierStories }, ['one-tier'])}
        />
      </div>
      <p class="see-honest">
        Simulated: the distance between the tiers, and how little KV memory one tier has. <b>One tier</b> computes
        attention in turn with the dense layers in one place, with nothing in between. <b>Two tiers</b> have the
        workers’ KV memory, at the distance of the slider. Everything you see is measured.
      </p>
      <div class="see-actions">
        {loading || comparing ? (
          <button type="button" class="see-button see-stop" onClick={() => experiment.stop()}>
            {comparing ? 'Stop comparing' : 'Stop the stories'}
          </button>
        ) : (
          <>
            <button type="button" class="see-button" disabled={blocked} onClick={() => write(FEW_STORIES)}>
              Write {FEW_STORIES} stories at once
            </button>
            <button type="button" class="see-button" disabled={blocked} onClick={() => write(many.value)}>
              Write {many.value}
            </button>
          </>
        )}
        <button type="button" class="see-button see-primary" disabled={blocked} onClick={compare}>
          Compare all three
        </button>
        {tiers === null && <span class="see-hint">With the example model, which is loaded first.</span>}
        {tiers !== null && setup === null && !comparing && (
          <span class="see-hint">
            Open now: the tiers as set under Tiers. Choose one of the three, or write stories with many in flight.
          </span>
        )}
      </div>
      <ComparisonView state={comparison} knobs={compared.value} />
    </div>
  );
}

function latencyNote(setup: Setup | null, tiers: TierReport | null): string {
  if (setup === null)
    return tiers === null ? 'added between two tiers' : 'of the three; moving it changes what is open, too';
  return setup === 'one-tier' ? 'one tier has none' : 'between the tiers, changed live';
}

function storiesOf(stories: number, tiers: TierReport | null, tokenBytes: number): string {
  const room = `${stories} ${stories === 1 ? 'story' : 'stories'}`;
  return tiers === null ? room : `${room} (${formatBytes(storyKvBytes(stories, tokenBytes))})`;
}

function SetupSwitch(props: { readonly setup: Setup | null; readonly blocked: boolean; onChoose(setup: Setup): void }) {
  const name = useId();
  return (
    <fieldset class="see-switch" disabled={props.blocked}>
      <legend>Where attention runs</legend>
      {SETUPS.map((setup) => (
        <label key={setup} class={props.setup === setup ? 'see-chosen' : ''}>
          <input type="radio" name={name} checked={props.setup === setup} onChange={() => props.onChoose(setup)} />
          <span>{SETUP_NAMES[setup]}</span>
        </label>
      ))}
    </fieldset>
  );
}

interface SliderProps {
  readonly label: string;
  readonly value: number;
  readonly least: number;
  readonly most: number;
  readonly shown: string;
  readonly note: string;
  readonly disabled: boolean;
  onInput(value: number): void;
  /** When it is let go of. */
  onChange?(): void;
}

function Slider({ label, value, least, most, shown, note, disabled, onInput, onChange }: SliderProps) {
  const id = useId();
  return (
    <div class="see-knob">
      <label for={id}>{label}</label>
      <b aria-hidden="true">{shown}</b>
      <input
        id={id}
        type="range"
        min={least}
        max={most}
        step={1}
        value={value}
        disabled={disabled}
        aria-valuetext={shown}
        onInput={(event) => onInput(Number(event.currentTarget.value))}
        onChange={() => onChange?.()}
      />
      <small>{note}</small>
    </div>
  );
}

interface ChoiceProps {
  readonly label: string;
  readonly value: number;
  readonly choices: readonly { readonly value: number; readonly name: string }[];
  readonly note: string;
  readonly disabled: boolean;
  onChange(value: number): void;
}

function Choice({ label, value, choices, note, disabled, onChange }: ChoiceProps) {
  const id = useId();
  return (
    <div class="see-knob">
      <label for={id}>{label}</label>
      <select id={id} disabled={disabled} onChange={(event) => onChange(Number(event.currentTarget.value))}>
        {choices.map((choice) => (
          <option key={choice.value} value={choice.value} selected={choice.value === value}>
            {choice.name}
          </option>
        ))}
      </select>
      <small>{note}</small>
    </div>
  );
}
