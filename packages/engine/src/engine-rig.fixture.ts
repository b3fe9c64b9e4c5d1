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

export async function rig(
  nodes: readonly RigNode[] = [{}],
  options: Partial<EngineOptions> = {},
  fake: FakeDenseOptions = {},
): Promise<Rig> {
  const dense = new FakeDense(fake);
  const sources = nodes.map((node, i) => new ReferenceAttentionSource({ name: `node ${i}`, ...node }));
  const engine = await createEngine({
    dense,
    attention: sources.map((source, i) => altered(source, nodes[i])),
    kvDtype: 'f32',
    fingerprint: 'fake',
    ...options,
  });
  const made = { engine, dense, sources };
  rigs.push(made);
  return made;
}

/** Nothing may be left, whatever the test did. */
afterEach(async () => {
  for (const { engine, dense, sources } of rigs.splice(0)) {
    const { usedBlocks, kvBytes, running, waiting } = engine.stats();
    const left = sources.map((source) => ({ slots: source.live?.stats().openSlots ?? 0, steps: source.steps }));
    await engine.close();
    expect({ usedBlocks, kvBytes, running, waiting }).toEqual({ usedBlocks: 0, kvBytes: 0, running: 0, waiting: 0 });
    for (const node of left) expect(node).toEqual({ slots: 0, steps: 0 });
    expect(dense.batches.size).toBe(0);
    for (const source of sources) expect(source.live).toBe(null);
  }
});

function altered(source: ReferenceAttentionSource, node: RigNode | undefined): AttentionSource {
  const { alter, onConnect } = node ?? {};
  if (alter === undefined && onConnect === undefined) return source;
  return {
    name: source.name,
    async connect(geometry, options) {
      onConnect?.();
      const backend = await source.connect(geometry, options);
      return alter === undefined ? backend : Object.assign(backend, alter(backend));
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
