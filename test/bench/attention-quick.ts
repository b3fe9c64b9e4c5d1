/**
 * Speed of decode attention by shape, KV dtype and workers: GB/s of KV read, as a share of the read bandwidth that as many threads
 * reach in the same run; then prefill, and what handing an attend to a worker costs. Each figure is the best of several, as other
 * work on the machine only ever slows one down.
 * `node test/bench/attention-quick.ts [contextTokens] [megabytes of KV]`
 */
import { availableParallelism, cpus } from 'node:os';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { type AttentionBackend, attentionKernelInfo } from '@glinthawk/attention';
import { type AttentionGeometry, outputRowFloats, qkvRowFloats } from '@glinthawk/core';
import { instantiateKernel, loadKernel } from '../../packages/attention/src/kernel.ts';
import { platform } from '../../packages/attention/src/platform.node.ts';
import type { ShardWorkerData } from '../../packages/attention/src/platform.ts';
import { createPool } from '../../packages/attention/src/pool.ts';
import { createMemory, HEAP_BASE } from '../../packages/attention/src/wasm-heap.ts';
import { fillNormal, kvDtypes, randomSource } from '../kernels/attention-cases.ts';

const READ_BYTES = 256 << 20;
const REPETITIONS = 7;
const CHUNK = 256;

const contextTokens = Number(process.argv[2] ?? 2048);
const kvBytes = Number(process.argv[3] ?? 128) * 2 ** 20;

/** GB/s that this thread reads in order from memory that no cache holds. */
async function readBandwidth(): Promise<number> {
  const memory = createMemory({ staging: 0, kept: READ_BYTES }, false);
  memory.grow(READ_BYTES / 65536);
  new Uint8Array(memory.buffer, HEAP_BASE).fill(1);
  const kernel = instantiateKernel(await loadKernel(attentionKernelInfo().build, false), memory);
  const rates: number[] = [];
  for (let i = 0; i < REPETITIONS + 2; i++) {
    const started = performance.now();
    kernel.read_memory(HEAP_BASE, READ_BYTES);
    rates.push(READ_BYTES / (performance.now() - started) / 1e6);
  }
  return Math.max(...rates.slice(2));
}

async function readBandwidths(threads: number): Promise<number> {
  const all = Array.from(
    { length: threads },
    () =>
      new Promise<number>((resolve, reject) => {
        const worker = new Worker(new URL(import.meta.url), { workerData: 'read' });
        worker.once('message', resolve).once('error', reject);
      }),
  );
  return (await Promise.all(all)).reduce((a, b) => a + b, 0);
}

interface Pool {
  readonly backend: AttentionBackend;
  /** The kernels' own copy of the layer's window, by shard. */
  readonly windows: Uint32Array[];
}

const WINDOWS_FIELD = 11; // after the fields of Config in kernels/layout.h

async function createBenchPool(
  geometry: AttentionGeometry,
  kvDtype: (typeof kvDtypes)[number],
  workers: number,
): Promise<Pool> {
  const started: ShardWorkerData[] = [];
  const watched = {
    ...platform,
    startWorker: (data: ShardWorkerData, onGone: (error: Error) => void) => {
      started.push(data);
      return platform.startWorker(data, onGone);
    },
  };
  const backend = await createPool(geometry, { kvDtype, workers, memoryBytes: 4 * kvBytes }, watched);
  const windows = started.map(({ memory, config }) => new Uint32Array(memory.buffer, config + 4 * WINDOWS_FIELD, 1));
  return { backend, windows };
}

let stepId = 0;
async function attend(
  backend: AttentionBackend,
  entries: readonly { readonly index: number; readonly position: number; readonly count: number }[],
  qkv: Float32Array,
  output: Float32Array,
): Promise<number> {
  const id = stepId++;
  backend.announce({
    id,
    entries: entries.map(({ index, ...rest }) => ({ slot: { index, generation: 0 }, ...rest })),
  });
  const started = performance.now();
  await backend.attend(id, 0, qkv, output);
  const elapsed = performance.now() - started;
  backend.retire(id);
  return elapsed;
}

async function decode(
  name: string,
  [kvHeads, groupSize, headDim]: readonly [number, number, number],
  workers: number,
  bandwidth: number,
): Promise<void> {
  const geometry: AttentionGeometry = {
    layers: 1,
    kvHeads,
    groupSize,
    headDim,
    softmaxScale: 1 / Math.sqrt(headDim),
    windows: [0],
    maxContextTokens: contextTokens + 64,
  };
  const random = randomSource(1);
  for (const kvDtype of kvDtypes) {
    const { backend, windows } = await createBenchPool(geometry, kvDtype, workers);
    const { blockBytes, blockTokens } = backend.capacity;
    const tokenBytes = blockBytes / blockTokens;
    const sequences = Math.max(workers, Math.round(kvBytes / (tokenBytes * contextTokens) / workers) * workers);
    const shardOf = (index: number) => Math.floor((index * workers) / sequences);
    for (let index = 0; index < sequences; index++) backend.open({ index, generation: 0 }, shardOf(index));
    // Filling would take longest: a window of 1 while it lasts leaves little but the append. Sequences take turns, in no order.
    for (const window of windows) window[0] = 1;
    const rows = Math.max(CHUNK, sequences);
    const qkv = fillNormal(new Float32Array(rows * qkvRowFloats(geometry)), random);
    const output = new Float32Array(rows * outputRowFloats(geometry));
    for (let position = 0; position < contextTokens; position += CHUNK) {
      const order = Array.from({ length: sequences }, (_, index) => ({ index, key: random() })).sort(
        (a, b) => a.key - b.key,
      );
      const count = Math.min(CHUNK, contextTokens - position);
      for (const { index } of order) await attend(backend, [{ index, position, count }], qkv, output);
    }
    for (const window of windows) window[0] = 0;
    const entries = Array.from({ length: sequences }, (_, index) => ({ index, position: contextTokens, count: 1 }));
    const times: number[] = [];
    for (let i = 0; i < REPETITIONS; i++) times.push(await attend(backend, entries, qkv, output));
    const seconds = Math.min(...times) / 1000;
    const rate = (sequences * contextTokens * tokenBytes) / seconds / 1e9;
    const flops = (sequences * contextTokens * kvHeads * groupSize * headDim * 4) / seconds / 1e9;
    console.log(
      `${name.padEnd(22)} ${kvDtype.padEnd(5)} ${workers} worker${workers === 1 ? ' ' : 's'} page ${(blockBytes / kvHeads / 1024).toFixed(0).padStart(3)} KiB` +
        `  ${rate.toFixed(1).padStart(5)} GB/s = ${((100 * rate) / bandwidth).toFixed(0).padStart(3)} % of read  ${flops.toFixed(1).padStart(5)} GFLOP/s`,
    );
    await backend.close();
  }
}

async function prefill(): Promise<void> {
  const [kvHeads, groupSize, headDim, tokens] = [2, 4, 128, 2048];
  const geometry: AttentionGeometry = {
    layers: 1,
    kvHeads,
    groupSize,
    headDim,
    softmaxScale: 1 / Math.sqrt(headDim),
    windows: [0],
    maxContextTokens: tokens,
  };
  for (const kvDtype of kvDtypes) {
    const { backend } = await createBenchPool(geometry, kvDtype, 1);
    backend.open({ index: 0, generation: 0 }, 0);
    const qkv = fillNormal(new Float32Array(CHUNK * qkvRowFloats(geometry)), randomSource(2));
    const output = new Float32Array(CHUNK * outputRowFloats(geometry));
    let best = Number.POSITIVE_INFINITY;
    for (let round = 0; round < 4; round++) {
      let milliseconds = 0;
      for (let position = 0; position < tokens; position += CHUNK) {
        milliseconds += await attend(backend, [{ index: 0, position, count: CHUNK }], qkv, output);
      }
      best = Math.min(best, milliseconds);
    }
    const flops = ((tokens * (tokens + 1)) / 2) * kvHeads * groupSize * headDim * 4;
    console.log(
      `prefill of ${tokens} tokens by ${CHUNK}, group ${groupSize}, head_dim ${headDim}, ${kvDtype}, 1 worker: ${(flops / best / 1e6).toFixed(1)} GFLOP/s`,
    );
    await backend.close();
  }
}

async function handOver(): Promise<void> {
  const geometry = {
    layers: 1,
    kvHeads: 1,
    groupSize: 1,
    headDim: 8,
    softmaxScale: 1,
    windows: [0],
    maxContextTokens: 64,
  };
  const { backend } = await createBenchPool(geometry, 'f32', 1);
  const slot = { index: 0, generation: 0 };
  backend.open(slot, 0);
  backend.announce({ id: -1, entries: [{ slot, position: 0, count: 1 }] });
  const [qkv, output] = [new Float32Array(24), new Float32Array(8)];
  const times: number[] = [];
  for (let i = 0; i < 3000; i++) {
    const started = performance.now();
    await backend.attend(-1, 0, qkv, output);
    times.push((performance.now() - started) * 1000);
    // Between attends an engine does other things, and the worker falls asleep.
    if (i % 2 === 0) await new Promise((resolve) => setTimeout(resolve, 0));
  }
  times.sort((a, b) => a - b);
  const at = (share: number) => (times[Math.floor(times.length * share)] ?? 0).toFixed(0);
  console.log(
    `hand-over of an attend of one row: median ${at(0.5)} µs, 10 % ${at(0.1)}, 90 % ${at(0.9)}, 99 % ${at(0.99)}`,
  );
  await backend.close();
}

if (isMainThread) {
  const { build } = attentionKernelInfo();
  console.log(
    `${cpus()[0]?.model}, Node ${process.version}, ${build} SIMD, context ${contextTokens}, ${kvBytes / 2 ** 20} MiB of KV`,
  );
  const most = Math.min(2, availableParallelism());
  for (let workers = 1; workers <= most; workers++) {
    const bandwidth = await readBandwidths(workers);
    console.log(`\n${workers} thread${workers === 1 ? '' : 's'} read ${bandwidth.toFixed(1)} GB/s`);
    await decode('head_dim 128, group 1', [8, 1, 128], workers, bandwidth);
    await decode('head_dim 128, group 4', [8, 4, 128], workers, bandwidth);
    await decode('head_dim 128, group 8', [8, 8, 128], workers, bandwidth);
    await decode('head_dim 64, group 3', [3, 3, 64], workers, bandwidth);
  }
  console.log();
  await prefill();
  await handOver();
} else if (workerData === 'read') {
  parentPort?.postMessage(await readBandwidth());
}
