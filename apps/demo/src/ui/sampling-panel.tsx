/** How tokens are drawn. Closed at first: the defaults are the model's own. */
import type { Signal } from '@preact/signals';
import type { SamplingControls } from '../engine/protocol.ts';
import { type NumberField, readNumber, readSeed, readStops, SAMPLING_RANGES } from '../state/sampling-settings.ts';
import { Field } from './field.tsx';

const FIELDS: readonly NumberField[] = ['temperature', 'maxTokens', 'topP', 'topK', 'minP', 'repetitionPenalty'];

export function SamplingPanel(props: {
  readonly sampling: Signal<SamplingControls>;
  /** What the model is told before a conversation; absent for text. */
  readonly system?: Signal<string>;
  /** By field, what is wrong with what stands in it; such a field leaves the value that was. */
  readonly faults: Signal<ReadonlyMap<string, string>>;
}) {
  const { sampling, system, faults } = props;
  const { temperature, maxTokens, seed } = sampling.value;
  const change = (part: Partial<SamplingControls>): void => {
    sampling.value = { ...sampling.value, ...part };
  };
  const setFault = (label: string, fault: string | null): void => {
    if ((faults.value.get(label) ?? null) === fault) return;
    const others = new Map(faults.value);
    if (fault === null) others.delete(label);
    else others.set(label, fault);
    faults.value = others;
  };
  return (
    <details class="more sampling">
      <summary>
        Sampling
        <span class="note">
          {' '}
          {temperature === 0 ? 'greedy' : `temperature ${temperature}`}, up to {maxTokens} tokens
          {seed === null ? '' : `, seed ${seed}`}
        </span>
      </summary>
      <div class="fields">
        {FIELDS.map((field) => (
          <NumberInput
            key={field}
            field={field}
            value={sampling.value[field]}
            fault={faults.value.get(SAMPLING_RANGES[field].label) ?? null}
            onFault={setFault}
            onChange={(value) => change({ [field]: value })}
          />
        ))}
        <SeedInput
          value={seed}
          fault={faults.value.get('Seed') ?? null}
          onFault={setFault}
          onChange={(value) => change({ seed: value })}
        />
        <StopsInput onChange={(stop) => change({ stop })} />
        {system !== undefined && <SystemInput system={system} />}
      </div>
    </details>
  );
}

interface FaultProps {
  readonly fault: string | null;
  readonly onFault: (label: string, fault: string | null) => void;
}

function NumberInput(
  props: FaultProps & {
    readonly field: NumberField;
    readonly value: number;
    readonly onChange: (value: number) => void;
  },
) {
  const { label, low, high, step, hint } = SAMPLING_RANGES[props.field];
  return (
    <Field label={label} hint={hint} error={props.fault}>
      {({ id, describedBy }) => (
        <input
          id={id}
          type="number"
          inputMode="decimal"
          min={low}
          max={high}
          step={step}
          value={props.value}
          aria-describedby={describedBy}
          aria-invalid={props.fault !== null}
          onInput={({ currentTarget }) => {
            const value = readNumber(props.field, currentTarget.value);
            props.onFault(label, value === null ? `must be ${low} to ${high}` : null);
            if (value !== null) props.onChange(value);
          }}
        />
      )}
    </Field>
  );
}

function SeedInput(
  props: FaultProps & { readonly value: bigint | null; readonly onChange: (value: bigint | null) => void },
) {
  return (
    <Field label="Seed" hint="empty draws one" error={props.fault}>
      {({ id, describedBy }) => (
        <input
          id={id}
          type="text"
          inputMode="numeric"
          autocomplete="off"
          aria-describedby={describedBy}
          aria-invalid={props.fault !== null}
          value={props.value === null ? '' : String(props.value)}
          onChange={({ currentTarget }) => {
            const value = readSeed(currentTarget.value);
            props.onFault('Seed', value === undefined ? 'must be an integer of 64 bits' : null);
            if (value !== undefined) props.onChange(value);
          }}
        />
      )}
    </Field>
  );
}

function StopsInput({ onChange }: { readonly onChange: (stops: readonly string[]) => void }) {
  return (
    <Field label="Stop at" hint="one text a line, up to 4; \n is a line’s end">
      {({ id, describedBy }) => (
        <textarea
          id={id}
          rows={2}
          spellcheck={false}
          aria-describedby={describedBy}
          onInput={({ currentTarget }) => onChange(readStops(currentTarget.value))}
        />
      )}
    </Field>
  );
}

function SystemInput({ system }: { readonly system: Signal<string> }) {
  return (
    <Field label="Instructions" hint="a system message; empty leaves it to the model’s template">
      {({ id, describedBy }) => (
        <textarea
          id={id}
          rows={2}
          aria-describedby={describedBy}
          value={system.value}
          onInput={({ currentTarget }) => {
            system.value = currentTarget.value;
          }}
        />
      )}
    </Field>
  );
}
