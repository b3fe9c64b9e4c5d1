/**
 * `npm test`: types, lint (with import cycles and platform boundaries), then every test in Node and in Chromium. Installs the
 * devices that tests need. Arguments go to vitest. Ends with one line that counts what ran.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { ensureTestDevices } from './test-devices.ts';

const root = join(import.meta.dirname, '..');
const results = join(root, '.cache', 'test-results.json');

function step(
  title: string,
  command: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): boolean {
  console.log(`\n# ${title}`);
  const started = performance.now();
  const { status } = spawnSync(command, args, {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ...env },
    shell: process.platform === 'win32',
  });
  console.log(
    `# ${title}: ${status === 0 ? 'ok' : 'FAILED'} in ${((performance.now() - started) / 1000).toFixed(1)} s`,
  );
  return status === 0;
}

const filters = process.argv.slice(2);
const devices = ensureTestDevices();
const whole = filters.length === 0;
const checks =
  !whole ||
  [
    step('build', 'npm', ['run', '--silent', 'build']),
    step('types of tests and scripts', 'tsc', ['-p', 'tsconfig.test.json']),
    step('lint, import cycles, platform boundaries', 'biome', ['check', '.']),
  ].every(Boolean);

mkdirSync(join(root, '.cache'), { recursive: true });
rmSync(results, { force: true });
const passedRun = step(
  'tests',
  'vitest',
  ['run', '--reporter=default', '--reporter=json', `--outputFile.json=${results}`, ...filters],
  devices.env,
);

interface Counts {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numPendingTests: number;
  readonly numFailedTestSuites: number;
}
let counts: Counts = { numPassedTests: 0, numFailedTests: 0, numPendingTests: 0, numFailedTestSuites: 0 };
try {
  counts = JSON.parse(readFileSync(results, 'utf8'));
} catch {
  console.log('vitest left no results: it did not run to its end');
}
const failed = Math.max(counts.numFailedTests, passedRun ? 0 : 1) + (checks ? 0 : 1);
console.log(`\nWebGPU in Node: ${devices.webgpu}; Chromium: ${devices.chromium}`);
console.log(`${counts.numPassedTests} passed, ${failed} failed, ${counts.numPendingTests} skipped`);
process.exitCode = failed === 0 && counts.numPassedTests > 0 ? 0 : 1;
