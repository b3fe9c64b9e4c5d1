/** Labelled form controls: every one has a visible label, says what is wrong beside it, and fits a thumb. */
import type { ComponentChildren } from 'preact';
import { useId } from 'preact/hooks';

export function Field(props: {
  readonly label: string;
  readonly hint?: string;
  readonly error?: string | null;
  readonly children: (ids: { readonly id: string; readonly describedBy: string | undefined }) => ComponentChildren;
}) {
  const id = useId();
  const error = props.error ?? null;
  const note = error ?? props.hint;
  return (
    <div class="field">
      <label for={id}>{props.label}</label>
      {props.children({ id, describedBy: note === undefined ? undefined : `${id}-note` })}
      {note !== undefined && (
        <p id={`${id}-note`} class={error === null ? 'note' : 'note fault'}>
          {note}
        </p>
      )}
    </div>
  );
}

export function Stepper(props: {
  readonly label: string;
  readonly value: number;
  readonly low: number;
  readonly high: number;
  readonly hint?: string;
  readonly error?: string | null;
  readonly disabled?: boolean;
  readonly onChange: (value: number) => void;
}) {
  const { label, value, low, high, onChange, disabled = false } = props;
  const change = (to: number): void => onChange(Math.min(high, Math.max(low, Math.round(to))));
  return (
    <Field
      label={label}
      {...(props.hint === undefined ? {} : { hint: props.hint })}
      {...(props.error === undefined ? {} : { error: props.error })}
    >
      {({ id, describedBy }) => (
        <div class="stepper">
          <button
            type="button"
            aria-label={`${label}: one less`}
            disabled={disabled || value <= low}
            onClick={() => change(value - 1)}
          >
            −
          </button>
          <input
            id={id}
            type="number"
            inputMode="numeric"
            min={low}
            max={high}
            value={value}
            disabled={disabled}
            aria-describedby={describedBy}
            onChange={({ currentTarget }) => {
              const typed = currentTarget.valueAsNumber;
              if (Number.isFinite(typed)) change(typed);
              currentTarget.value = String(Number.isFinite(typed) ? Math.min(high, Math.max(low, typed)) : value);
            }}
          />
          <button
            type="button"
            aria-label={`${label}: one more`}
            disabled={disabled || value >= high}
            onClick={() => change(value + 1)}
          >
            +
          </button>
        </div>
      )}
    </Field>
  );
}

export interface Choice<T extends string> {
  readonly value: T;
  readonly label: string;
}

/** Radio buttons side by side. */
export function Segments<T extends string>(props: {
  readonly legend: string;
  readonly choices: readonly Choice<T>[];
  readonly value: T;
  readonly onChange: (value: T) => void;
}) {
  const name = useId();
  return (
    <fieldset class="segments">
      <legend>{props.legend}</legend>
      <div>
        {props.choices.map(({ value, label }) => (
          <label key={value} class={value === props.value ? 'chosen' : undefined}>
            <input
              type="radio"
              name={name}
              value={value}
              checked={value === props.value}
              onChange={() => props.onChange(value)}
            />
            {label}
          </label>
        ))}
      </div>
    </fieldset>
  );
}

export function SelectField<T extends string>(props: {
  readonly label: string;
  readonly choices: readonly Choice<T>[];
  readonly value: T;
  readonly hint?: string;
  readonly onChange: (value: T) => void;
}) {
  return (
    <Field label={props.label} {...(props.hint === undefined ? {} : { hint: props.hint })}>
      {({ id, describedBy }) => (
        <select
          id={id}
          aria-describedby={describedBy}
          value={props.value}
          onChange={({ currentTarget }) => {
            const chosen = props.choices.find(({ value }) => value === currentTarget.value);
            if (chosen !== undefined) props.onChange(chosen.value);
          }}
        >
          {props.choices.map(({ value, label }) => (
            <option key={value} value={value}>
              {label}
            </option>
          ))}
        </select>
      )}
    </Field>
  );
}
