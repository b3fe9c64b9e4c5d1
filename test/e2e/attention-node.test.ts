/** `glinthawk attention` as a service: what it tells a monitoring system, and how it goes when it is told to. */
import { join } from 'node:path';
import type { AttentionBackend } from '@glinthawk/attention';
import { remoteSource } from '@glinthawk/attention/node';
import { type AttentionGeometry, outputRowFloats, qkvRowFloats } from '@glinthawk/core';
import { describe, expect, it, onTestFinished } from 'vitest';
import { parseExposition } from '../../apps/cli/src/prometheus-text.fixture.ts';
import { byId, glinthawk, type Running, readLines, runArguments, start, temporaryFolder } from './command.ts';

interface ServedNode {
  readonly node: Running;
  readonly tcp: string;
  /** Of its figures. */
  readonly url: string;
}

async function startNode(...more: readonly string[]): Promise<ServedNode> {
  const listen = ['--listen', '127.0.0.1:0', '--metrics', '127.0.0.1:0'];
  const node = start(['attention', ...listen, '--workers', '1', '--memory', '64MiB', ...more]);
  const [, tcp = ''] = await node.saw(/listening at (\S+) and \S+\n/);
  const [, url = ''] = await node.saw(/metrics at (\S+)\/metrics\n/);
  return { node, tcp, url };
}

async function figures(url: string): Promise<(name: string) => number> {
  const response = await fetch(`${url}/metrics`);
  expect(response.status).toBe(200);
  expect(response.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8');
  const { samples } = parseExposition(await response.text());
  return (name) => samples.get(`glinthawk_attention_${name}`) ?? expect.unreachable(`${name} is not there`);
}

const ROWS = 256;
const geometry: AttentionGeometry = {
  layers: 4,
  kvHeads: 4,
  groupSize: 4,
  headDim: 64,
  softmaxScale: 1 / 8,
  windows: [0, 0, 0, 0],
  maxContextTokens: 2 * ROWS,
};

/** An engine that doesn't care that its node wants to go. */
async function tenant(tcp: string): Promise<AttentionBackend> {
  const backend = await remoteSource(tcp).connect(geometry, { kvDtype: 'f32', fingerprint: 'e2e' });
  onTestFinished(() => backend.close());
  return backend;
}

/** Keeps several attends under way, each asked for when one ends; resolves with how many were answered when the node is gone. */
async function keepBusy(backend: AttentionBackend, together: number): Promise<number> {
  let answered = 0;
  const lane = async (index: number) => {
    backend.open({ index, generation: 1 }, 0);
    const qkv = new Float32Array(ROWS * qkvRowFloats(geometry)).fill(0.5);
    const output = new Float32Array(ROWS * outputRowFloats(geometry));
    for (let id = index; ; id += together) {
      backend.announce({ id, entries: [{ slot: { index, generation: 1 }, position: 0, count: ROWS }] });
      for (let layer = 0; layer < geometry.layers; layer++) {
        output.fill(0);
        await backend.attend(id, layer, qkv, output);
        // More would keep this end busy rather than the node.
        expect([output[0], output.at(-1)]).toEqual([expect.closeTo(0.5), expect.closeTo(0.5)]);
        answered++;
      }
      backend.retire(id);
    }
  };
  const lanes = await Promise.allSettled(Array.from({ length: together }, (_, index) => lane(index)));
  for (const result of lanes) expect(result).toMatchObject({ status: 'rejected', reason: { name: 'NodeLostError' } });
  return answered;
}

/** A job of a few seconds. */
const job = Array.from({ length: 40 }, (_, i) => {
  const prompt = ['Once upon a time', 'The little dragon', 'One day Tom', 'In the garden'][i % 4];
  const rest = { max_tokens: 24 + (i % 9) * 16, temperature: i % 2, seed: i, ignore_eos: true, return_token_ids: true };
  return JSON.stringify({ custom_id: `r${i}`, prompt, ...rest });
}).join('\n');

describe('figures', { timeout: 120_000 }, () => {
  it('are those of the jobs that it served', async () => {
    const { node, tcp, url } = await startNode('--stats-seconds', '0.2');
    const idle = await figures(url);
    expect([idle('workers'), idle('memory_limit_bytes'), idle('sessions_total')]).toEqual([1, 2 ** 26, 0]);
    for (let run = 1; run <= 2; run++) {
      const output = join(temporaryFolder(), 'out.jsonl');
      const { status, stderr } = await glinthawk(runArguments('-', output, '--attention', tcp), { stdin: job });
      expect(status, stderr).toBe(0);
      const now = await figures(url);
      expect(now('sessions_total')).toBe(run);
      expect([now('session_active'), now('open_slots'), now('pending_attends')]).toEqual([0, 0, 0]);
      expect([now('kv_blocks{state="used"}'), now('kv_blocks{state="free"}')]).toEqual([0, 0]);
      // The tokens of the job's prompts and answers, each once: those of the first run stay counted.
      expect(now('appended_tokens_total') + now('forked_tokens_total')).toBeGreaterThan(run * 2_000);
      expect(now('kv_read_bytes_total')).toBeGreaterThan(run * 1e6);
      expect(now('busy_seconds_total')).toBeGreaterThan(0);
      for (const direction of ['received', 'sent']) {
        const all = now(`wire_bytes_total{direction="${direction}"}`);
        const tensors = now(`wire_tensor_bytes_total{direction="${direction}"}`);
        expect(tensors).toBeGreaterThan(run * 1e6);
        expect(all).toBeGreaterThan(tensors);
      }
    }
    node.child.kill('SIGTERM');
    const { status, stderr } = await node.ended;
    expect(status).toBe(0);
    expect(stderr).toMatch(/^KV of a new session: room for .* bytes a token/m);
    expect(stderr).toMatch(/^session tcp:\S+: .* KV blocks .*workers busy .*KV read at .* in the queue/m);
    expect(stderr).toMatch(/^served 2 sessions, .* in, .* out, .* tokens.*, .* of KV read/m);
  });

  it('and its health are there while it drains, and go with it', async () => {
    const { node, tcp, url } = await startNode('--drain-seconds', '1.5');
    const health = async () => (await fetch(`${url}/healthz`)).status;
    expect(await health()).toBe(200);
    await tenant(tcp);
    expect((await figures(url))('session_active')).toBe(1);
    node.child.kill('SIGTERM');
    await node.saw(/draining \(SIGTERM\)/);
    await expect.poll(health).toBe(503);
    expect((await figures(url))('draining')).toBe(1);
    expect((await node.ended).status).toBe(0);
    await expect(fetch(`${url}/healthz`)).rejects.toThrow();
  });

  it('at an address that is taken: nothing is served, and it is said', async () => {
    const { url } = await startNode();
    const { status, stderr } = await glinthawk([
      ...['attention', '--listen', '127.0.0.1:0'],
      ...['--metrics', new URL(url).host],
    ]);
    expect(status).toBe(2);
    expect(stderr).toMatch(/can't serve metrics at 127\.0\.0\.1:\d+: .*EADDRINUSE/);
  });
});

describe('SIGTERM', { timeout: 120_000 }, () => {
  it.each([0, 0.3])('while attends are under way: they are finished, and it goes after %d s', async (drainSeconds) => {
    const { node, tcp, url } = await startNode('--drain-seconds', String(drainSeconds));
    const busy = keepBusy(await tenant(tcp), 4);
    await expect.poll(async () => (await figures(url))('pending_attends')).toBeGreaterThan(1);
    const begun = performance.now();
    node.child.kill('SIGTERM');
    const { status, stderr } = await node.ended;
    expect([status, stderr]).toEqual([0, expect.stringMatching(/draining \(SIGTERM\)[\s\S]*served 1 session,/)]);
    expect(performance.now() - begun).toBeGreaterThan(1000 * drainSeconds);
    expect(performance.now() - begun).toBeLessThan(1000 * drainSeconds + 5_000);
    expect(await busy).toBeGreaterThan(0);
  });

  it('a second time stops at once', async () => {
    const { node, tcp } = await startNode('--drain-seconds', '100');
    await tenant(tcp);
    node.child.kill('SIGTERM');
    await node.saw(/draining \(SIGTERM\); once more to stop at once/);
    node.child.kill('SIGTERM');
    expect((await node.ended).status).toBe(130);
  });

  it('with nobody connected it goes at once, however long it might have waited', async () => {
    const { node } = await startNode('--drain-seconds', '100');
    node.child.kill('SIGTERM');
    expect(await node.ended).toMatchObject({ status: 0, stderr: expect.stringContaining('served 0 sessions') });
  });

  it('of one of two nodes of a job: the other takes over, and the results stay the same', async () => {
    const folder = temporaryFolder();
    const [undisturbed, output] = [join(folder, 'a.jsonl'), join(folder, 'b.jsonl')];
    expect((await glinthawk(runArguments('-', undisturbed), { stdin: job })).status).toBe(0);
    const [one, two] = [await startNode('--drain-seconds', '0'), await startNode()];
    const running = start(runArguments('-', output, '--attention', `${one.tcp},${two.tcp}`, '--in-flight', '4'), {
      stdin: job,
    });
    await expect
      .poll(async () => (await figures(one.url))('busy_seconds_total'), { interval: 5, timeout: 30_000 })
      .toBeGreaterThan(0.02);
    one.node.child.kill('SIGTERM');
    expect((await one.node.ended).status).toBe(0);
    const { status, stderr } = await running.ended;
    expect(status, stderr).toBe(0);
    expect(stderr).toMatch(/will leave \(.*reason: the node is shutting down/);
    expect(stderr).toMatch(/nodes lost +1/);
    expect(byId(readLines(output))).toEqual(byId(readLines(undisturbed)));
  });
});
