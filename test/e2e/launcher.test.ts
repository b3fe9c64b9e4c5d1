/** The launcher under a Node that is too old for the rest: what it starts lives and dies with it. */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { runArguments, start, temporaryFolder } from './command.ts';

const OLD_NODE = '/usr/bin/node';
const version = existsSync(OLD_NODE) ? spawnSync(OLD_NODE, ['--version'], { encoding: 'utf8' }).stdout : '';
const isOld = /^v(18|20|22)\./.test(version);

const job = Array.from({ length: 60 }, (_, i) => `{"prompt":"One day ${i}","max_tokens":200,"ignore_eos":true}`).join(
  '\n',
);

const left: number[] = [];
afterAll(() => {
  for (const pid of left) if (isAlive(pid)) process.kill(pid, 'SIGKILL');
});

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !/^\d+ \(.*\) Z /s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

async function begun() {
  const folder = temporaryFolder();
  const [input, output] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')];
  writeFileSync(input, job);
  const args = runArguments(input, output);
  const running = start(args, { node: OLD_NODE });
  await running.saw(/^attention /m);
  const { pid } = JSON.parse(readFileSync(`${output}.lock`, 'utf8')) as { pid: number };
  left.push(pid);
  expect(pid).not.toBe(running.child.pid);
  return { running, args, folder, pid };
}

describe.skipIf(!isOld)('the launcher under an older Node', { timeout: 60_000 }, () => {
  it.each(['SIGINT', 'SIGTERM'] as const)('passes %s on, once', async (signal) => {
    const { running, folder, pid } = await begun();
    running.child.kill(signal);
    const { status, stderr } = await running.ended;
    expect(stderr).toContain(`stopping (${signal}); once more to stop at once`);
    expect(stderr).toContain('of 60 requests are done and kept');
    expect([status, isAlive(pid)]).toEqual([130, false]);
    expect(readdirSync(folder)).not.toContain('out.jsonl.lock');
  });

  it('counts a Ctrl-C that a terminal tells both as one', async () => {
    const { running, pid } = await begun();
    process.kill(pid, 'SIGINT');
    running.child.kill('SIGINT');
    const { status, stderr } = await running.ended;
    expect([status, stderr]).toEqual([130, expect.stringContaining('of 60 requests are done and kept')]);
  });

  it('hangs up both', async () => {
    const { running, pid } = await begun();
    running.child.kill('SIGHUP');
    expect(await running.ended).toMatchObject({ status: null, signal: 'SIGHUP' });
    expect(isAlive(pid)).toBe(false);
  });

  it('takes what it started along when it is killed, and the same command goes on at once', async () => {
    const { running, args, pid } = await begun();
    running.child.kill('SIGKILL');
    const again = start(args, { node: OLD_NODE });
    await again.saw(/^attention /m);
    expect(isAlive(pid)).toBe(false);
    again.child.kill('SIGINT');
    expect((await again.ended).status).toBe(130);
    await running.ended;
  });
});
