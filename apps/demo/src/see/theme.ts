/**
 * The page's colour tokens as values that a canvas takes. A token may be `light-dark(…)`, which only a real property resolves, so
 * each is read back from a probe element.
 */
import type { Scheme } from './palette.ts';

const TOKENS = [
  'ground',
  'surface',
  'sunken',
  'line',
  'ink',
  'ink-soft',
  'dense',
  'dense-soft',
  'attention',
  'attention-soft',
  'wire',
  'good',
  'warn',
  'bad',
] as const;
export type Token = (typeof TOKENS)[number];

export interface Theme {
  readonly scheme: Scheme;
  readonly colours: Readonly<Record<Token, string>>;
  readonly font: string;
}

export function readTheme(element: Element): Theme {
  const probe = document.createElement('span');
  probe.hidden = true;
  element.append(probe);
  const style = getComputedStyle(probe);
  const colours = Object.fromEntries(
    TOKENS.map((token) => {
      probe.style.color = `var(--${token})`;
      return [token, style.color];
    }),
  ) as Record<Token, string>;
  probe.style.color = 'light-dark(#000, #fff)';
  const scheme = style.color === 'rgb(255, 255, 255)' ? 'dark' : 'light';
  const font = getComputedStyle(element).fontFamily;
  probe.remove();
  return { scheme, colours, font };
}

/** Calls back when the theme may have changed: the system's scheme, or the page's own switch. Returns what ends it. */
export function watchTheme(onChange: () => void): () => void {
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const observer = new MutationObserver(onChange);
  observer.observe(document.documentElement, { attributes: true, attributeFilter: ['data-theme', 'class', 'style'] });
  dark.addEventListener('change', onChange);
  return () => {
    observer.disconnect();
    dark.removeEventListener('change', onChange);
  };
}
