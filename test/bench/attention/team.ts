/**
 * The threads that do one piece of work together, each with a memory of its own. A command runs on all of them at the same
 * time and takes as long as from the first's begin to the last's end.
 */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { attentionKernelInfo } from '@glinthawk/attention';
import type { KvDtype } from '@glinthawk/core';
import { loadKernel } from '../../../packages/attention/src/kernel.ts';
import type { PageLayout } from '../../../packages/attention/src/page-layout.ts';
import { FRAMED, type Placement } from './placement.ts';
import {
  ARGUMENT,
  COMMAND,
  DONE,
  OPERATION,
  type Operation,
  operations,
  type ThreadData,
  type ThreadInfo,
  TIMES,
  TIMES_EACH,
} from './thread-protocol.ts';
import { pieceSequences, shareWork, type Work, type WorkData } from './work.ts';

const attentionPackage = join(import.meta.dirname, '../../../packages/attention');
let compiledPeaks: WebAssembly.Module | null = null;

/** Built when it is missing or old; the packages' own build leaves it out. */
async function peaksModule(): Promise<WebAssembly.Module> {
  if (compiledPeaks === null) {
    execFileSync(process.execPath, [join(attentionPackage, 'scripts/build-wasm.ts'), 'peaks'], { stdio: 'ignore' });
    const name = `peaks-${attentionKernelInfo().build}.wasm`;
    compiledPeaks = await WebAssembly.compile(await readFile(join(attentionPackage, 'bench/wasm', name)));
  }
  return compiledPeaks;
}

/** As many as the largest models have. Beyond, contexts are so short that a node's caches hold them anyway. */
const MAX_LAYERS = 80;

/** A model's layers follow one another, each with KV of its own: so many that no cache holds them. */
export function layersFor(work: Work, kvDtype: KvDtype, threads: number, dramBytes: number): number {
  if (work.place === 'cache') return 1;
  const elementBytes = kvDtype === 'f32' ? 4 : kvDtype.startsWith('int') ? 1 : 2;
  const layerBytes = work.sequences * work.kvHeads * work.context * 2 * work.headDim * elementBytes;
  return Math.min(MAX_LAYERS, Math.max(1, Math.ceil((dramBytes * threads) / layerBytes)));
}

export interface TeamOptions {
  readonly work: Work;
  readonly data: WorkData;
  readonly kvDtype: KvDtype;
  readonly threads: number;
  readonly layers: number;
  readonly blockTokens?: number | undefined;
  /** Default: each run in a frame of its own. */
  readonly placement?: Placement;
}

export class Team {
  readonly layout: PageLayout;
  readonly dtypeCode: number;
  /** Of all threads, all layers. */
  readonly kvBytes: number;
  readonly threads: number;
  /** `run('attend', pieces)` does the work of one layer. */
  readonly pieces: number;
  readonly #workers: readonly Worker[];
  readonly #control: Int32Array;
  readonly #times: Float64Array;
  readonly #output: Float32Array;
  #failure: unknown = null;
  #onProcessor = 1;

  static async start(options: TeamOptions): Promise<Team> {
    const { work, threads } = options;
    const shares = shareWork(work, threads);
    const piece = pieceSequences(work, shares);
    const control = new SharedArrayBuffer(8 * (TIMES + TIMES_EACH * threads));
    const rows = work.sequences * work.chunk;
    const output = new Float32Array(new SharedArrayBuffer(4 * rows * work.kvHeads * work.group * work.headDim));
    const [module, peaks] = [await loadKernel(attentionKernelInfo().build, true), await peaksModule()];
    const started = shares.map(async (share, index) => {
      const common = {
        placement: FRAMED,
        ...options,
        module,
        peaks,
        control,
        output,
        threads: shares.length,
        pieceSequences: piece,
      };
      const data: ThreadData = { ...common, share, index };
      const worker = new Worker(new URL('./thread.ts', import.meta.url), { workerData: data, execArgv: [] });
      const [info] = (await once(worker, 'message')) as [ThreadInfo];
      return { worker, info };
    });
    const all = await Promise.all(started);
    return new Team(
      all.map(({ worker }) => worker),
      all.map(({ info }) => info),
      control,
      output,
      Math.max(...shares.map(({ sequences }) => sequences)) / piece,
    );
  }

  private constructor(
    workers: readonly Worker[],
    infos: readonly ThreadInfo[],
    control: SharedArrayBuffer,
    output: Float32Array,
    pieces: number,
  ) {
    this.pieces = pieces;
    this.#workers = workers;
    this.#control = new Int32Array(control);
    this.#times = new Float64Array(control);
    this.#output = output;
    this.threads = workers.length;
    ({ layout: this.layout, dtypeCode: this.dtypeCode } = infos[0] as ThreadInfo);
    this.kvBytes = infos.reduce((sum, { kvBytes }) => sum + kvBytes, 0);
    for (const worker of workers) {
      worker.on('error', (error) => {
        this.#failure = error;
        Atomics.notify(this.#control, DONE);
      });
    }
  }

  /** Milliseconds. */
  async run(operation: Operation, argument: number): Promise<number> {
    this.#control[OPERATION] = operations.indexOf(operation);
    this.#control[ARGUMENT] = argument;
    const until = (Atomics.add(this.#control, COMMAND, 1) + 1) * this.threads;
    Atomics.notify(this.#control, COMMAND);
    for (let done = 0; ; ) {
      done = Atomics.load(this.#control, DONE);
      if (this.#failure !== null) throw this.#failure;
      if (done === until) break;
      const wait = Atomics.waitAsync(this.#control, DONE, done, 1000);
      if (wait.async) await wait.value;
    }
    const of = (what: number) =>
      Array.from({ length: this.threads }, (_, i) => this.#times[TIMES + TIMES_EACH * i + what] as number);
    const [begins, ends, waited] = [of(0), of(1), of(2)];
    const [first, last] = [Math.min(...begins), Math.max(...ends)];
    // One that began after the others was kept from it.
    const lost = waited.map((ms, i) => ms + (begins[i] as number) - first);
    this.#onProcessor = 1 - Math.max(...lost) / (last - first);
    return last - first;
  }

  /** The share of the last command's time in which the thread that had it least had a processor. */
  get onProcessor(): number {
    return this.#onProcessor;
  }

  /** Attends once more in one layer. [sequences, chunk, kvHeads, group, headDim] */
  async output(): Promise<Float32Array> {
    await this.run('attend', this.pieces);
    await this.run('output', 0);
    return this.#output;
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}
