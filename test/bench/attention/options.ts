/** The flags of bench:attention, and what is measured without any. */
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import type { KvDtype } from '@glinthawk/core';
import { KV_DTYPES } from '../../../packages/attention/src/page-layout.ts';
import { DEFAULT_BOUND } from './measure.ts';
import { FRAMED, type Placement } from './placement.ts';
import type { Work } from './work.ts';

export const USAGE = `node test/bench/attention/main.ts [flags]
  --quick              five shapes and fewer repetitions
  --shape KEY=N,...    instead of the default shapes; may be given again. Keys: d (head_dim), g (query heads a KV head),
                       kv (KV heads), ctx (tokens seen), rows (sequences), chunk (new tokens of each; 1 is decode)
  --dtype LIST         of ${KV_DTYPES.join(', ')}
  --threads LIST       default 1,${availableParallelism()}
  --dram | --cache     only with KV beyond all caches, only with KV in L2
  --megabytes N        KV of a thread beyond the caches at least, default 192
  --block-tokens N     tokens of a KV block, default as the product has it
  --scattered LIST     percent of the runs (eight blocks of 32 tokens) whose blocks lie alone in random places, not in a frame;
                       or rotated: in frames, but read block by block. Default 0, and for groups 1 and 8 of 128 also 100
  --repetitions N      default 15
  --bound PERCENT      a repetition is void where the ceilings around it differ by more, default ${100 * DEFAULT_BOUND}
  --peers [LIST]       beside others on the same work: tfjs, onnx-web, onnx-node, onnx-node-gqa, native, or all
  --no-kernels         leave the kernels by themselves out
  --overhead           only what a step costs beyond the kernels
  --no-overhead        leave that out
  --markdown           tables for docs
  --json FILE          everything measured`;

export interface Options {
  readonly works: readonly Work[];
  readonly kvDtypes: readonly KvDtype[];
  readonly threads: readonly number[];
  readonly dramBytes: number;
  readonly blockTokens: number | undefined;
  /** Null: what each shape has of its own. */
  readonly placements: readonly Placement[] | null;
  readonly repetitions: number;
  readonly bound: number;
  readonly peers: readonly string[];
  readonly sections: { readonly kernels: boolean; readonly overhead: boolean };
  readonly markdown: boolean;
  readonly json: string | null;
}

type Shape = Omit<Work, 'place'>;
const decode = (headDim: number, group: number, kvHeads: number, context: number, sequences: number): Shape => ({
  headDim,
  group,
  kvHeads,
  context,
  sequences,
  chunk: 1,
});
const prefill = (headDim: number, group: number, kvHeads: number, context: number, chunk: number): Shape => ({
  headDim,
  group,
  kvHeads,
  context,
  sequences: 1,
  chunk,
});

const QUICK: readonly Shape[] = [
  decode(128, 1, 8, 2048, 16),
  decode(128, 4, 8, 2048, 16),
  decode(128, 8, 8, 2048, 16),
  decode(64, 3, 3, 2048, 32),
  prefill(128, 4, 2, 2048, 256),
];

/** Head sizes and groups of models that are about: Llama, Qwen2.5, Phi, SmolLM, Gemma. */
const DEFAULT: readonly Shape[] = [
  ...QUICK.slice(0, 4),
  decode(64, 4, 8, 2048, 16),
  decode(64, 8, 4, 2048, 16),
  decode(80, 1, 32, 2048, 8),
  decode(96, 1, 32, 2048, 8),
  decode(128, 7, 4, 2048, 16),
  decode(256, 4, 4, 2048, 16),
  decode(256, 8, 1, 2048, 32),
  decode(128, 4, 8, 128, 256),
  decode(128, 4, 8, 512, 256),
  decode(128, 4, 8, 2048, 1),
  decode(128, 4, 8, 8192, 4),
  decode(128, 4, 8, 32768, 1),
  prefill(128, 4, 2, 2048, 256),
  prefill(128, 1, 4, 2048, 64),
  prefill(128, 8, 2, 2048, 128),
  prefill(64, 3, 2, 2048, 256),
];

/** In cache the KV of a thread is one head of one sequence, as long as this allows. */
const CACHE_BYTES = 512 << 10;
const CACHE: readonly Shape[] = [
  decode(128, 1, 1, 2048, 1),
  decode(128, 4, 1, 2048, 1),
  decode(128, 8, 1, 2048, 1),
  decode(64, 3, 1, 2048, 1),
  decode(256, 8, 1, 2048, 1),
  prefill(128, 4, 1, 2048, 64),
];

const SCATTERED: Placement = { apart: 1, rotated: false };

/** A memory that was full for long is shown where waiting for memory, and where multiplying, takes longest. */
export function placementsOf(work: Work, { placements }: Options): readonly Placement[] {
  if (placements !== null) return placements;
  const shown = [QUICK[0], QUICK[2]].some((shape) => work.place === 'dram' && sameShape(shape as Shape, work));
  return shown ? [FRAMED, SCATTERED] : [FRAMED];
}

function sameShape(one: Shape, other: Shape): boolean {
  return (Object.keys(one) as (keyof Shape)[]).every((key) => one[key] === other[key]);
}

function parsePlacement(text: string): Placement {
  if (text === 'rotated') return { apart: 0, rotated: true };
  const percent = /^\d{1,3}$/.test(text) ? Number(text) : Number.NaN;
  if (!(percent <= 100)) throw new UsageError(`--scattered is of percents from 0 to 100 and rotated, found "${text}"`);
  return { apart: percent / 100, rotated: false };
}

/** One KV head a thread, and a context that fits in f32, so that all dtypes do the same. */
export function inCache(shape: Shape, threads: number): Work {
  const fits = 2 ** Math.floor(Math.log2(CACHE_BYTES / (8 * shape.headDim)));
  return { ...shape, kvHeads: threads, sequences: 1, context: Math.min(shape.context, fits), place: 'cache' };
}

export class UsageError extends Error {}

function parseShape(text: string): Shape {
  const fields = new Map<string, number>();
  for (const part of text.split(',')) {
    const [, key, value] = /^(d|g|kv|ctx|rows|chunk)=([1-9]\d*)$/.exec(part) ?? [];
    if (key === undefined) throw new UsageError(`--shape has parts like d=128 or ctx=2048, found "${part}"`);
    fields.set(key, Number(value));
  }
  const of = (key: string, otherwise: number) => fields.get(key) ?? otherwise;
  const shape = {
    headDim: of('d', 128),
    group: of('g', 4),
    kvHeads: of('kv', 8),
    context: of('ctx', 2048),
    sequences: of('rows', 1),
    chunk: of('chunk', 1),
  };
  if (shape.chunk > shape.context) throw new UsageError(`a chunk of ${shape.chunk} needs as long a context: ${text}`);
  return shape;
}

function wholeNumber(flag: string, text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new UsageError(`--${flag} is a whole number of at least 1, found "${text}"`);
  return Number(text);
}

export const PEERS = ['tfjs', 'onnx-web', 'onnx-node', 'onnx-node-gqa', 'native'] as const;
export type PeerName = (typeof PEERS)[number];

/** @throws UsageError */
export function parseOptions(args: readonly string[]): Options {
  let values: ReturnType<typeof parse>['values'];
  const parse = () =>
    parseArgs({
      // A bare --peers means all of them.
      args: args.map((arg, i) => (arg === '--peers' && (args[i + 1] ?? '--').startsWith('--') ? '--peers=all' : arg)),
      options: {
        quick: { type: 'boolean', default: false },
        shape: { type: 'string', multiple: true },
        dtype: { type: 'string' },
        threads: { type: 'string' },
        dram: { type: 'boolean', default: false },
        cache: { type: 'boolean', default: false },
        megabytes: { type: 'string', default: '192' },
        'block-tokens': { type: 'string' },
        scattered: { type: 'string' },
        repetitions: { type: 'string' },
        bound: { type: 'string' },
        peers: { type: 'string' },
        overhead: { type: 'boolean', default: false },
        'no-overhead': { type: 'boolean', default: false },
        'no-kernels': { type: 'boolean', default: false },
        markdown: { type: 'boolean', default: false },
        json: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    });
  try {
    ({ values } = parse());
  } catch (error) {
    throw new UsageError(`${(error as Error).message}\n\n${USAGE}`);
  }
  if (values.help) throw new UsageError(USAGE);
  const threads = (values.threads ?? [...new Set([1, availableParallelism()])].join(',')).split(',');
  const counts = threads.map((text) => wholeNumber('threads', text));
  const kvDtypes = (values.dtype ?? KV_DTYPES.join(',')).split(',').map((name) => {
    const dtype = KV_DTYPES.find((known) => known === name);
    if (dtype === undefined) throw new UsageError(`--dtype is of ${KV_DTYPES.join(', ')}, found "${name}"`);
    return dtype;
  });
  const given = values.shape?.map(parseShape);
  const both = values.dram === values.cache;
  const dram = given ?? (values.quick ? QUICK : DEFAULT);
  const cached = given ?? (values.quick ? CACHE.slice(2, 3) : CACHE);
  const peers = values.peers === undefined ? [] : values.peers === 'all' ? [...PEERS] : values.peers.split(',');
  for (const name of peers) {
    if (!PEERS.some((known) => known === name)) {
      throw new UsageError(`--peers are of ${PEERS.join(', ')}, found "${name}"`);
    }
  }
  return {
    works: [
      ...(both || values.dram ? dram.map((shape) => ({ ...shape, place: 'dram' }) as const) : []),
      ...((both && given === undefined) || values.cache ? cached.map((shape) => inCache(shape, 1)) : []),
    ],
    kvDtypes,
    threads: counts,
    dramBytes: wholeNumber('megabytes', values.megabytes) * 2 ** 20,
    blockTokens: values['block-tokens'] === undefined ? undefined : wholeNumber('block-tokens', values['block-tokens']),
    placements: values.scattered === undefined ? null : values.scattered.split(',').map(parsePlacement),
    repetitions: wholeNumber('repetitions', values.repetitions ?? (values.quick ? '9' : '15')),
    bound: values.bound === undefined ? DEFAULT_BOUND : wholeNumber('bound', values.bound) / 100,
    peers,
    sections: {
      kernels: !values.overhead && !values['no-kernels'],
      overhead: values.overhead || !values['no-overhead'],
    },
    markdown: values.markdown,
    json: values.json ?? null,
  };
}
