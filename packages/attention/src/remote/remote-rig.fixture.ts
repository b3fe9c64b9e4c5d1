/** Attention nodes of naive backends, in this process, and engines' ends to them over memory, faults and all. */
import { type AttentionGeometry, layerGroups, outputRowFloats, qkvRowFloats } from '@glinthawk/core';
import { type MemoryFaults, memoryTransportPair, type Transport } from '@glinthawk/wire';
import { expect, onTestFinished } from 'vitest';
import type { AttentionBackend, AttentionStep } from '../backend.ts';
import { heldBlockCount } from '../kv-blocks.ts';
import { AttentionNode, type AttentionNodeOptions, type CreateBackend } from './attention-node.ts';
import { NaiveBackend, type NaiveBackendOptions } from './naive-backend.fixture.ts';
import type { RemoteAttention } from './remote-attention.ts';
import { RemoteSource, type RemoteSourceOptions } from './remote-source.ts';

export const geometry: AttentionGeometry = {
  layers: 3,
  kvHeads: 2,
  groupSize: 3,
  headDim: 8,
  softmaxScale: 1 / Math.sqrt(8),
  windows: [0, 4, 0],
  maxContextTokens: 512,
};
export const hello = { kvDtype: 'f32', fingerprint: 'model-a' } as const;
export const qkvFloats = qkvRowFloats(geometry);
export const outputFloats = outputRowFloats(geometry);

export const createNaive: CreateBackend = async (shape, { kvDtype, rowDtype }) =>
  new NaiveBackend(shape, kvDtype, { rowDtype });

export function makeNode(options: Partial<AttentionNodeOptions> = {}, backendOptions: NaiveBackendOptions = {}) {
  const backends: NaiveBackend[] = [];
  const node = new AttentionNode({
    createBackend: async (shape, { kvDtype, rowDtype }) => {
      const backend = new NaiveBackend(shape, kvDtype, { ...backendOptions, rowDtype });
      backends.push(backend);
      return backend;
    },
    ...options,
  });
  onTestFinished(() => node.close());
  return { node, backends };
}

export type MemorySourceOptions = RemoteSourceOptions & { readonly faults?: [MemoryFaults, MemoryFaults] };

export function memorySource(node: AttentionNode, options: MemorySourceOptions = {}): RemoteSource {
  const { faults, ...rest } = options;
  const dial = async (): Promise<Transport> => {
    const [ours, theirs] = memoryTransportPair(faults ? { faults } : {});
    node.accept(theirs);
    return ours;
  };
  return new RemoteSource('memory', dial, rest);
}

let seed = 1;
/** Within ±1. */
export function random(length: number): Float32Array {
  const values = new Float32Array(length);
  for (let i = 0; i < length; i++) {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    values[i] = seed / 1073741824 - 1;
  }
  return values;
}

function maxDifference(a: Float32Array, b: Float32Array): number {
  return a.reduce((most, value, i) => Math.max(most, Math.abs(value - (b[i] as number))), 0);
}

/**
 * Runs prefill chunks and decode steps of several slots on both, and expects the same bits from both, or numbers within `tolerance`
 * of each other.
 */
export async function compare(remote: AttentionBackend, tolerance: number | 'unchecked' = 0): Promise<void> {
  const local = new NaiveBackend(geometry, 'f32');
  const slots = [0, 1, 2].map((index) => ({ index, generation: 7 }));
  const positions = [0, 0, 0];
  for (const slot of slots) for (const backend of [local, remote]) backend.open(slot, 0);
  for (let id = 1; id <= 6; id++) {
    const entries = slots.map((slot, i) => {
      const count = id === 1 ? 5 + i * 11 : 1;
      const position = positions[i] as number;
      positions[i] = position + count;
      return { slot, position, count };
    });
    const step: AttentionStep = { id, entries };
    const rows = entries.reduce((sum, entry) => sum + entry.count, 0);
    for (const backend of [local, remote]) backend.announce(step);
    for (let layer = 0; layer < geometry.layers; layer++) {
      const qkv = random(rows * qkvFloats);
      const expected = new Float32Array(rows * outputFloats);
      const found = new Float32Array(rows * outputFloats).fill(NaN);
      await Promise.all([local.attend(id, layer, qkv, expected), remote.attend(id, layer, qkv, found)]);
      if (tolerance === 0) expect(found).toEqual(expected);
      else if (tolerance !== 'unchecked') expect(maxDifference(found, expected)).toBeLessThan(tolerance);
    }
    for (const backend of [local, remote]) backend.retire(id);
  }
  if (tolerance === 'unchecked') return;
  const { usedBlocks, appendedTokens, kvBytesRead } = local.stats();
  const groups = layerGroups(geometry);
  const held = positions.map((end) => heldBlockCount(groups, local.capacity.blockTokens, end - 1, end));
  expect(usedBlocks).toBe(held.reduce((sum, count) => sum + count, 0));
  await expect.poll(() => remote.stats()).toMatchObject({ usedBlocks, openSlots: 3, appendedTokens });
  expect(remote.stats().busyMs).toBeCloseTo(18, 3); // the naive backend counts 1 ms an attend
  for (const slot of slots) remote.free(slot);
  await expect.poll(() => remote.stats()).toMatchObject({ usedBlocks: 0, openSlots: 0, kvBytesRead });
}

/** A session with one open slot and an announced step of two rows. */
export async function session(
  options: Partial<AttentionNodeOptions> = {},
  backendOptions: NaiveBackendOptions = {},
  source: MemorySourceOptions = {},
) {
  const { node, backends } = makeNode(options, backendOptions);
  const remote = (await memorySource(node, source).connect(geometry, hello)) as RemoteAttention;
  onTestFinished(() => remote.close());
  const slot = { index: 0, generation: 1 };
  remote.open(slot, 0);
  remote.announce({ id: 1, entries: [{ slot, position: 0, count: 2 }] });
  const qkv = random(2 * qkvFloats);
  const output = new Float32Array(2 * outputFloats);
  return { node, backends, remote, slot, qkv, output };
}

export async function settled(condition: () => boolean, timeoutMs = 5_000): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error('it did not settle');
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
