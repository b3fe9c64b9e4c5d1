/**
 * What GPU adapters there are, asked in a process of its own: drivers and Dawn print warnings to standard error as they are
 * loaded, and some crash. Only where a GPU is really used do they come into this process.
 */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { toError } from '@glinthawk/core';
import type { GpuProbe } from '@glinthawk/dense';

const TIMEOUT_MS = 20_000;
const EXTENSION = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
const SCRIPT = fileURLToPath(new URL(`./probe-adapters-process.${EXTENSION}`, import.meta.url));

/** Never throws: a probe that fails has no adapters, and says why. */
export async function probeAdaptersApart(script = SCRIPT, timeoutMs = TIMEOUT_MS): Promise<GpuProbe> {
  const none = (why: string): GpuProbe => ({ adapters: [], unavailable: `looking for GPUs failed: ${why}` });
  const { promise, resolve } = Promise.withResolvers<GpuProbe>();
  const child = spawn(process.execPath, [script], { stdio: ['ignore', 'pipe', 'ignore'] });
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    child.kill('SIGKILL');
  }, timeoutMs);
  let said = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    said += text;
  });
  child.on('error', (thrown) => resolve(none(toError(thrown).message)));
  child.on('close', (status, signal) => {
    // What was said whole stands, even where the driver crashed on the way out.
    const probe = said.endsWith('\n') ? parseProbe(said) : null;
    const how = isLate ? `no answer within ${timeoutMs} ms` : `its process ended with ${signal ?? `status ${status}`}`;
    resolve(probe ?? none(how));
  });
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
  }
}

function parseProbe(text: string): GpuProbe | null {
  try {
    return JSON.parse(text) as GpuProbe;
  } catch {
    return null;
  }
}
