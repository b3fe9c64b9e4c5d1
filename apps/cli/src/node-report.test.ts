import type { AttentionNodeStats } from '@glinthawk/attention';
import { expect, it } from 'vitest';
import { describeCache, describeService, describeSession } from './node-report.ts';
import { IDLE_NODE } from './node-stats.fixture.ts';

const before: AttentionNodeStats = { ...IDLE_NODE, session: 'tcp://10.0.0.3:50123', workers: 4, blocks: 4096 };

it('says what is stored, done, waiting and moved, per second', () => {
  const now: AttentionNodeStats = {
    ...before,
    usedBlocks: 1024,
    openSlots: 27,
    pendingAttends: 3,
    busyMs: 24_000,
    kvBytesRead: 123e9,
    appendedTokens: 750,
    forkedTokens: 250,
    bytesReceived: 10 * 2 ** 20,
    bytesSent: 5 * 2 ** 20,
    allocatedBytes: 2 ** 30,
  };
  expect(describeSession(now, before, 10)).toBe(
    'session tcp://10.0.0.3:50123: 1,024 of 4,096 KV blocks (25 %), 27 slots, workers busy 60 %, KV read at 12.3 GB/s, ' +
      '3 in the queue, 1,000 tokens (25 % of them shared), 1.0 MiB/s in, 512 KiB/s out, 1.0 GiB held',
  );
});

it('of a session that began in between says nothing below zero, and nothing of what did not happen', () => {
  const one = { ...before, openSlots: 1 };
  expect(describeSession(one, { ...before, busyMs: 500, bytesSent: 9, appendedTokens: 2 }, 10)).toBe(
    'session tcp://10.0.0.3:50123: 0 of 4,096 KV blocks (0 %), 1 slot, workers busy 0 %, KV read at 0.0 GB/s, ' +
      '0 in the queue, 0 bytes/s in, 0 bytes/s out, 0 bytes held',
  );
});

it('tells what a new cache has room for, and what a token takes', () => {
  const geometry = {
    ...{ layers: 32, kvHeads: 8, groupSize: 4, headDim: 128, softmaxScale: 0.1 },
    windows: Array.from({ length: 32 }, () => 0),
    maxContextTokens: 8192,
  };
  const shards = [{ blocks: 2 ** 16 }, { blocks: 2 ** 16 }];
  const capacity = { blockTokens: 32, blockBytes: 32 * 131_072, shards, workers: 8 };
  expect(describeCache({ geometry, kvDtype: 'f16', capacity })).toMatch(
    /^KV of a new session: room for 4,194,304 tokens of f16 \(512 GiB\) in 2 memories, 8 workers; 131,072 bytes a token, 133,\d{3} with block tables and padding at 1,024 tokens \(\+1\.\d %\)$/,
  );
});

it('sums up at the end', () => {
  expect(describeService(IDLE_NODE)).toBe('served 0 sessions, 0 bytes in, 0 bytes out');
  const done = { ...IDLE_NODE, sessionsServed: 2, appendedTokens: 900, forkedTokens: 100, kvBytesRead: 2 ** 40 };
  expect(describeService({ ...done, busyMs: 61_000 })).toBe(
    'served 2 sessions, 0 bytes in, 0 bytes out, 1,000 tokens (10 % of them shared), 1.0 TiB of KV read, 61.0 s of work',
  );
});
