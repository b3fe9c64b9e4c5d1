/** Many requests from a JSONL file, results as a file: what `glinthawk run` does, in the page. */
import { type Signal, useComputed, useSignal } from '@preact/signals';
import { useId } from 'preact/hooks';
import prompts from '../../../../examples/prompts.jsonl?raw';
import type { AppState } from '../state/app-state.ts';
import { checkJsonl, type InputCheck } from '../state/batch-input.ts';
import { type BatchState, batchShare } from '../state/batch-state.ts';
import { formatBytes, formatCount, formatDuration, plural } from '../state/format.ts';
import { ProgressBar } from './progress-bar.tsx';

/** Larger files are kept as files rather than shown for editing. */
export const MAX_SHOWN_BYTES = 200_000;

export function BatchPanel({ app, text }: { readonly app: AppState; readonly text: Signal<string> }) {
  const file = useSignal<File | null>(null);
  const skipInvalid = useSignal(false);
  const check = useComputed(() => checkJsonl(text.value));
  const batch = app.batch.value;
  const running = batch !== null && batch.ended === null;
  const ready = app.engine.value.phase === 'ready';
  const empty = file.value === null && text.value.trim() === '';

  async function take(picked: File | undefined): Promise<void> {
    if (picked === undefined) return;
    if (picked.size > MAX_SHOWN_BYTES) file.value = picked;
    else {
      file.value = null;
      text.value = await picked.text();
    }
  }

  return (
    <div class="batch-panel">
      {file.value === null ? (
        <BatchText text={text} check={check.value} />
      ) : (
        <p class="picked">
          <strong>{file.value.name}</strong>, {formatBytes(file.value.size)}{' '}
          <button
            type="button"
            class="quiet"
            onClick={() => {
              file.value = null;
            }}
          >
            Not this file
          </button>
        </p>
      )}
      <div class="actions">
        <button
          type="button"
          class="chip"
          onClick={() => {
            file.value = null;
            text.value = prompts;
          }}
        >
          Take the example
        </button>
        <BatchFilePicker onPicked={(picked) => void take(picked).catch(app.tellThrown)} />
        <label class="check">
          <input
            type="checkbox"
            checked={skipInvalid.value}
            onChange={({ currentTarget }) => {
              skipInvalid.value = currentTarget.checked;
            }}
          />
          Skip invalid lines
        </label>
      </div>
      <div class="actions">
        <button
          type="button"
          class="primary"
          disabled={!ready || running || empty}
          onClick={() => app.runBatch(file.value ?? new Blob([text.value]), skipInvalid.value)}
        >
          Run batch
        </button>
        <button type="button" disabled={!running} onClick={app.stopBatch}>
          Stop
        </button>
        {!ready && <p class="note">Load a model first.</p>}
      </div>
      {batch !== null && <BatchProgress batch={batch} />}
    </div>
  );
}

function BatchText({ text, check }: { readonly text: Signal<string>; readonly check: InputCheck }) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>Requests, one JSON object a line</label>
      <textarea
        id={id}
        class="code"
        rows={6}
        spellcheck={false}
        wrap="off"
        placeholder={'{"prompt": "Once upon a time", "max_tokens": 64}'}
        aria-describedby={`${id}-check`}
        value={text.value}
        onInput={({ currentTarget }) => {
          text.value = currentTarget.value;
        }}
      />
      <div id={`${id}-check`} class="note">
        {plural(check.requests, 'request')}
        {check.partly ? ' in the part that was looked at; the rest is checked before it runs' : ''}
        {check.faults.map(({ line, message }) => (
          <p key={line} class="fault">
            line {line}: {message}
          </p>
        ))}
        {check.moreFaults > 0 && <p class="fault">and {plural(check.moreFaults, 'line')} more</p>}
      </div>
    </div>
  );
}

function BatchFilePicker({ onPicked }: { readonly onPicked: (file: File | undefined) => void }) {
  const id = useId();
  return (
    <span class="file-picker">
      <input
        id={id}
        type="file"
        accept=".jsonl,.ndjson,.json,.txt,.gz"
        onChange={({ currentTarget }) => {
          onPicked(currentTarget.files?.[0]);
          currentTarget.value = '';
        }}
      />
      <label for={id}>Choose a JSONL file</label>
    </span>
  );
}

function BatchProgress({ batch }: { readonly batch: BatchState }) {
  const { summary, succeeded, failed, generatedTokens, files, ended } = batch;
  return (
    <div class="batch-progress">
      <ProgressBar label="Batch" share={batchShare(batch)} />
      <p class="figures">
        {summary === null ? (
          ended === null && 'Checking the input…'
        ) : (
          <>
            <strong>{formatCount(succeeded)}</strong> of {plural(summary.requests, 'request')} done
            {failed > 0 && <span class="is-bad">, {formatCount(failed)} failed</span>}
            {`, ${formatCount(generatedTokens)} tokens`}
          </>
        )}
      </p>
      {summary !== null && summary.errors.length > 0 && (
        <ul class="faults" aria-label="Invalid lines">
          {summary.errors.map((error) => (
            <li key={error}>{error}</li>
          ))}
        </ul>
      )}
      <p class="note" role="status" aria-label="Batch status">
        {ended === null ? '' : `${ENDED_WORDS[ended.how]} after ${formatDuration(ended.wallMs)}.`}
      </p>
      {files !== null && (
        <div class="actions">
          <DownloadButton label="Download results" name="results.jsonl" blob={files.results} />
          {files.errors.size > 0 && <DownloadButton label="Download errors" name="errors.jsonl" blob={files.errors} />}
          {!files.complete && <p class="note">what is done so far</p>}
        </div>
      )}
    </div>
  );
}

const ENDED_WORDS = { done: 'Done', stopped: 'Stopped', failed: 'Failed' } as const;

function DownloadButton(props: { readonly label: string; readonly name: string; readonly blob: Blob }) {
  function save(): void {
    const url = URL.createObjectURL(props.blob);
    const link = document.createElement('a');
    link.href = url;
    link.download = props.name;
    link.click();
    // The browser has the blob by then; revoking at once would race with it.
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }
  return (
    <button type="button" onClick={save}>
      {props.label} <span class="note">{formatBytes(props.blob.size)}</span>
    </button>
  );
}
