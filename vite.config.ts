/**
 * Test projects: `node` runs everything beside the code and under test/ in Node (Dawn for WebGPU); `browser` runs the kernel
 * cases and goldens of test/ in Chromium, driven by Playwright; `quiet`, after both, what the clock is looked at for.
 */
import { resolve } from 'node:path';
import { playwright } from '@vitest/browser-playwright';
import { defineConfig } from 'vitest/config';

const isolation = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' };
const chromium = process.env.GLINTHAWK_CHROMIUM;
const modelsRoot = resolve(process.env.GLINTHAWK_MODELS ?? '../shared/models');

/** Alone on the machine as far as that can be had. */
const quiet = 'test/demo/responsiveness.test.ts';

/** Machines of CI are shared: what a browser or a clock decides may be tried again there. */
const retry = process.env.CI ? 2 : 0;

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'node',
          environment: 'node',
          include: ['packages/*/src/**/*.test.ts', 'apps/*/src/**/*.test.ts', 'test/**/*.test.ts'],
          exclude: ['**/node_modules/**', '**/dist/**', '**/*.browser.test.ts', quiet],
          pool: 'forks',
          retry,
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
      {
        test: {
          name: 'quiet',
          environment: 'node',
          include: [quiet],
          sequence: { groupOrder: 1 },
          retry,
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
      {
        server: { headers: isolation, fs: { allow: ['.', modelsRoot] } },
        test: {
          name: 'browser',
          provide: { modelsRoot, inCi: Boolean(process.env.CI) },
          include: ['test/**/*.browser.test.ts', 'apps/demo/src/**/*.browser.test.ts'],
          testTimeout: 180_000,
          hookTimeout: 180_000,
          browser: {
            enabled: true,
            headless: true,
            screenshotFailures: false,
            provider: playwright({
              launchOptions: {
                ...(chromium ? { executablePath: chromium } : {}),
                args: ['--no-sandbox', '--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'],
              },
            }),
            instances: [{ browser: 'chromium' }],
          },
        },
      },
    ],
  },
});
