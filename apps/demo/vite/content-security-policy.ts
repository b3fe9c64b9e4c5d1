/**
 * The built page's Content-Security-Policy, as a meta tag, since any static server must do. The page runs only its own scripts; it
 * may connect anywhere, because models and attention nodes are wherever a visitor says.
 */
import type { Plugin } from 'vite';

const POLICY: Readonly<Record<string, string>> = {
  'default-src': "'self'",
  'script-src': "'self' 'wasm-unsafe-eval'",
  'worker-src': "'self'",
  // Vite inlines small files, such as the example's config.json, as data: URLs.
  'connect-src': "'self' https: http: ws: wss: data: blob:",
  'img-src': "'self' data: blob:",
  // Attributes that size and place things.
  'style-src': "'self' 'unsafe-inline'",
  'object-src': "'none'",
  'base-uri': "'none'",
  'form-action': "'none'",
};

export function contentSecurityPolicy(): Plugin {
  const content = Object.entries(POLICY)
    .map(([directive, sources]) => `${directive} ${sources}`)
    .join('; ');
  return {
    name: 'glinthawk-content-security-policy',
    // Vite's own development client needs more.
    apply: 'build',
    transformIndexHtml: {
      order: 'post',
      handler: () => [
        { tag: 'meta', attrs: { 'http-equiv': 'Content-Security-Policy', content }, injectTo: 'head-prepend' as const },
      ],
    },
  };
}
