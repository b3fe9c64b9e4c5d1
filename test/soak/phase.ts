/** What a stretch of the soak runs on: a cache in one of the KV dtypes, of a model with windows or without, here or over a wire. */
import {
  type AttentionBackend,
  AttentionNode,
  attentionKernelInfo,
  createLocalAttention,
  type Int8Kernel,
  RemoteAttention,
  RemoteSource,
  type StagedAttention,
} from '@glinthawk/attention';
import { remoteSource, serveAttention } from '@glinthawk/attention/node';
import type { AttentionGeometry, KvDtype, RowDtype } from '@glinthawk/core';
import { memoryTransportPair } from '@glinthawk/wire';
import { Random } from './random.ts';

const MAX_CONTEXT_TOKENS = 6000; // beyond two splits

const shape = { kvHeads: 2, maxContextTokens: MAX_CONTEXT_TOKENS } as const;
export const geometries = {
  plain: { ...shape, layers: 2, groupSize: 3, headDim: 32, softmaxScale: 1 / Math.sqrt(32), windows: [0, 0] },
  windows: { ...shape, layers: 4, groupSize: 2, headDim: 16, softmaxScale: 1 / 4, windows: [0, 600, 0, 600] },
} as const satisfies Readonly<Record<string, AttentionGeometry>>;

export interface Phase {
  readonly index: number;
  readonly seed: number;
  readonly geometry: keyof typeof geometries;
  readonly kvDtype: KvDtype;
  readonly int8: Int8Kernel;
  readonly path: 'local' | 'memory' | 'tcp';
  readonly rowDtype: RowDtype;
  readonly blockTokens: number;
  readonly shards: number;
  /** That KV has room for, in all shards together. */
  readonly tokens: number;
  readonly workers: number;
  /** What traffic makes of the room: sometimes this, sometimes that, or as little as can be left free. */
  readonly fill: 'mixed' | 'full';
  readonly mostSlots: number;
  /** Its backend lives as long as a soak lasts. */
  readonly isLong: boolean;
}

const DTYPES: readonly Pick<Phase, 'kvDtype' | 'int8'>[] = [
  { kvDtype: 'f32', int8: 'pairs' },
  { kvDtype: 'int8', int8: attentionKernelInfo().int8 },
  { kvDtype: 'f16', int8: 'pairs' },
  { kvDtype: 'int8', int8: 'pairs' },
  { kvDtype: 'bf16', int8: 'pairs' },
];

/** Dtypes, geometries and paths in turn; they come round together after 90 phases. */
export function phaseOf(seed: number, index: number): Phase {
  const remote = Math.floor(index / 3);
  const random = new Random(Math.imul(seed, 1009) + index);
  return {
    ...dtypeOf(index),
    index,
    seed: random.whole(1, 2 ** 30),
    geometry: index % 2 === 0 ? 'plain' : 'windows',
    path: index % 3 !== 2 ? 'local' : remote % 2 === 0 ? 'memory' : 'tcp',
    rowDtype: index % 3 !== 2 ? 'f32' : ((['int8', 'f16', 'f32'] as const)[remote % 3] ?? 'f32'),
    blockTokens: random.pick([16, 32, 32, 64]),
    shards: random.whole(1, 4),
    tokens: random.pick([700, 1500, 4000, 12_000]),
    workers: 2,
    fill: random.pick(['mixed', 'full']),
    mostSlots: random.pick([12, 24, 48]),
    isLong: false,
  };
}

/** One that a backend lives in for as long as a soak lasts: blocks and frames as large as those of a real node, in two memories. */
export function longPhaseOf(seed: number, path: 'local' | 'tcp'): Phase {
  const random = new Random(Math.imul(seed, 2003) + (path === 'tcp' ? 1 : 0));
  return {
    ...dtypeOf(seed + (path === 'tcp' ? 2 : 0)),
    index: 0,
    seed: random.whole(1, 2 ** 30),
    geometry: (path === 'tcp') === (seed % 2 === 0) ? 'plain' : 'windows',
    path,
    rowDtype: path === 'tcp' ? random.pick(['int8', 'f16', 'f32']) : 'f32',
    blockTokens: 32,
    shards: 2,
    tokens: 24_000,
    workers: 2,
    fill: 'full',
    mostSlots: 64,
    isLong: true,
  };
}

function dtypeOf(index: number): Pick<Phase, 'kvDtype' | 'int8'> {
  return DTYPES[index % DTYPES.length] ?? { kvDtype: 'f32', int8: 'pairs' };
}

export function phaseText({
  index,
  geometry,
  kvDtype,
  int8,
  path,
  rowDtype,
  blockTokens,
  shards,
  tokens,
  fill,
  isLong,
}: Phase): string {
  const dtype = kvDtype === 'int8' ? `int8 by ${int8}` : kvDtype;
  const way = path === 'local' ? 'local' : `${path}, rows in ${rowDtype}`;
  return `${isLong ? 'one backend' : `phase ${index}`}: ${dtype} KV, ${geometry}, ${way}, ${shards} shards, blocks of ${blockTokens}, room for ${tokens} tokens${fill === 'full' ? ' kept full' : ''}`;
}

/** What a backend counts, of all calls made so far. */
export interface Told {
  readonly usedBlocks: number;
  readonly openSlots: number;
  readonly forkedTokens: number;
}

export interface Rig {
  /** What traffic goes to. */
  readonly backend: AttentionBackend;
  /** What keeps KV: the same, or the one behind the wire. */
  readonly cache: AttentionBackend;
  told(): Told | Promise<Told>;
  /** Bytes that whatever serves the backend holds now, and connections; 0 after close. */
  held(): { readonly bytes: number; readonly connections: number };
  close(): Promise<void>;
}

export async function openRig(phase: Phase): Promise<Rig> {
  const geometry = geometries[phase.geometry];
  const create = (rowDtype: RowDtype): Promise<StagedAttention> =>
    createLocalAttention(geometry, {
      kvDtype: phase.kvDtype,
      rowDtype,
      int8: phase.int8,
      workers: phase.workers,
      shards: phase.shards,
      blockTokens: phase.blockTokens,
      memoryBytes: kvBytes(phase),
    });
  if (phase.path === 'local') {
    const backend = await create('f32');
    return {
      backend,
      cache: backend,
      told: () => toldOf(backend.stats()),
      held: () => ({ bytes: backend.allocatedBytes(), connections: 0 }),
      close: () => backend.close(),
    };
  }
  const caches: StagedAttention[] = [];
  const options = {
    createBackend: async (_: AttentionGeometry, { rowDtype }: { readonly rowDtype: RowDtype }) => {
      const cache = await create(rowDtype);
      caches.push(cache);
      return cache;
    },
  };
  const { node, source, close } = await (phase.path === 'tcp' ? overTcp(options, phase) : overMemory(options, phase));
  const backend = await source.connect(geometry, { kvDtype: phase.kvDtype, fingerprint: 'soak' });
  const [cache] = caches;
  if (!(backend instanceof RemoteAttention) || cache === undefined) throw new TypeError('no node was connected');
  return {
    backend,
    cache,
    told: async () => toldOf(await backend.nodeStats()),
    held: () => {
      const { allocatedBytes, connections } = node.stats();
      return { bytes: allocatedBytes + backend.allocatedBytes(), connections };
    },
    async close() {
      await backend.close();
      await close();
    },
  };
}

function toldOf({ usedBlocks, openSlots, forkedTokens }: Told): Told {
  return { usedBlocks, openSlots, forkedTokens };
}

type NodeOptions = Pick<ConstructorParameters<typeof AttentionNode>[0], 'createBackend'>;

async function overTcp(options: NodeOptions, { rowDtype }: Phase) {
  const server = await serveAttention({ host: '127.0.0.1', port: 0, ...options });
  const source = remoteSource(`tcp://127.0.0.1:${server.listener.port}`, { wireDtype: rowDtype });
  return { node: server.node, source, close: () => server.close() };
}

async function overMemory(options: NodeOptions, { rowDtype }: Phase) {
  const node = new AttentionNode(options);
  const dial = async () => {
    const [ours, theirs] = memoryTransportPair();
    void node.accept(theirs);
    return ours;
  };
  return { node, source: new RemoteSource('memory', dial, { wireDtype: rowDtype }), close: () => node.close() };
}

const ELEMENT_BYTES: Readonly<Record<KvDtype, number>> = { f32: 4, f16: 2, bf16: 2, int8: 1.25 };

/** Enough for so many tokens; blocks take somewhat more than their numbers. */
function kvBytes({ geometry, kvDtype, tokens }: Phase): number {
  const { layers, kvHeads, headDim } = geometries[geometry];
  return Math.ceil(1.1 * tokens * 2 * layers * kvHeads * headDim * ELEMENT_BYTES[kvDtype]);
}
