/** A node of real kernels and workers, over loopback TCP: what it answers, counts and copies is what local attention would. */
import { type AttentionGeometry, outputRowFloats, qkvRowFloats } from '@glinthawk/core';
import { expect, it, onTestFinished } from 'vitest';
import type { AttentionStep } from '../backend.ts';
import { createInlineAttention } from '../inline.ts';
import { createLocalAttention } from '../pool.ts';
import type { RemoteAttention } from './remote-attention.ts';
import { remoteSource } from './remote-source.node.ts';
import { serveAttention } from './serve.node.ts';

const geometry: AttentionGeometry = {
  layers: 4,
  kvHeads: 2,
  groupSize: 3,
  headDim: 32,
  softmaxScale: 1 / Math.sqrt(32),
  windows: [0, 64, 0, 64],
  maxContextTokens: 1024,
};
const memoryBytes = 16 << 20;

function difference(a: Float32Array, b: Float32Array): number {
  return a.reduce((most, x, i) => Math.max(most, x === b[i] ? 0 : Math.abs(x - (b[i] as number))), 0);
}

it.each([
  ['f32', 0],
  ['f16', 2e-3],
  ['int8', 3e-2],
] as const)('rows of %s come to within %d of local attention', async (wireDtype, tolerance) => {
  const server = await serveAttention({
    host: '127.0.0.1',
    port: 0,
    createBackend: (shape, options) => createLocalAttention(shape, { ...options, workers: 2, memoryBytes }),
  });
  onTestFinished(() => server.close());
  const source = remoteSource(server.listener.url, { wireDtype });
  const remote = (await source.connect(geometry, { kvDtype: 'f32', fingerprint: 'test' })) as RemoteAttention;
  const local = await createInlineAttention(geometry, { kvDtype: 'f32', memoryBytes });
  onTestFinished(() => local.close());
  const both = [remote, local];
  const [first, second, child] = [0, 1, 2].map((index) => ({ index, generation: 1 })) as [
    { index: number; generation: number },
    { index: number; generation: number },
    { index: number; generation: number },
  ];
  let id = 0;
  let tensorBytes = 0;
  const run = async (entries: AttentionStep['entries']) => {
    id++;
    const rows = entries.reduce((sum, { count }) => sum + count, 0);
    for (const backend of both) backend.announce({ id, entries });
    for (let layer = 0; layer < geometry.layers; layer++) {
      const qkv = Float32Array.from({ length: rows * qkvRowFloats(geometry) }, (_, i) => Math.sin(i * (layer + id)));
      const [found, expected] = await Promise.all(
        both.map(async (backend) => {
          const output = new Float32Array(rows * outputRowFloats(geometry));
          const sums = new Float32Array(rows * geometry.groupSize * geometry.kvHeads);
          await backend.attend(id, layer, qkv, output, sums);
          return { output, sums };
        }) as [
          Promise<{ output: Float32Array; sums: Float32Array }>,
          Promise<{ output: Float32Array; sums: Float32Array }>,
        ],
      );
      expect(difference(found.output, expected.output)).toBeLessThanOrEqual(tolerance);
      expect(difference(found.sums, expected.sums)).toBeLessThanOrEqual(tolerance);
      tensorBytes += qkv.byteLength;
    }
    for (const backend of both) backend.retire(id);
  };
  for (const backend of both) for (const slot of [first, second]) backend.open(slot, 0);
  await run([
    { slot: first, position: 0, count: 100 },
    { slot: second, position: 0, count: 7 },
  ]);
  for (const backend of both) backend.fork(child, first, 90);
  for (let i = 0; i < 5; i++) {
    await run([
      { slot: child, position: 90 + i, count: 1 },
      { slot: second, position: 7 + i, count: 1 },
      { slot: first, position: 200, count: 2, visit: true },
    ]);
  }
  const { usedBlocks, appendedTokens, forkedTokens } = local.stats();
  await expect.poll(() => remote.stats()).toMatchObject({ usedBlocks, appendedTokens, forkedTokens });
  expect(remote.capacity).toMatchObject({ workers: 2, blockTokens: local.capacity.blockTokens });
  const stats = await remote.nodeStats();
  expect(stats.bytesCopied).toBe(stats.tensorBytesReceived);
  if (wireDtype === 'f32') expect(stats.tensorBytesReceived).toBe(tensorBytes);
  await remote.close();
  await expect.poll(() => server.node.stats().connections).toBe(0);
  expect(server.node.stats().allocatedBytes).toBe(0);
});
