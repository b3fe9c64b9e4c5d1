/** A lent node against a real joining port: serves, comes again, gives up for good where the token is wrong, and leaves. */
import { JoinListener } from '@glinthawk/attention/node';
import { afterEach, describe, expect, it } from 'vitest';
import type { LendStart } from './lend-messages.ts';
import { LentNode } from './lent-node.ts';

const token = 'a token of 24 characters';
const geometry = {
  layers: 2,
  kvHeads: 2,
  groupSize: 2,
  headDim: 16,
  maxContextTokens: 64,
  windows: [0, 0],
  softmaxScale: 0.25,
  softCap: 0,
};

const open: { close(): unknown }[] = [];
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close();
});

async function job() {
  const joins = await JoinListener.open({ host: '127.0.0.1', port: 0, token });
  open.push(joins);
  type Source = Parameters<Parameters<typeof joins.admitTo>[0]['attach']>[0];
  const joined: Awaited<ReturnType<Source['connect']>>[] = [];
  joins.admitTo({
    attach: async (source) => {
      joined.push(await source.connect(geometry as never, { kvDtype: 'f32', fingerprint: 'ab'.repeat(32) }));
      return joined.length - 1;
    },
  });
  return { joins, joined, url: joins.listener.webSocketUrl };
}

function lend(url: string, options: Partial<LendStart> = {}): LentNode {
  const start = { type: 'start', name: 'tab worker 1', url, token, memoryBytes: 8 << 20, ...options } as const;
  const node = new LentNode(start);
  open.push({ close: () => node.stop() });
  return node;
}

describe('LentNode', () => {
  it('serves a job that it went to, counts what it did, and leaves when told', async () => {
    const { joined, url } = await job();
    const node = lend(url);
    await expect.poll(() => node.report().state).toBe('serving');
    await expect.poll(() => joined.length).toBe(1);
    const [backend] = joined;
    if (backend === undefined) throw new Error('nobody joined');
    backend.open({ index: 0, generation: 0 }, 0);
    backend.announce({ id: 1, entries: [{ slot: { index: 0, generation: 0 }, position: 0, count: 1 }] });
    await backend.attend(1, 0, new Float32Array(128).fill(0.5), new Float32Array(64));
    const report = node.report();
    expect(report).toMatchObject({ attends: 1, slots: 1, usedBlocks: 1, reason: null });
    expect(report.blocks).toBeGreaterThan(0);
    expect(report.bytesIn).toBeGreaterThan(512);
    await node.stop();
    expect(node.report()).toMatchObject({ state: 'stopped', slots: 0, blocks: 0 });
    expect((await backend.lost).code).toBe('NODE_LOST');
  });

  it('comes again when the job drops it', async () => {
    const { joined, url } = await job();
    const node = lend(url);
    await expect.poll(() => joined.length).toBe(1);
    await joined[0]?.close();
    await expect.poll(() => joined.length, { timeout: 5000 }).toBe(2);
    expect(node.report().reason).toBeNull();
  });

  it.each(['another token of 24 chars', null])(
    'with the token %j it is refused for good, and says so',
    async (wrong) => {
      const { joined, url } = await job();
      const node = lend(url, { token: wrong });
      await expect.poll(() => node.report().state).toBe('refused');
      expect(node.report().reason).toContain('token');
      expect(joined.length).toBe(0);
    },
  );

  it('waits for a job that is not there', async () => {
    const node = lend('ws://127.0.0.1:9');
    await expect.poll(() => node.report().state).toBe('waiting');
    expect(node.report().reason).toContain('127.0.0.1:9');
  });

  it('says so when it has no room for the model', async () => {
    const { url } = await job();
    const node = lend(url, { memoryBytes: 100 });
    await expect.poll(() => node.report().state).toBe('refused');
    expect(node.report().reason).toContain('block');
  });
});
