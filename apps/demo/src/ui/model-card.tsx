/** Which model: what is open, and four ways to another. */
import type { Signal } from '@preact/signals';
import type { AppState } from '../state/app-state.ts';
import type { Downloads } from '../state/downloads.ts';
import { askedName } from '../state/engine-state.ts';
import { formatBytes, formatCount, formatParameters } from '../state/format.ts';
import type { LocalModel } from '../state/local-files.ts';
import { LocalPanel } from './local-panel.tsx';
import { ProgressBar } from './progress-bar.tsx';
import { RemotePanel } from './remote-panel.tsx';
import { StoredPanel } from './stored-panel.tsx';
import { Tabs } from './tabs.tsx';

export interface ModelCardProps {
  readonly app: AppState;
  readonly downloads: Downloads;
  /** Picked or dropped, not opened yet. */
  readonly picked: Signal<LocalModel | null>;
  /** Which way to a model is shown; a drop turns to its own. */
  readonly tab: Signal<string>;
}

export function ModelCard({ app, downloads, picked, tab }: ModelCardProps) {
  const { stored, partial } = downloads.state.value;
  const kept = stored.length + partial.length;
  return (
    <section class="card model-card" aria-labelledby="model-heading">
      <h2 id="model-heading">Model</h2>
      <OpenModel app={app} />
      <Tabs
        label="Where a model comes from"
        chosen={tab.value}
        onChoose={(key) => {
          tab.value = key;
        }}
        tabs={[
          { key: 'example', label: 'Example', panel: <ExamplePanel app={app} /> },
          { key: 'local', label: 'From disk', panel: <LocalPanel app={app} picked={picked} /> },
          { key: 'remote', label: 'Hub or URL', panel: <RemotePanel app={app} downloads={downloads} /> },
          {
            key: 'stored',
            label: kept === 0 ? 'Stored' : `Stored (${kept})`,
            panel: <StoredPanel app={app} downloads={downloads} />,
          },
        ]}
      />
    </section>
  );
}

function OpenModel({ app }: { readonly app: AppState }) {
  const { phase, model, progress } = app.engine.value;
  const opening = phase === 'opening' || phase === 'retiering';
  const again = askedName(app.engine.value);
  const none =
    again === null
      ? 'None is loaded yet. “Generate” loads the example by itself.'
      : `None is loaded. “Generate” opens ${again} again.`;
  return (
    <div class="open-model">
      {model === null ? (
        <p class="note">{opening ? 'Reading the model…' : none}</p>
      ) : (
        <>
          <div class="model-head">
            <p class="model-name">{model.description.name}</p>
            <Unload app={app} />
          </div>
          <ModelFacts model={model} />
        </>
      )}
      {opening && (
        <div class="opening">
          <ProgressBar
            label="Opening"
            share={progress === null || progress.total === null ? null : progress.done / Math.max(1, progress.total)}
          />
          <p class="note">
            {progress?.stage ?? 'starting'}
            {progress !== null && progress.total !== null && progress.total > 4096
              ? ` ${formatBytes(progress.done)} of ${formatBytes(progress.total)}`
              : ''}
          </p>
        </div>
      )}
    </div>
  );
}

function ModelFacts({ model }: { readonly model: NonNullable<AppState['engine']['value']['model']> }) {
  const { description } = model;
  const { family, parameters, layers, heads, kvHeads, contextTokens, kvBytesPerToken } = description;
  const facts = [
    ['Parameters', formatParameters(parameters)],
    [
      'Weights in memory',
      `${formatBytes(model.wasmWeightBytes)} on WASM, ${formatBytes(model.gpuWeightBytes)} on a GPU`,
    ],
    ['Shape', `${family}, ${layers} layers, ${heads} query and ${kvHeads} KV heads`],
    ['Context', `${formatCount(contextTokens)} tokens, ${formatBytes(kvBytesPerToken.f16)} of KV each in f16`],
  ] as const;
  return (
    <>
      <dl class="facts">
        {facts.map(([label, value]) => (
          <div key={label}>
            <dt>{label}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {description.notes.length > 0 && <p class="note">{description.notes.join(' ')}</p>}
    </>
  );
}

function ExamplePanel({ app }: { readonly app: AppState }) {
  const { phase } = app.engine.value;
  return (
    <>
      <p class="note">
        tale-1m: 1.44 million parameters, made for this project. It tells children’s stories. A download of 2.9 MB, some
        7 MiB of memory for its weights.
      </p>
      <div class="actions">
        <button
          type="button"
          class="primary"
          disabled={phase === 'opening'}
          onClick={() => app.open({ kind: 'example' })}
        >
          Load example
        </button>
      </div>
    </>
  );
}

function Unload({ app }: { readonly app: AppState }) {
  if (app.engine.value.phase !== 'ready') return null;
  return (
    <button type="button" class="quiet" onClick={app.close}>
      Unload
    </button>
  );
}
