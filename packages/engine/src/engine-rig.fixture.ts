/** Engines over fake tiers, for tests: made by rig(), closed and held to their accounts after each test. */
import type { AttentionBackend, AttentionSource } from '@glinthawk/attention';
import { afterEach, expect } from 'vitest';
import { type ReferenceAttentionOptions, ReferenceAttentionSource } from '../../../test/reference/attention.ts';
import { FakeDense, type FakeDenseOptions } from '../../../test/reference/fake-dense.ts';
import { createEngine, type Engine } from './engine.ts';
import type { EngineOptions } from './engine-api.ts';
import type { GenerationEvent } from './request.ts';

/** A node as the reference one, with some of its methods in another way. */
export interface RigNode extends ReferenceAttentionOptions {
  readonly alter?: (backend: AttentionBackend) => Partial<AttentionBackend>;
  /** Asked at each connection attempt; throws to refuse. */
  readonly onConnect?: () => void;
}

export interface Rig {
  readonly engine: Engine;
  readonly dense: FakeDense;
  readonly sources: readonly ReferenceAttentionSource[];
}

const rigs: Rig[] = [];
/** Where the engine counted otherwise than a node, right after that had been told of a step. */
const miscounts: string[] = [];

/** Engines and nodes of this test have counted the same so far. */
export function expectCounted(): void {
  expect(miscounts.splice(0)).toEqual([]);
}

export async function rig(
  nodes: readonly RigNode[] = [{}],
  options: Partial<EngineOptions> = {},
  fake: FakeDenseOptions = {},
): Promise<Rig> {
  const dense = new FakeDense(fake);
  const sources = nodes.map((node, i) => new ReferenceAttentionSource({ name: `node ${i}`, ...node }));
  let counted: Engine | null = null;
  const compare = (i: number, backend: AttentionBackend) => {
    const node = counted?.stats().nodes[i];
    const { usedBlocks } = backend.stats();
    if (node === undefined || node.usedBlocks + node.cachedBlocks === usedBlocks) return;
    miscounts.push(`node ${i} has ${usedBlocks} blocks in use; ${node.usedBlocks} + ${node.cachedBlocks} are counted`);
  };
  const engine = await createEngine({
    dense,
    attention: sources.map((source, i) => altered(source, nodes[i], (backend) => compare(i, backend))),
    kvDtype: 'f32',
    fingerprint: 'fake',
    ...options,
  });
  counted = engine;
  const made = { engine, dense, sources };
  rigs.push(made);
  return made;
}

/** Nothing may be left, whatever the test did. */
afterEach(async () => {
  for (const { engine, dense, sources } of rigs.splice(0)) {
    const { usedBlocks, kvBytes, running, waiting, nodes } = engine.stats();
    // What is kept for others is all that a node still has.
    const kept = sources.map((source) => source.live?.stats().usedBlocks ?? 0);
    const steps = sources.map((source) => source.steps);
    await engine.close();
    expect({ usedBlocks, kvBytes, running, waiting }).toEqual({ usedBlocks: 0, kvBytes: 0, running: 0, waiting: 0 });
    expect(kept).toEqual(sources.map((_, i) => nodes[i]?.cachedBlocks));
    expect(steps).toEqual(sources.map(() => 0));
    expectCounted();
    expect(dense.batches.size).toBe(0);
    for (const source of sources) expect(source.live).toBe(null);
  }
});

function altered(
  source: ReferenceAttentionSource,
  node: RigNode | undefined,
  onAnnounced: (backend: AttentionBackend) => void,
): AttentionSource {
  const { alter, onConnect } = node ?? {};
  return {
    name: source.name,
    async connect(geometry, options) {
      onConnect?.();
      const backend = await source.connect(geometry, options);
      const announce = backend.announce.bind(backend);
      const watched = Object.assign(backend, {
        announce: (step: Parameters<typeof announce>[0]) => {
          announce(step);
          if (source.live === backend) onAnnounced(backend);
        },
      });
      return alter === undefined ? watched : Object.assign(watched, alter(watched));
    },
  };
}

export async function collect(events: AsyncIterable<GenerationEvent>, most = Number.POSITIVE_INFINITY) {
  const got: GenerationEvent[] = [];
  for await (const event of events) {
    got.push(event);
    if (got.length >= most) break;
  }
  return got;
}
