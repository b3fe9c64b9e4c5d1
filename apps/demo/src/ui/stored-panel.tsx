/** Models that this browser keeps: to load without a network, to check, to delete; and downloads that were cut. */
import { useSignal } from '@preact/signals';
import type { AppState } from '../state/app-state.ts';
import type { Downloads } from '../state/downloads.ts';
import { formatBytes, shortHash } from '../state/format.ts';
import { formatModelSource } from '../store/model-source.ts';
import type { PartialModel, StoredFile, StoredModel } from '../store/store-api.ts';
import { CopyButton } from './copy-button.tsx';
import { ProgressBar } from './progress-bar.tsx';

interface Props {
  readonly app: AppState;
  readonly downloads: Downloads;
}

export function StoredPanel({ app, downloads }: Props) {
  const { unavailable, stored, partial } = downloads.state.value;
  if (unavailable !== null) return <p class="note is-warn">{unavailable}</p>;
  if (stored.length + partial.length === 0)
    return <p class="note">None yet. A model that you download stays here, and works without a network.</p>;
  return (
    <ul class="stored" aria-label="Stored models">
      {stored.map((model) => (
        <Stored key={model.id} model={model} app={app} downloads={downloads} />
      ))}
      {partial.map((model) => (
        <Unfinished key={model.id} model={model} app={app} downloads={downloads} />
      ))}
    </ul>
  );
}

function Stored({ model, app, downloads }: Props & { readonly model: StoredModel }) {
  return (
    <li>
      <p>
        <strong>{model.name}</strong>{' '}
        <span class="note">
          {formatBytes(model.bytes)}, since {new Date(model.storedAt).toLocaleDateString()}, from{' '}
          <span class="source">{formatModelSource(model.source)}</span>
        </span>
      </p>
      <details>
        <summary>{model.files.length === 1 ? 'Checksum' : `Checksums of ${model.files.length} files`}</summary>
        <ul class="checksums">
          {model.files.map((file) => (
            <Checksum key={file.name} file={file} />
          ))}
        </ul>
      </details>
      <div class="actions">
        <button
          type="button"
          aria-label={`Load ${model.name}`}
          onClick={() => app.open({ kind: 'stored', id: model.id })}
        >
          Load
        </button>
        <DeleteButton name={model.name} onDelete={() => void downloads.remove(model.id)} />
      </div>
    </li>
  );
}

function Checksum({ file }: { readonly file: StoredFile }) {
  return (
    <li>
      {file.name}, {formatBytes(file.bytes)}: <code title={file.sha256}>sha256 {shortHash(file.sha256)}</code>{' '}
      <CopyButton label="Copy" text={() => file.sha256} />
    </li>
  );
}

function Unfinished({ model, app, downloads }: Props & { readonly model: PartialModel }) {
  const busy = downloads.state.value.download !== null;
  async function resume(): Promise<void> {
    const stored = await downloads.resume(model.source);
    // While something runs, it is left in the list, where it can be loaded.
    if (stored !== null) app.openIfIdle({ kind: 'stored', id: stored.id });
  }
  return (
    <li>
      <p>
        <strong>{model.name}</strong>{' '}
        <span class="note">
          unfinished: {formatBytes(model.bytesHere)} of {formatBytes(model.bytes)}
        </span>
      </p>
      <ProgressBar label={`Here of ${model.name}`} share={model.bytesHere / Math.max(1, model.bytes)} />
      <div class="actions">
        <button type="button" aria-label={`Resume ${model.name}`} disabled={busy} onClick={() => void resume()}>
          Resume
        </button>
        <DeleteButton name={model.name} onDelete={() => void downloads.remove(model.id)} />
      </div>
    </li>
  );
}

function DeleteButton({ name, onDelete }: { readonly name: string; readonly onDelete: () => void }) {
  const asking = useSignal(false);
  const ask = (value: boolean) => () => {
    asking.value = value;
  };
  if (!asking.value)
    return (
      <button type="button" class="quiet" aria-label={`Delete ${name}`} onClick={ask(true)}>
        Delete
      </button>
    );
  return (
    <>
      <button type="button" class="danger" aria-label={`Confirm: delete ${name}`} onClick={onDelete}>
        Really delete
      </button>
      <button type="button" class="quiet" onClick={ask(false)}>
        Keep
      </button>
    </>
  );
}
