/** The demo page: a static site that runs from any path. Served here with the headers that give it shared memory, and keep others from framing it. */
import { resolve } from 'node:path';
import { defineConfig } from 'vite';
import { contentSecurityPolicy } from './vite/content-security-policy.ts';
import { serviceWorker } from './vite/service-worker-plugin.ts';

const isolation = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' };
/** As a job's port sends them (apps/cli/src/demo-page.ts). */
const headers = {
  ...isolation,
  'Content-Security-Policy': "frame-ancestors 'none'",
  'X-Frame-Options': 'DENY',
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
};

export default defineConfig({
  root: import.meta.dirname,
  base: './',
  plugins: [
    contentSecurityPolicy(),
    serviceWorker(resolve(import.meta.dirname, 'src/service-worker/service-worker.ts')),
  ],
  build: { target: 'es2023', chunkSizeWarningLimit: 2000 },
  worker: { format: 'es' },
  server: { headers: isolation, strictPort: true, fs: { allow: [resolve(import.meta.dirname, '../..')] } },
  preview: { headers, strictPort: true },
});
