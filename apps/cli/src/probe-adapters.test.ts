import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { probeAdaptersApart } from './probe-adapters.ts';

function script(text: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'glinthawk-test-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'probe.mjs');
  writeFileSync(path, text);
  return path;
}

describe('a probe in a process of its own', () => {
  it('says what there is', async () => {
    const { adapters, unavailable } = await probeAdaptersApart();
    expect(unavailable === null).toBe(adapters.length > 0);
    expect(unavailable ?? '').not.toContain('looking for GPUs failed');
  });

  it('finds nothing where it crashes or hangs, and says so', async () => {
    const why = async (text: string) => (await probeAdaptersApart(script(text), 400)).unavailable;
    expect(await why("process.kill(process.pid, 'SIGSEGV')")).toContain('its process ended with SIGSEGV');
    expect(await why('process.exit(3)')).toContain('its process ended with status 3');
    expect(await why('setInterval(() => {}, 1000)')).toContain('no answer within 400 ms');
    expect(await why("console.log('nonsense')")).toContain('its process ended with status 0');
  });
});
