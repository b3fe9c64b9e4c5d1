/** Where to lend this tab: a lend link as it was given out, or the address of a job. Goes to the page that lends. */
import { useSignal } from '@preact/signals';
import { jobAddress, parseLendLink } from '../lend/lend-link.ts';
import { Field } from './field.tsx';

export function LendAddress({ tellThrown }: { readonly tellThrown: (thrown: unknown) => void }) {
  const typed = useSignal('');
  function onSubmit(event: Event): void {
    event.preventDefault();
    try {
      go(typed.value.trim());
    } catch (thrown) {
      tellThrown(thrown);
    }
  }
  return (
    <form class="lend-form" onSubmit={onSubmit}>
      <Field label="Address of the job" hint="the link that glinthawk run printed, or ws://host:port">
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
      <button type="submit" disabled={typed.value.trim() === ''}>
        Continue
      </button>
    </form>
  );
}

/** This page takes over the job and token of a link, whichever page it led to. */
function go(text: string): void {
  const hash = text.indexOf('#');
  if (hash >= 0) {
    const link = parseLendLink(text.slice(hash), hash === 0 ? location.href : text.slice(0, hash));
    if (link !== null) {
      const fragment = new URLSearchParams({ lend: link.url, ...(link.token === null ? {} : { token: link.token }) });
      location.hash = fragment.toString();
      return;
    }
  }
  location.hash = `lend=${encodeURIComponent(jobAddress(text, new URL(location.href)))}`;
}
