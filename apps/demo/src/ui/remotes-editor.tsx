/** Attention nodes elsewhere, with a token each. Tokens live in this page only: they are never stored. */
import type { RemoteNode } from '../engine/protocol.ts';
import { MAX_REMOTES } from '../limits.ts';
import type { TierFault } from '../tier-faults.ts';
import { Field } from './field.tsx';

export function RemotesEditor(props: {
  readonly remotes: readonly RemoteNode[];
  readonly faults: readonly TierFault[];
  readonly onChange: (remotes: readonly RemoteNode[]) => void;
}) {
  const { remotes, faults, onChange } = props;
  const faultAt = (index: number): string | null =>
    faults.find((fault) => fault.field === 'remotes' && fault.index === index)?.message ?? null;
  const replace = (index: number, node: RemoteNode): void =>
    onChange(remotes.map((other, i) => (i === index ? node : other)));
  return (
    <div class="remotes">
      {remotes.map((remote, index) => (
        <fieldset key={index} class="remote">
          <legend>Remote node {index + 1}</legend>
          <Field label="Address" error={faultAt(index)}>
            {({ id, describedBy }) => (
              <input
                id={id}
                type="url"
                placeholder="wss://host:7411"
                spellcheck={false}
                aria-describedby={describedBy}
                aria-invalid={faultAt(index) !== null}
                value={remote.url}
                onInput={({ currentTarget }) => replace(index, { ...remote, url: currentTarget.value.trim() })}
              />
            )}
          </Field>
          <Field label="Token">
            {({ id }) => (
              <input
                id={id}
                type="password"
                autocomplete="off"
                placeholder="not stored"
                value={remote.token ?? ''}
                onInput={({ currentTarget: { value } }) =>
                  replace(index, value === '' ? { url: remote.url } : { url: remote.url, token: value })
                }
              />
            )}
          </Field>
          <button
            type="button"
            class="quiet"
            aria-label={`Remove remote node ${index + 1}`}
            onClick={() => onChange(remotes.filter((_, i) => i !== index))}
          >
            Remove
          </button>
        </fieldset>
      ))}
      <button
        type="button"
        class="quiet"
        disabled={remotes.length >= MAX_REMOTES}
        onClick={() => onChange([...remotes, { url: '' }])}
      >
        Add a remote node
      </button>
    </div>
  );
}
