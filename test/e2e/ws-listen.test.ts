/** Nodes that come to a running job by themselves, as lent tabs do: they join, leave, lie and flood, and the results stay the same. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AttentionNode, createInlineAttention, type StagedAttention } from '@glinthawk/attention';
import { CapacityError } from '@glinthawk/core';
import { authFrame, connectWebSocket, encodeFrame, encodeHeader, FrameType, frame, randomNonce } from '@glinthawk/wire';
import { describe, expect, it, onTestFinished } from 'vitest';
import { WebSocket as WsClient } from 'ws';
import { selfSignedCertificate } from '../../packages/wire/src/node/self-signed.fixture.ts';
import { repositoryRoot } from '../models.ts';
import {
  byId,
  glinthawk,
  type ResultLine,
  type Running,
  readLines,
  runArguments,
  start,
  temporaryFolder,
} from './command.ts';

const PAGE_IS_BUILT = existsSync(join(repositoryRoot, 'apps', 'demo', 'dist', 'index.html'));

/** Some seconds of work: greedy and seeded. */
const job = Array.from({ length: 40 }, (_, i) => {
  const prompt = ['Once upon a time', 'The little dragon', 'One day Tom', 'In the garden'][i % 4];
  const rest = { max_tokens: 24 + (i % 9) * 16, temperature: i % 2, seed: i, ignore_eos: true, return_token_ids: true };
  return JSON.stringify({ custom_id: `r${i}`, prompt, ...rest });
}).join('\n');

let undisturbed: Promise<Map<string | null, ResultLine>> | null = null;

/** What the same job gives on local attention; run once. */
function expectedResults(): Promise<Map<string | null, ResultLine>> {
  undisturbed ??= (async () => {
    const output = join(temporaryFolder(), 'out.jsonl');
    const { status, stderr } = await glinthawk(runArguments('-', output), { stdin: job });
    expect(status, stderr).toBe(0);
    return byId(readLines(output));
  })();
  return undisturbed;
}

interface ListeningRun {
  readonly running: Running;
  readonly output: string;
  readonly host: string;
  readonly url: string;
  readonly token: string;
}

/** A run that nodes may join; resolves when it says where. */
async function listening(attention = 'ws-listen://127.0.0.1:0', ...more: readonly string[]): Promise<ListeningRun> {
  const output = join(temporaryFolder(), 'out.jsonl');
  const running = start(runArguments('-', output, '--attention', attention, ...more), { stdin: job });
  const [, page, direct, token = ''] = await running.saw(
    /lend a tab: (?:https?:\/\/([\d.:]+)\/#lend|PAGE#lend=wss?:\/\/([\d.:]+))&token=(\S+)/,
  );
  const host = page ?? direct ?? '';
  return { running, output, host, url: `ws://${host}`, token };
}

/** What a lent tab runs. */
async function lend(url: string, token: string, memoryBytes = 64 * 2 ** 20) {
  const node = new AttentionNode({
    token,
    createBackend: (geometry, options) => createInlineAttention(geometry, { ...options, memoryBytes }),
  });
  const ended = node.accept(await connectWebSocket(url));
  onTestFinished(() => node.close());
  return { node, ended };
}

/** A node that joins, and whose attention is as `alter` makes it. */
async function lendAltered(url: string, token: string, alter: (backend: StagedAttention) => Partial<StagedAttention>) {
  const node = new AttentionNode({
    token,
    createBackend: async (geometry, options) => {
      const backend = await createInlineAttention(geometry, { ...options, memoryBytes: 64 * 2 ** 20 });
      return Object.assign(backend, alter(backend));
    },
  });
  const ended = node.accept(await connectWebSocket(url));
  onTestFinished(() => node.close());
  return ended;
}

async function expectSameResults({ running, output }: ListeningRun): Promise<string> {
  const { status, stderr } = await running.ended;
  expect(status, stderr).toBe(0);
  expect(byId(readLines(output))).toEqual(await expectedResults());
  return stderr;
}

async function finished({ output, running }: ListeningRun, requests: number): Promise<void> {
  let isOver = false;
  void running.ended.then(() => {
    isOver = true;
  });
  const journal = `${output}.journal`;
  while (!isOver) {
    if (existsSync(journal) && readFileSync(journal, 'utf8').split('\n').length - 2 >= requests) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Ends in whatever way the other end chooses. */
function closed(socket: WsClient): Promise<void> {
  socket.on('error', () => {});
  return new Promise((resolve) => socket.once('close', () => resolve()));
}

describe('a job of lent nodes', { timeout: 120_000 }, () => {
  it('has the results of an undisturbed one, though a node leaves half-way', async () => {
    // Few sequences at a time, so that there is work left for the second when it comes.
    const run = await listening('ws-listen://127.0.0.1:0', '--micro-batch-rows', '4', '--in-flight', '2');
    await run.running.saw(/waiting for the first attention node to join/);
    const first = await lend(run.url, run.token);
    const second = await lend(run.url, run.token);
    await finished(run, 8);
    expect(second.node.stats().busyMs).toBeGreaterThan(0);
    await second.node.close('the tab was closed');
    const stderr = await expectSameResults(run);
    expect(stderr).toMatch(/joined +ws:\/\/127\.0\.0\.1:\d+: 2 nodes, room for/);
    expect(stderr).toMatch(/attention node ws:\S+ is lost/);
    expect(stderr).toMatch(/nodes lost +1/);
    await first.ended;
  });

  it('waits when all have left, and goes on with the next one', async () => {
    const run = await listening();
    for (let i = 1; i <= 3; i++) {
      const { node } = await lend(run.url, run.token);
      await finished(run, 6 * i);
      if (run.running.child.exitCode === null) await node.close();
      await run.running.saw(/no attention node is left; waiting for one to join/);
    }
    await lend(run.url, run.token);
    await expectSameResults(run);
  });

  it('mixes with local workers', async () => {
    const run = await listening('local:1,ws-listen://127.0.0.1:0');
    const { node } = await lend(run.url, run.token);
    const stderr = await expectSameResults(run);
    expect(stderr).toMatch(/attention +local: room for .*; nodes may join at ws:\/\/127/);
    expect(node.stats().sessionsServed).toBe(1);
  });

  it('stops at Ctrl-C while it waits', async () => {
    const { running } = await listening();
    running.child.kill('SIGINT');
    const { status, stderr } = await running.ended;
    expect(status).toBe(130);
    expect(stderr).toMatch(/to go on: glinthawk run/);
  });

  it('says what is too long for the nodes that are there, and goes on with one that holds it', async () => {
    const run = await listening();
    await lend(run.url, run.token, 400_000);
    await run.running.saw(/nodes: 1 there; \d+ requests? of up to \d+ tokens waits? for a node with more KV memory/);
    await lend(run.url, run.token);
    await expectSameResults(run);
  });

  it('is joined over TLS', async () => {
    const folder = temporaryFolder();
    const { cert, key } = selfSignedCertificate();
    writeFileSync(join(folder, 'cert.pem'), cert);
    writeFileSync(join(folder, 'key.pem'), key);
    const tls = ['--tls-cert', join(folder, 'cert.pem'), '--tls-key', join(folder, 'key.pem')];
    const { running, host } = await listening('wss-listen://127.0.0.1:0', ...tls);
    const socket = new WsClient(`wss://${host}`, { ca: cert });
    const [hello] = await new Promise<[Buffer]>((resolve) =>
      socket.once('message', (data) => resolve([data as Buffer])),
    );
    expect(hello[5]).toBe(FrameType.HELLO);
    socket.terminate();
    running.child.kill('SIGINT');
    await running.ended;
  });
});

describe('whoever else comes', { timeout: 120_000 }, () => {
  it('without the token is refused, told once for each reason, and nobody is held up', async () => {
    const run = await listening();
    for (const token of ['0123456789abcdef', '', undefined]) {
      const node = new AttentionNode({
        ...(token === undefined ? {} : { token }),
        createBackend: (geometry, options) => createInlineAttention(geometry, options),
      });
      const ended = await node.accept(await connectWebSocket(run.url));
      expect(ended?.message).toMatch(/token|closed/);
      await node.close();
    }
    await lend(run.url, run.token);
    const stderr = await expectSameResults(run);
    expect(stderr.match(/could not join/g)).toHaveLength(2);
  });

  it('says nothing, garbage, too much, or comes a thousand times', async () => {
    const run = await listening();
    const sockets: WsClient[] = [];
    onTestFinished(() => {
      for (const socket of sockets) socket.terminate();
    });
    const open = () => {
      const socket = new WsClient(run.url);
      socket.on('error', () => {});
      sockets.push(socket);
      return socket;
    };
    const says = (bytes: Uint8Array) => {
      const socket = open();
      socket.once('open', () => socket.send(bytes));
      return closed(socket);
    };
    const challenge = encodeFrame(authFrame({ kind: 'challenge', nonce: randomNonce() }));
    await says(new Uint8Array(64));
    await says(encodeFrame(frame(FrameType.WELCOME, {}, [new Uint8Array(60_000)])));
    const { header } = frame(FrameType.WELCOME, {}, [new Uint8Array(16)]);
    await says(encodeHeader({ ...header, payloadBytes: 2 ** 28 }));
    await says(Buffer.concat([challenge, challenge]));
    for (let i = 0; i < 1000; i++) {
      const socket = open();
      await new Promise((resolve) => socket.once('open', resolve).once('error', resolve).once('close', resolve));
    }
    // At most 32 of those that say nothing are left.
    await expect.poll(() => sockets.filter(({ readyState }) => readyState === WsClient.OPEN).length).toBeLessThan(40);
    await lend(run.url, run.token);
    const stderr = await expectSameResults(run);
    expect(stderr.match(/could not join/g)?.length).toBeLessThanOrEqual(8);
  });

  it('has the token and answers nonsense, or never has room: the results are the same', async () => {
    const run = await listening();
    const nonsense = lendAltered(run.url, run.token, (backend) => {
      const attendStaged = backend.attendStaged.bind(backend);
      return {
        async attendStaged(stepId, ...rest) {
          await attendStaged(stepId, ...rest);
          for (const piece of backend.staged(stepId).output) piece.fill(0xff); // NaN in f32
        },
      };
    });
    void lendAltered(run.url, run.token, () => ({
      attendStaged: () => Promise.reject(new CapacityError('STAGING', 'none\nwarning: a line of my own')),
    }));
    expect((await nonsense)?.message).toMatch(/not finite numbers/);
    await lend(run.url, run.token);
    const stderr = await expectSameResults(run);
    expect(stderr).toMatch(/is lost \(reason: .*sent values that are not finite numbers/);
    expect(stderr).not.toMatch(/^warning: a line of my own/m);
  });

  it('leaves as soon as it is there: it is lost, and did not join', async () => {
    const run = await listening();
    for (let i = 0; i < 3; i++) {
      const { node } = await lend(run.url, run.token);
      while (node.stats().sessionsServed === 0) await new Promise((resolve) => setImmediate(resolve));
      await node.close('I changed my mind');
    }
    await lend(run.url, run.token);
    expect(await expectSameResults(run)).not.toMatch(/joined .* 0 nodes/);
  });

  it('asks by HTTP gets the page, or is told how to build it', async () => {
    const { running, host } = await listening();
    const [response, missing, refused] = await Promise.all([
      fetch(`http://${host}/`),
      fetch(`http://${host}/../../package.json`),
      fetch(`http://${host}/`, { method: 'POST', body: 'x' }),
    ]);
    expect(missing.status).toBe(404);
    expect(refused.status).toBe(405);
    expect(response.headers.get('cross-origin-opener-policy')).toBe('same-origin');
    expect(response.headers.get('cross-origin-embedder-policy')).toBe('require-corp');
    if (PAGE_IS_BUILT) {
      expect(response.status).toBe(200);
      expect(response.headers.get('content-type')).toBe('text/html; charset=utf-8');
      const html = await response.text();
      const script = /src="\.(\/assets\/[^"]+\.js)"/.exec(html)?.[1];
      const asset = await fetch(`http://${host}${script}`);
      expect(asset.headers.get('content-type')).toMatch(/^text\/javascript/);
      expect(asset.headers.get('cache-control')).toMatch(/immutable/);
      expect((await asset.text()).length).toBeGreaterThan(1000);
    } else {
      expect(response.status).toBe(404);
      expect(await response.text()).toMatch(/npm run build:demo/);
    }
    running.child.kill('SIGINT');
    await running.ended;
  });

  it('is a page of another origin, where origins were named', async () => {
    const { running, url } = await listening('ws-listen://127.0.0.1:0', '--origin', 'https://example.org');
    const from = (origin: string) =>
      new Promise<string>((resolve) => {
        const socket = new WsClient(url, { origin });
        socket.once('open', () => resolve('open')).once('error', (error) => resolve(error.message));
        onTestFinished(() => socket.terminate());
      });
    expect(await from('https://example.org')).toBe('open');
    expect(await from('https://evil.test')).toMatch(/403/);
    // Nor is the page on the port itself: no link says so.
    expect(await from(url.replace('ws', 'http'))).toMatch(/403/);
    for (let i = 0; i < 3; i++) await from('https://evil.test');
    running.child.kill('SIGINT');
    const { stderr } = await running.ended;
    expect(stderr).toMatch(/lend a tab: PAGE#lend=ws:/);
    expect(stderr).not.toMatch(/lend a tab: http/);
    expect(stderr).toMatch(/PAGE is the page as https:\/\/example\.org serves it/);
    expect(stderr.match(/refused by its origin/g)).toHaveLength(2);
  });
});

it('flags that contradict each other are said before anything is loaded', { timeout: 60_000 }, async () => {
  const output = join(temporaryFolder(), 'out.jsonl');
  for (const [attention, more, words] of [
    ['wss-listen://127.0.0.1:0', [], /needs --tls-cert/],
    ['ws-listen://127.0.0.1:0', ['--tls-cert', 'a', '--tls-key', 'b'], /wss-listen/],
    ['local', ['--origin', 'https://example.org'], /--origin is for/],
    ['ws-listen://127.0.0.1:0', ['--token', 'short'], /at least 16/],
    ['ws-listen://127.0.0.1:0,ws-listen://127.0.0.1:1', [], /one address only/],
  ] as const) {
    const { status, stderr } = await glinthawk(runArguments('-', output, '--attention', attention, ...more), {
      stdin: job,
    });
    expect(status, stderr).toBe(2);
    expect(stderr).toMatch(words);
  }
});
