/** The top of the page: whose it is, what runs, and the theme. */
import type { Signal } from '@preact/signals';
import { nextTheme, type Theme } from '../state/preferences.ts';
import { Mark } from './mark.tsx';

const THEME_NAMES: Readonly<Record<Theme, string>> = { system: 'as the system', light: 'light', dark: 'dark' };

export function Header({ theme, status }: { readonly theme: Signal<Theme>; readonly status: string }) {
  return (
    <header class="top">
      <h1 class="wordmark">
        <Mark />
        Glinthawk
      </h1>
      <p class="status" role="status" aria-label="Engine status">
        {status}
      </p>
      <button
        type="button"
        class="quiet theme"
        onClick={() => {
          theme.value = nextTheme(theme.value);
        }}
      >
        <span class="theme-disc" aria-hidden="true" />
        Theme: {THEME_NAMES[theme.value]}
      </button>
    </header>
  );
}
