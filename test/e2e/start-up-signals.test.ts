/**
 * SIGINT and SIGTERM while `glinthawk attention` and `glinthawk run` start: at moments all over the way there, and where something else
 * is waited for. They go at once, without a word of where in the code they were, and leave no file.
 */
import { once } from 'node:events';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, onTestFinished } from 'vitest';
import { exampleModel } from '../models.ts';
import { type Outcome, type Running, runArguments, start, temporaryFolder } from './command.ts';

const SIGNALS = ['SIGINT', 'SIGTERM'] as const;
type Signal = (typeof SIGNALS)[number];
/** Of the time that a start takes when nothing disturbs it. */
const MOMENTS = [0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1];
/** Between the signal and the end of the process, on a machine that has other things to do as well. */
const PROMPT_MS = 5000;

async function signalled(running: Running, signal: Signal): Promise<Outcome> {
  const atMs = performance.now();
  running.child.kill(signal);
  const outcome = await running.ended;
  expect(performance.now() - atMs).toBeLessThan(PROMPT_MS);
  expect(`${outcome.stdout}${outcome.stderr}`).not.toMatch(/^\s+at |internal error|Error:/m);
  return outcome;
}

/** Before the command listens to signals they end it as they end any process; then it ends with `status`. */
function expectEnd({ status, signal, stderr }: Outcome, sent: Signal, expected: number): void {
  expect([status, signal], stderr).toEqual(signal === null ? [expected, null] : [null, sent]);
}

const attentionArguments = ['attention', '--listen', '127.0.0.1:0', '--workers', '2', '--memory', '64MiB'];

describe('a node that is told to end while it starts', { timeout: 120_000 }, () => {
  it.each(SIGNALS)('by %s, whenever that is, ends at once', async (signal) => {
    const folder = temporaryFolder();
    const flags = [...attentionArguments, '--model', exampleModel];
    const beganMs = performance.now();
    const undisturbed = start(flags);
    await undisturbed.saw(/listening at/);
    const wholeMs = performance.now() - beganMs;
    expectEnd(await signalled(undisturbed, signal), signal, 0);
    for (const moment of MOMENTS) {
      const node = start(flags, { env: { TMPDIR: folder } });
      await sleep(moment * wholeMs);
      expectEnd(await signalled(node, signal), signal, 0);
    }
    expect(readdirSync(folder)).toEqual([]);
  });
});

/** Takes connections and says nothing: an engine waits for its welcome. */
async function silentNode(): Promise<{ readonly server: Server; readonly url: string }> {
  const server = createServer((socket) => socket.on('error', () => {}));
  onTestFinished(() => {
    server.close();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new TypeError('a TCP server has a port');
  return { server, url: `tcp://127.0.0.1:${address.port}` };
}

describe('a run that is told to end while it starts', { timeout: 120_000 }, () => {
  const request = JSON.stringify({ custom_id: 'r', prompt: 'Once upon a time', max_tokens: 4 });

  it.each(SIGNALS)('by %s, whenever that is, ends at once and leaves no file', async (signal) => {
    const folder = temporaryFolder();
    const input = join(folder, 'in.jsonl');
    writeFileSync(input, request);
    const { server, url } = await silentNode();
    const begin = (name: string) => {
      mkdirSync(join(folder, name));
      return start(runArguments(input, join(folder, name, 'out.jsonl'), '--attention', url));
    };
    const beganMs = performance.now();
    const undisturbed = begin('undisturbed');
    await Promise.race([once(server, 'connection'), undisturbed.ended]);
    const wholeMs = performance.now() - beganMs;
    const { status, stderr } = await signalled(undisturbed, signal);
    expect([status, stderr]).toEqual([
      130,
      expect.stringMatching(/stopping \(SIG\w+\)[\s\S]*to go on: glinthawk run /),
    ]);
    expect(readdirSync(join(folder, 'undisturbed'))).toEqual([]);
    for (const moment of MOMENTS) {
      const running = begin(String(moment));
      await sleep(moment * wholeMs);
      expectEnd(await signalled(running, signal), signal, 130);
      expect(readdirSync(join(folder, String(moment)))).toEqual([]);
    }
  });

  it.each(SIGNALS)('by %s while the weights load, ends before anything is generated', async (signal) => {
    const folder = temporaryFolder();
    const input = join(folder, 'in.jsonl');
    writeFileSync(input, request);
    const { url } = await silentNode();
    const running = start(runArguments(input, join(folder, 'out.jsonl'), '--attention', url));
    await running.saw(/^input /m); // the next thing that it does
    const { status, stdout } = await signalled(running, signal);
    expect([status, stdout]).toEqual([130, '']);
    expect(readdirSync(folder)).toEqual(['in.jsonl']);
  });
});
