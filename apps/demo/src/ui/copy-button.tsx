/** Copies a text and says so for a moment; where the browser forbids it, says that. */
import { useSignal } from '@preact/signals';

const SHOWN_MS = 1500;

export function CopyButton({ label, text }: { readonly label: string; readonly text: () => string }) {
  const said = useSignal<string | null>(null);
  async function copy(): Promise<void> {
    try {
      await navigator.clipboard.writeText(text());
      said.value = 'Copied';
    } catch {
      said.value = 'Not allowed';
    }
    setTimeout(() => {
      said.value = null;
    }, SHOWN_MS);
  }
  return (
    <button type="button" class="quiet" onClick={() => void copy()}>
      {said.value ?? label}
    </button>
  );
}
