/**
 * `npm test`: types, lint (with import cycles and platform boundaries), the demo page, then every test in Node and in Chromium.
 * Installs the devices that tests need. Arguments go to vitest. Ends with one line that counts what ran.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join, relative } from 'node:path';
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
    step('types of the page and its tests', 'tsc', ['-p', 'apps/demo/tsconfig.test.json']),
    step('lint, import cycles, platform boundaries', 'biome', ['check', '.']),
  ].every(Boolean);

// Once for all the files of tests that drive it; one that runs alone builds it for itself.
const isPageBuilt = whole && step('the demo page', 'vite', ['build', 'apps/demo', '--logLevel', 'warn']);

mkdirSync(join(root, '.cache'), { recursive: true });
rmSync(results, { force: true });
const isPassed = step(
  'tests',
  'vitest',
  ['run', '--reporter=default', '--reporter=json', `--outputFile.json=${results}`, ...filters],
  { ...devices.env, ...(isPageBuilt ? { GLINTHAWK_DEMO_PAGE: join(root, 'apps', 'demo', 'dist') } : {}) },
);

interface TestFile {
  readonly name: string;
  readonly status: string;
  readonly assertionResults: readonly { readonly status: string }[];
}
let files: readonly TestFile[] = [];
try {
  files = (JSON.parse(readFileSync(results, 'utf8')) as { readonly testResults: readonly TestFile[] }).testResults;
} catch {
  console.log('vitest left no results: it did not run to its end');
}
const count = (file: TestFile, ...statuses: readonly string[]) =>
  file.assertionResults.filter(({ status }) => statuses.includes(status)).length;
const total = (...statuses: readonly string[]) => files.reduce((sum, file) => sum + count(file, ...statuses), 0);
// A file that could not even be loaded has no tests to fail.
const broken = files.filter((file) => file.status === 'failed' && count(file, 'failed') === 0).length;
const failedTests = Math.max(total('failed') + broken, isPassed ? 0 : 1) + (checks && (isPageBuilt || !whole) ? 0 : 1);
const leftOut = ['skipped', 'pending', 'todo', 'disabled'];
for (const file of files) {
  const skipped = count(file, ...leftOut);
  if (skipped > 0)
    console.log(`skipped: ${skipped} of ${file.assertionResults.length} in ${relative(root, file.name)}`);
}
console.log(`WebGPU in Node: ${devices.webgpu}; Chromium: ${devices.chromium} with SwiftShader`);
console.log(`${total('passed')} passed, ${failedTests} failed, ${total(...leftOut)} skipped`);
process.exitCode = failedTests === 0 && total('passed') > 0 ? 0 : 1;
