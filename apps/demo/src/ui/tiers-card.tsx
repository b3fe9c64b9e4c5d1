/** Where the two tiers run. What is set here is used when a model is opened; “Apply” reopens the tiers of the one that is. */
import { useSignal } from '@preact/signals';
import type { Capabilities, TierSettings } from '../engine/protocol.ts';
import { MAX_IN_FLIGHT, MAX_KV_BYTES, MAX_MICRO_BATCH_ROWS, MAX_WORKERS, MIB } from '../limits.ts';
import type { AppState } from '../state/app-state.ts';
import { formatBytes } from '../state/format.ts';
import { checkTierSettings } from '../state/tier-settings.ts';
import type { TierFault } from '../tier-faults.ts';
import { DenseSettings } from './dense-settings.tsx';
import { type Choice, Field, Segments, SelectField, Stepper } from './field.tsx';
import { RemotesEditor } from './remotes-editor.tsx';

const EXPERIMENTING = 'The experiment opened tiers of its own. Apply opens these again.';

export function TiersCard({ app, secure }: { readonly app: AppState; readonly secure: boolean }) {
  const settings = app.tiers.value;
  const faults = checkTierSettings(settings, secure);
  const said = useSignal<string | null>(null);
  const { phase } = app.engine.value;

  function change(part: Partial<TierSettings>): void {
    said.value = null;
    app.tiers.value = { ...app.tiers.value, ...part };
  }

  function onSubmit(event: Event): void {
    event.preventDefault();
    said.value = phase === 'ready' ? 'Reopening the tiers.' : 'Noted: used when a model is loaded.';
    app.applyTiers();
  }

  const gpuFault = faultOfGpu(settings, app.engine.value.capabilities);

  return (
    <section class="card tiers-card" aria-labelledby="tiers-heading">
      <h2 id="tiers-heading">Tiers</h2>
      <form onSubmit={onSubmit}>
        <div class="sides">
          <DenseSettings settings={settings} capabilities={app.engine.value.capabilities} change={change} />
          <AttentionSettings settings={settings} faults={faults} change={change} />
        </div>
        <MoreSettings settings={settings} faults={faults} change={change} />
        <div class="actions">
          <button
            type="submit"
            class="primary"
            disabled={faults.length > 0 || gpuFault !== null || phase === 'opening'}
          >
            Apply
          </button>
          <p class="note" role="status" aria-label="Tier settings">
            {faults[0]?.message ?? gpuFault ?? said.value ?? (app.experimenting.value ? EXPERIMENTING : '')}
          </p>
        </div>
      </form>
    </section>
  );
}

/** What is known before anything is opened. */
function faultOfGpu(settings: TierSettings, capabilities: Capabilities | null): string | null {
  if (settings.dense !== 'webgpu' || capabilities === null) return null;
  if (capabilities.gpuUnavailable !== null) return 'There is no WebGPU here: choose WASM.';
  if (settings.allowSoftwareGpu || capabilities.gpus.some(({ software }) => !software)) return null;
  return 'The only adapter here is software: allow it, or choose WASM.';
}

interface SettingsProps {
  readonly settings: TierSettings;
  readonly faults: readonly TierFault[];
  readonly change: (part: Partial<TierSettings>) => void;
}

function AttentionSettings({ settings, faults, change }: SettingsProps) {
  const fault = faults.find(({ field }) => field === 'workers')?.message ?? null;
  return (
    <div class="side attention">
      <h3>Attention</h3>
      <Segments
        legend="Runs"
        value={settings.mode}
        choices={[
          { value: 'two-tiers', label: 'Apart (two tiers)' },
          { value: 'one-tier', label: 'With dense (one tier)' },
        ]}
        onChange={(mode) => change({ mode })}
      />
      {settings.mode === 'two-tiers' ? (
        <>
          <Stepper
            label="Workers in this tab"
            value={settings.workers}
            low={0}
            high={MAX_WORKERS}
            error={fault}
            hint="a thread each, with its own memory"
            onChange={(workers) => change({ workers })}
          />
          <RemotesEditor remotes={settings.remotes} faults={faults} onChange={(remotes) => change({ remotes })} />
        </>
      ) : (
        <p class="note">Attention takes turns with the dense tier: the baseline to compare two tiers with.</p>
      )}
    </div>
  );
}

function MoreSettings({ settings, faults, change }: SettingsProps) {
  const fault = (name: TierFault['field']): string | null =>
    faults.find(({ field }) => field === name)?.message ?? null;
  const rows = settings.microBatchRows;
  return (
    <details class="more">
      <summary>
        KV cache and micro-batches
        <span class="note">
          {' '}
          {formatBytes(settings.kvBytes || 0)} of {settings.kvDtype}, in flight {settings.inFlight}, rows {rows}
        </span>
      </summary>
      <div class="fields">
        <SelectField
          label="KV dtype"
          value={settings.kvDtype}
          choices={[
            { value: 'f16', label: 'f16' },
            { value: 'bf16', label: 'bf16 (a little faster, less exact)' },
            { value: 'f32', label: 'f32 (twice the memory)' },
            { value: 'int8', label: 'int8 (half the memory)' },
          ]}
          onChange={(kvDtype) => change({ kvDtype })}
        />
        <NumberField
          label="KV memory, MiB"
          value={settings.kvBytes / MIB}
          low={1}
          high={MAX_KV_BYTES / MIB}
          error={fault('kvBytes')}
          onChange={(mebibytes) => change({ kvBytes: Math.round(mebibytes * MIB) })}
        />
        <SelectField
          label="Micro-batches in flight"
          value={String(settings.inFlight)}
          choices={IN_FLIGHT_CHOICES}
          onChange={(value) => change({ inFlight: value === 'auto' ? 'auto' : Number(value) })}
        />
        <NumberField
          label="Micro-batch rows"
          value={rows === 'auto' ? null : rows}
          low={1}
          high={MAX_MICRO_BATCH_ROWS}
          empty="auto"
          error={fault('microBatchRows')}
          onChange={(value) => change({ microBatchRows: value })}
          onEmpty={() => change({ microBatchRows: 'auto' })}
        />
      </div>
    </details>
  );
}

const IN_FLIGHT_CHOICES: readonly Choice<string>[] = [
  { value: 'auto', label: 'auto' },
  ...Array.from({ length: MAX_IN_FLIGHT }, (_, i) => ({ value: String(i + 1), label: String(i + 1) })),
];

function NumberField(props: {
  readonly label: string;
  readonly value: number | null;
  readonly low: number;
  readonly high: number;
  readonly empty?: string;
  readonly error: string | null;
  readonly onChange: (value: number) => void;
  readonly onEmpty?: () => void;
}) {
  return (
    <Field label={props.label} error={props.error}>
      {({ id, describedBy }) => (
        <input
          id={id}
          type="number"
          inputMode="numeric"
          min={props.low}
          max={props.high}
          step={1}
          placeholder={props.empty}
          aria-describedby={describedBy}
          aria-invalid={props.error !== null}
          value={props.value === null || !Number.isFinite(props.value) ? '' : props.value}
          onChange={({ currentTarget }) => {
            if (currentTarget.value === '' && props.onEmpty !== undefined) props.onEmpty();
            else props.onChange(currentTarget.valueAsNumber);
          }}
        />
      )}
    </Field>
  );
}
