/** A model from the hub or a URL: asked about first, then downloaded into this browser, with what it needs against what there is. */
import { useSignal } from '@preact/signals';
import type { AppState } from '../state/app-state.ts';
import type { Downloads } from '../state/downloads.ts';
import { formatBytes, formatParameters, plural } from '../state/format.ts';
import { parseModelSource } from '../store/model-source.ts';
import type { RemoteChoice, RemoteModel, StoredModel } from '../store/store-api.ts';
import { DownloadProgressView } from './download-progress.tsx';
import { Field } from './field.tsx';
import { HubToken } from './hub-token.tsx';

export function RemotePanel({ app, downloads }: { readonly app: AppState; readonly downloads: Downloads }) {
  const typed = useSignal('');
  /** Downloaded while something ran, so that it was not opened. */
  const arrived = useSignal<StoredModel | null>(null);
  const { unavailable, lookup, download } = downloads.state.value;

  function onSubmit(event: Event): void {
    event.preventDefault();
    arrived.value = null;
    try {
      void downloads.lookUp(parseModelSource(typed.value));
    } catch (thrown) {
      app.tellThrown(thrown);
    }
  }

  async function fetchAndLoad(remote: RemoteModel): Promise<void> {
    arrived.value = null;
    const stored = await downloads.download(remote);
    if (stored !== null && !app.openIfIdle({ kind: 'stored', id: stored.id })) arrived.value = stored;
  }

  function load({ id }: StoredModel): void {
    arrived.value = null;
    app.open({ kind: 'stored', id });
  }

  if (unavailable !== null) return <p class="note is-warn">{unavailable}</p>;
  return (
    <>
      <form class="lookup" onSubmit={onSubmit}>
        <Field
          label="Hub id or URL"
          hint="owner/name, owner/name:file.gguf, or an address that ends in .gguf or in a folder’s /"
        >
          {({ id, describedBy }) => (
            <input
              id={id}
              type="text"
              spellcheck={false}
              autocapitalize="off"
              autocomplete="off"
              aria-describedby={describedBy}
              value={typed.value}
              onInput={({ currentTarget }) => {
                typed.value = currentTarget.value;
              }}
            />
          )}
        </Field>
        <button type="submit" disabled={typed.value.trim() === '' || lookup === 'asking' || download !== null}>
          {lookup === 'asking' ? 'Inspecting…' : 'Inspect'}
        </button>
        {lookup === 'asking' && (
          <button type="button" onClick={downloads.dropLookup}>
            Cancel
          </button>
        )}
      </form>
      <HubToken onChange={downloads.setHubToken} />
      {typeof lookup !== 'string' && (
        <Found app={app} downloads={downloads} remote={lookup} onDownload={() => void fetchAndLoad(lookup)} />
      )}
      {arrived.value !== null && <Arrived model={arrived.value} onLoad={load} />}
    </>
  );
}

function Arrived({ model, onLoad }: { readonly model: StoredModel; readonly onLoad: (model: StoredModel) => void }) {
  return (
    <div class="found">
      <p role="status">
        <strong>{model.name}</strong> is stored. It was not loaded, because something was running.
      </p>
      <div class="actions">
        <button type="button" onClick={() => onLoad(model)}>
          Load it now
        </button>
      </div>
    </div>
  );
}

function Found(props: {
  readonly app: AppState;
  readonly downloads: Downloads;
  readonly remote: RemoteModel;
  readonly onDownload: () => void;
}) {
  const { app, downloads, remote, onDownload } = props;
  const { download } = downloads.state.value;

  return (
    <div class="found">
      <p class="model-name">{remote.name}</p>
      {remote.choices.length > 0 && download === null && (
        <Choices remote={remote} onChoose={(source) => void downloads.lookUp(source)} />
      )}
      {remote.files.length > 0 && (
        <RemoteFacts remote={remote} deviceMemoryGiB={app.engine.value.capabilities?.deviceMemoryGiB ?? null} />
      )}
      {remote.obstacles.map((obstacle) => (
        <p key={obstacle} class="note is-warn">
          {obstacle}
        </p>
      ))}
      {download === null ? (
        <div class="actions">
          <button type="button" class="primary" disabled={remote.files.length === 0} onClick={onDownload}>
            {remote.bytesHere > 0 ? 'Resume' : 'Download'}
          </button>
          <button type="button" class="quiet" onClick={downloads.dropLookup}>
            Not this one
          </button>
        </div>
      ) : (
        <DownloadProgressView downloads={downloads} remote={remote} />
      )}
    </div>
  );
}

/** A repository's other files, each a model of its own. */
function Choices(props: { readonly remote: RemoteModel; readonly onChoose: (source: RemoteChoice['source']) => void }) {
  const { remote, onChoose } = props;
  const list = (
    <ul class="choices" aria-label="Models in this repository">
      {remote.choices.map(({ name, bytes, source }) => (
        <li key={name}>
          <button type="button" class="quiet" onClick={() => onChoose(source)}>
            {name}
          </button>
          <span class="note"> {formatBytes(bytes)}</span>
        </li>
      ))}
    </ul>
  );
  if (remote.files.length === 0)
    return (
      <>
        <p>This repository holds several models. Choose one:</p>
        {list}
      </>
    );
  return (
    <details>
      <summary>{plural(remote.choices.length, 'other model')} in this repository</summary>
      {list}
    </details>
  );
}

function RemoteFacts(props: { readonly remote: RemoteModel; readonly deviceMemoryGiB: number | null }) {
  const { remote, deviceMemoryGiB } = props;
  const { bytes, bytesHere, files, parameters, wasmWeightBytes, quotaBytes, usedBytes } = remote;
  const free = quotaBytes === null ? null : quotaBytes - (usedBytes ?? 0);
  const device = deviceMemoryGiB === null ? '' : `; this device has at least ${deviceMemoryGiB} GiB`;
  const facts = [
    ['Download', `${formatBytes(bytes)} in ${plural(files.length, 'file')}`],
    ['Already here', bytesHere > 0 ? `${formatBytes(bytesHere)} of an earlier download` : null],
    [
      'Room',
      free === null ? 'this browser does not tell' : `${formatBytes(free)} of ${formatBytes(quotaBytes ?? 0)} free`,
    ],
    ['Parameters', parameters === null ? null : formatParameters(parameters)],
    ['Memory', wasmWeightBytes === null ? null : `${formatBytes(wasmWeightBytes)} of weights on WASM${device}`],
  ] as const;
  return (
    <dl class="facts">
      {facts.map(
        ([label, value]) =>
          value !== null && (
            <div key={label}>
              <dt>{label}</dt>
              <dd>{value}</dd>
            </div>
          ),
      )}
    </dl>
  );
}
