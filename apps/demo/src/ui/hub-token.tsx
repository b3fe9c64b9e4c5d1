/** For gated and private repositories. Kept by this page only, sent to the hub only, never stored. */
import { Field } from './field.tsx';

export function HubToken({ onChange }: { readonly onChange: (token: string | null) => void }) {
  return (
    <details class="more">
      <summary>Token for gated models</summary>
      <form onSubmit={(event) => event.preventDefault()}>
        <Field label="Hub token" hint="sent to the hub only, and forgotten when you leave this page">
          {({ id, describedBy }) => (
            <input
              id={id}
              type="password"
              autocomplete="off"
              aria-describedby={describedBy}
              onChange={({ currentTarget: { value } }) => onChange(value.trim() === '' ? null : value.trim())}
            />
          )}
        </Field>
      </form>
    </details>
  );
}
