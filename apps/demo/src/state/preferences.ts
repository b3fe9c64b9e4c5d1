/**
 * What the page remembers of a visitor in localStorage: theme, tier settings without tokens. A browser that forbids storage
 * (or is full) just forgets; nothing here fails.
 */
import { effect, type Signal, signal } from '@preact/signals';
import { oneOf } from './tier-settings.ts';

const PREFIX = 'glinthawk.';

export function recall(key: string): string | null {
  try {
    return localStorage.getItem(PREFIX + key);
  } catch {
    return null;
  }
}

export function remember(key: string, value: string): void {
  try {
    localStorage.setItem(PREFIX + key, value);
  } catch {
    // Private windows and full disks: the page works without.
  }
}

export type Theme = 'system' | 'light' | 'dark';
const THEMES = ['system', 'light', 'dark'] as const;

/** The chosen theme, remembered, and put on the root element for the style sheets. */
export function createTheme(): Signal<Theme> {
  const theme = signal<Theme>(oneOf(recall('theme'), THEMES, 'system'));
  effect(() => {
    const chosen = theme.value;
    if (chosen === 'system') delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    remember('theme', chosen);
  });
  return theme;
}

export function nextTheme(theme: Theme): Theme {
  return THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length] ?? 'system';
}
