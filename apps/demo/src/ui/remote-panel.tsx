/** A model from the hub or a URL: asked about first, then downloaded into this browser, with what it needs against what there is. */
import { useSignal } from '@preact/signals';
import type { AppState } from '../state/app-state.ts';
import { secondsLeft } from '../state/download-state.ts';
import type { Downloads } from '../state/downloads.ts';
import { formatBytes, formatDuration, formatParameters, plural } from '../state/format.ts';
import { parseModelSource } from '../store/model-source.ts';
import type { RemoteModel } from '../store/store-api.ts';
import { Field } from './field.tsx';
import { ProgressBar } from './progress-bar.tsx';

export function RemotePanel({ app, downloads }: { readonly app: AppState; readonly downloads: Downloads }) {
  const typed = useSignal('');
  const { unavailable, lookup, download } = downloads.state.value;

  function onSubmit(event: Event): void {
    event.preventDefault();
    try {
      void downloads.lookUp(parseModelSource(typed.value));
    } catch (thrown) {
      app.tellThrown(thrown);
    }
  }

  if (unavailable !== null)
    return <p class="note is-warn">Models can’t be kept in this browser: {unavailable}. Load one from disk instead.</p>;
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
      </form>
      {typeof lookup !== 'string' && <Found app={app} downloads={downloads} remote={lookup} />}
    </>
  );
}

function Found(props: { readonly app: AppState; readonly downloads: Downloads; readonly remote: RemoteModel }) {
  const { app, downloads, remote } = props;
  const { download } = downloads.state.value;

  async function fetchAndLoad(): Promise<void> {
    const stored = await downloads.download(remote);
    if (stored !== null) app.open({ kind: 'stored', id: stored.id });
  }

  return (
    <div class="found">
      <p class="model-name">{remote.name}</p>
      <RemoteFacts remote={remote} deviceMemoryGiB={app.engine.value.capabilities?.deviceMemoryGiB ?? null} />
      {remote.obstacles.map((obstacle) => (
        <p key={obstacle} class="note is-warn">
          {obstacle}
        </p>
      ))}
      {download === null ? (
        <div class="actions">
          <button type="button" class="primary" onClick={() => void fetchAndLoad()}>
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

function DownloadProgressView({ downloads, remote }: { readonly downloads: Downloads; readonly remote: RemoteModel }) {
  const progress = downloads.state.value.download?.progress ?? null;
  const left = progress === null ? null : secondsLeft(progress);
  return (
    <div class="downloading">
      <ProgressBar
        label={`Download of ${remote.name}`}
        share={progress === null ? null : progress.bytesDone / Math.max(1, progress.bytesTotal)}
      />
      <p class="note">
        {progress === null
          ? 'Beginning…'
          : `${formatBytes(progress.bytesDone)} of ${formatBytes(progress.bytesTotal)}, ${formatBytes(progress.bytesPerSecond)}/s`}
        {left === null ? '' : `, ${formatDuration(left * 1000)} left`}
        {progress !== null && progress.retrying !== null && (
          <span class="is-warn"> Trying again: {progress.retrying}</span>
        )}
      </p>
      <div class="actions">
        <button type="button" onClick={downloads.stop}>
          Stop download
        </button>
      </div>
    </div>
  );
}
