/** A model from this machine: a .gguf, or a folder; picked here or dropped anywhere on the page. It is read where it lies. */
import { type Signal, useSignal } from '@preact/signals';
import { useEffect, useId, useRef } from 'preact/hooks';
import type { AppState } from '../state/app-state.ts';
import { formatBytes, plural } from '../state/format.ts';
import { bytesOf, type LocalModel, localModel } from '../state/local-files.ts';
import { filesOfInput } from './picked-files.ts';

export function LocalPanel(props: { readonly app: AppState; readonly picked: Signal<LocalModel | null> }) {
  const { app, picked } = props;
  const fault = useSignal(false);

  function onPicked({ currentTarget }: { readonly currentTarget: HTMLInputElement }): void {
    if (currentTarget.files === null || currentTarget.files.length === 0) return;
    try {
      picked.value = localModel(filesOfInput(currentTarget.files));
      fault.value = false;
    } catch (thrown) {
      fault.value = true;
      app.tellThrown(thrown);
    }
    // The same file again is a change, too.
    currentTarget.value = '';
  }

  const model = picked.value;
  return (
    <>
      <p class="note">
        Nothing is uploaded or copied: the page reads the files where they are. Or drop them anywhere here.
      </p>
      <div class="actions">
        <FilePicker label="Choose a .gguf file" onPicked={onPicked} />
        <FilePicker label="Choose a folder" folder onPicked={onPicked} />
      </div>
      {model !== null && (
        <div class="picked">
          <p>
            <strong>{model.name}</strong>, {formatBytes(bytesOf(model))}
            {model.single ? '' : ` in ${plural(model.files.size, 'file')}`}
          </p>
          <p class="note">
            Weights become 32-bit numbers on WASM, so a quantised file takes several times its size in memory. The exact
            figure is shown as soon as its header is read, before the memory is taken.
          </p>
          <div class="actions">
            <button type="button" class="primary" onClick={() => app.open(model)}>
              Load chosen model
            </button>
          </div>
        </div>
      )}
    </>
  );
}

function FilePicker(props: {
  readonly label: string;
  readonly folder?: boolean;
  readonly onPicked: (event: { readonly currentTarget: HTMLInputElement }) => void;
}) {
  const id = useId();
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => {
    // Not an attribute that JSX knows.
    if (props.folder === true) input.current?.setAttribute('webkitdirectory', '');
  }, [props.folder]);
  return (
    <span class="file-picker">
      <input
        ref={input}
        id={id}
        type="file"
        {...(props.folder === true ? {} : { multiple: true })}
        onChange={props.onPicked}
      />
      <label for={id}>{props.label}</label>
    </span>
  );
}
