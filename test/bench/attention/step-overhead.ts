/**
 * What a step of decode costs beyond the kernels: announcing, handing over to workers, copying q, k, v in and o out, and for a
 * node on loopback TCP framing and sockets. One micro-batch at a time, so nothing of it is hidden behind another's kernels.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import type { AttentionBackend } from '@glinthawk/attention';
import { remoteSource } from '@glinthawk/attention/node';
import { type AttentionGeometry, type KvDtype, outputRowFloats, qkvRowFloats } from '@glinthawk/core';
import { fillNormal, randomSource } from '../../kernels/attention-cases.ts';
import { spreadOf } from './measure.ts';
import type { Options } from './options.ts';
import { percent, type Table } from './table.ts';
import { createWatchedPool } from './watched-pool.ts';

export interface OverheadResult {
  readonly where: 'local' | 'remote';
  readonly kvDtype: KvDtype;
  readonly workers: number;
  /** A step of one layer, each time; and of it the kernels of the worker that had the most to do. */
  readonly steps: readonly { readonly stepMs: number; readonly kernelMs: number }[];
}

/** A layer of Llama-3-8B, twice. */
const GEOMETRY: AttentionGeometry = {
  layers: 2,
  kvHeads: 8,
  groupSize: 4,
  headDim: 128,
  softmaxScale: 1 / Math.sqrt(128),
  windows: [0, 0],
  maxContextTokens: 8192,
};
const ROWS = 32;
const CONTEXT = 2048;
const FILL_TOKENS = 256;
const MEMORY_BYTES = 2.5 * 2 ** 30;
const ROUNDS = 7;
const STEPS_A_ROUND = 4;

interface Place {
  readonly where: OverheadResult['where'];
  readonly backend: AttentionBackend;
  setWindow(tokens: number): Promise<void>;
  busyMs(): Promise<readonly number[]>;
  close(): Promise<void>;
}

async function localPlace(kvDtype: KvDtype, workers: number): Promise<Place> {
  const { backend, setWindow, busyMs } = await createWatchedPool(GEOMETRY, kvDtype, workers, MEMORY_BYTES);
  return {
    where: 'local',
    backend,
    setWindow: async (tokens) => setWindow(tokens),
    busyMs: async () => busyMs(),
    close: () => backend.close(),
  };
}

async function remotePlace(kvDtype: KvDtype, workers: number): Promise<Place> {
  const child = fork(new URL('./step-node.ts', import.meta.url), [String(workers), String(MEMORY_BYTES)]);
  const [url] = (await once(child, 'message')) as [string];
  const ask = async (request: { readonly window?: number }): Promise<readonly number[]> => {
    const answered = once(child, 'message');
    child.send(request);
    const [busyMs] = (await answered) as [readonly number[]];
    return busyMs;
  };
  const backend = await remoteSource(url).connect(GEOMETRY, { kvDtype, fingerprint: 'bench' });
  return {
    where: 'remote',
    backend,
    async setWindow(window) {
      await ask({ window });
    },
    busyMs: () => ask({}),
    async close() {
      await backend.close();
      const ended = once(child, 'exit');
      child.disconnect();
      await ended;
    },
  };
}

/** Steps of all layers, and gives the time of them all. */
class Stepper {
  readonly #backend: AttentionBackend;
  readonly #qkv = fillNormal(new Float32Array(FILL_TOKENS * qkvRowFloats(GEOMETRY)), randomSource(3));
  readonly #output = new Float32Array(FILL_TOKENS * outputRowFloats(GEOMETRY));
  #id = 0;

  constructor(backend: AttentionBackend) {
    this.#backend = backend;
  }

  async step(
    entries: readonly { readonly index: number; readonly position: number; readonly count: number }[],
  ): Promise<void> {
    const id = this.#id++;
    const rows = entries.reduce((sum, { count }) => sum + count, 0);
    const qkv = this.#qkv.subarray(0, rows * qkvRowFloats(GEOMETRY));
    const output = this.#output.subarray(0, rows * outputRowFloats(GEOMETRY));
    this.#backend.announce({
      id,
      entries: entries.map(({ index, ...rest }) => ({ slot: { index, generation: 1 }, ...rest })),
    });
    for (let layer = 0; layer < GEOMETRY.layers; layer++) await this.#backend.attend(id, layer, qkv, output);
    this.#backend.retire(id);
  }
}

async function fill(place: Place, stepper: Stepper): Promise<void> {
  const shards = place.backend.capacity.shards.length;
  for (let index = 0; index < ROWS; index++) {
    place.backend.open({ index, generation: 1 }, Math.floor((index * shards) / ROWS));
  }
  await place.setWindow(1);
  for (let position = 0; position < CONTEXT; position += FILL_TOKENS) {
    for (let index = 0; index < ROWS; index++) await stepper.step([{ index, position, count: FILL_TOKENS }]);
  }
  await place.setWindow(0);
}

async function measurePlaces(kvDtype: KvDtype, workers: number): Promise<OverheadResult[]> {
  const entries = Array.from({ length: ROWS }, (_, index) => ({ index, position: CONTEXT - 1, count: 1 }));
  const places = [await localPlace(kvDtype, workers), await remotePlace(kvDtype, workers)];
  try {
    const all = places.map((place) => ({
      place,
      stepper: new Stepper(place.backend),
      steps: [] as { stepMs: number; kernelMs: number }[],
    }));
    for (const { place, stepper } of all) await fill(place, stepper);
    for (let round = -1; round < ROUNDS; round++) {
      for (const { place, stepper, steps } of all) {
        for (let i = 0; i < STEPS_A_ROUND; i++) {
          const before = await place.busyMs();
          const begun = performance.now();
          await stepper.step(entries);
          const stepMs = (performance.now() - begun) / GEOMETRY.layers;
          const after = await place.busyMs();
          const kernelMs = Math.max(...after.map((ms, worker) => ms - (before[worker] ?? 0))) / GEOMETRY.layers;
          if (round >= 0) steps.push({ stepMs, kernelMs }); // the first are to warm up
        }
      }
    }
    return all.map(({ place, steps }) => ({ where: place.where, kvDtype, workers, steps }));
  } finally {
    for (const place of places) await place.close();
  }
}

const HAND_OVERS = 2000;

/** An attend of one row of one small head: all but the hand-over to a worker and back is nothing. */
async function measureHandOver(): Promise<string> {
  const geometry = { ...GEOMETRY, layers: 1, kvHeads: 1, groupSize: 1, headDim: 8, windows: [0], maxContextTokens: 64 };
  const { backend } = await createWatchedPool(geometry, 'f32', 1, 64 << 20);
  try {
    const slot = { index: 0, generation: 1 };
    backend.open(slot, 0);
    backend.announce({ id: 0, entries: [{ slot, position: 0, count: 1 }] });
    const [qkv, output] = [new Float32Array(qkvRowFloats(geometry)), new Float32Array(outputRowFloats(geometry))];
    const times: number[] = [];
    for (let i = 0; i < HAND_OVERS; i++) {
      const begun = performance.now();
      await backend.attend(0, 0, qkv, output);
      times.push(1000 * (performance.now() - begun));
      // Between attends an engine does other things, and the worker falls asleep.
      if (i % 2 === 0) await new Promise((resolve) => setTimeout(resolve, 0));
    }
    const { low, median, high } = spreadOf(times);
    return `Handing one row to a worker and back: ${median.toFixed(0)} µs (quartiles ${low.toFixed(0)} and ${high.toFixed(0)}).`;
  } finally {
    await backend.close();
  }
}

export interface Overhead {
  readonly title: string;
  readonly results: readonly OverheadResult[];
  readonly table: Table;
  readonly handOver: string;
}

export async function measureOverhead(options: Options): Promise<Overhead> {
  const results: OverheadResult[] = [];
  const workers = Math.max(...options.threads);
  // The dtypes whose kernels take longest and shortest, unless others are asked for.
  const kvDtypes = options.kvDtypes.filter((dtype, _, all) => all.length < 3 || dtype === 'f32' || dtype === 'int8');
  for (const kvDtype of kvDtypes) results.push(...(await measurePlaces(kvDtype, workers)));
  const rows = results.map(({ where, kvDtype, steps }) => {
    const median = (of: (step: (typeof steps)[number]) => number) => spreadOf(steps.map(of)).median;
    const shares = steps.map(({ stepMs, kernelMs }) => 1 - kernelMs / stepMs);
    return [
      where === 'local' ? 'local pool' : 'node, loopback TCP',
      kvDtype,
      String(workers),
      median(({ stepMs }) => stepMs).toFixed(2),
      median(({ kernelMs }) => kernelMs).toFixed(2),
      median(({ stepMs, kernelMs }) => stepMs - kernelMs).toFixed(2),
      percent(spreadOf(shares).median),
      percent(spreadOf(shares).low),
    ];
  });
  return {
    title: `A step beyond the kernels: ${ROWS} rows, context ${CONTEXT}, head_dim 128, group 4, 8 KV heads, f32 on the wire; ms a layer`,
    results,
    handOver: await measureHandOver(),
    table: { heads: ['', 'KV', 'workers', 'step', 'kernels', 'beyond', 'of the step', 'lower quartile'], rows },
  };
}
