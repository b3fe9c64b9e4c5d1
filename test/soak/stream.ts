/**
 * One of the streams of a soak, each a process of its own, so that what memory it takes is its own and all are reproducible one by one:
 * `short` opens, fills and closes one backend after another, `local` and `tcp` keep one for the whole time, the latter behind a node
 * and its connection. Started by main.ts, which it tells what happens.
 */
import { type Counts, noCounts } from './counts.ts';
import { type MemorySample, type MemoryTrend, trendsOf } from './memory-trend.ts';
import { longPhaseOf, type Phase, phaseOf, phaseText } from './phase.ts';
import { runPhase } from './run-phase.ts';
import { Mismatch, type Traffic } from './traffic.ts';

export const STREAMS = ['short', 'local', 'tcp'] as const;
export type StreamName = (typeof STREAMS)[number];

export interface StreamSettings {
  readonly stream: StreamName;
  readonly seed: number;
  readonly minutes: number;
  /** Of each backend. */
  readonly actions: number;
  /** Of `short`: the first one, how many, and on which paths. */
  readonly phase: number;
  readonly phases: number;
  readonly paths: readonly string[];
  readonly verbose: boolean;
}

export interface StreamReport {
  readonly stream: StreamName;
  readonly counts: Counts;
  /** Backends opened. */
  readonly phases: number;
  readonly residentBytes: number;
}

export type StreamMessage =
  | { readonly type: 'progress'; readonly report: StreamReport }
  | { readonly type: 'said'; readonly text: string }
  | { readonly type: 'failed'; readonly text: string; readonly again: string }
  | { readonly type: 'done'; readonly report: StreamReport; readonly trends: readonly MemoryTrend[] };

const SAMPLE_EVERY_MS = 2000;
const PROGRESS_EVERY_MS = 2000;
/** No action takes nearly as long: what doesn't end in it never will. */
const STUCK_AFTER_MS = 60_000;

class Stream {
  readonly #settings: StreamSettings;
  readonly #tell: (message: StreamMessage) => void;
  readonly #counts = noCounts();
  readonly #samples: MemorySample[] = [];
  readonly #endsAtMs: number;
  #phases = 0;
  #current: { readonly phase: Phase; readonly again: string; traffic?: Traffic } | undefined;
  #isStopped = false;

  constructor(settings: StreamSettings, tell: (message: StreamMessage) => void) {
    this.#settings = settings;
    this.#tell = tell;
    this.#endsAtMs = performance.now() + 60_000 * settings.minutes;
  }

  stop(): void {
    this.#isStopped = true;
  }

  /** @returns whether all was as it should be */
  async run(): Promise<boolean> {
    const progress = setInterval(() => this.#tell({ type: 'progress', report: this.#report() }), PROGRESS_EVERY_MS);
    const guard = this.#guard();
    try {
      if (this.#settings.stream === 'short') await this.#runShort();
      else await this.#runLong(this.#settings.stream);
    } catch (error) {
      if (!(error instanceof Mismatch)) throw error;
      this.#fail(error.message, error.cause);
      return false;
    } finally {
      clearInterval(progress);
      clearInterval(guard);
    }
    const trends = trendsOf(this.#samples);
    this.#tell({ type: 'done', report: this.#report(), trends });
    return true;
  }

  async #runShort(): Promise<void> {
    const { seed, phase: first, phases, paths, actions } = this.#settings;
    for (let index = first; index < first + phases && !this.#isOver; index++) {
      const phase = phaseOf(seed, index);
      if (!paths.includes(phase.path)) continue;
      await this.#runPhase(phase, actions, `--streams short --phase ${index} --phases 1 --actions ${actions}`);
      this.#sample(0);
    }
  }

  /** One backend, of which samples are taken while it is full. */
  async #runLong(path: 'local' | 'tcp'): Promise<void> {
    await this.#runPhase(longPhaseOf(this.#settings.seed, path), Number.MAX_SAFE_INTEGER, `--streams ${path}`);
  }

  async #runPhase(phase: Phase, actions: number, again: string): Promise<void> {
    this.#current = { phase, again };
    this.#phases++;
    if (this.#settings.verbose || phase.isLong) this.#tell({ type: 'said', text: phaseText(phase) });
    await runPhase(phase, actions, this.#counts, {
      stop: () => this.#isOver,
      began: (traffic) => {
        if (this.#current !== undefined) this.#current.traffic = traffic;
      },
      atRest: (wasmBytes) => {
        if (phase.isLong) this.#sample(wasmBytes);
      },
    });
  }

  get #isOver(): boolean {
    return this.#isStopped || performance.now() >= this.#endsAtMs;
  }

  #report(): StreamReport {
    const residentBytes = process.memoryUsage.rss();
    return { stream: this.#settings.stream, counts: this.#counts, phases: this.#phases, residentBytes };
  }

  #sample(wasmBytes: number): void {
    const atMs = performance.now();
    if (atMs - (this.#samples.at(-1)?.atMs ?? 0) < SAMPLE_EVERY_MS) return;
    globalThis.gc?.({ type: 'major', execution: 'sync', flavor: 'last-resort' });
    const { heapUsed, arrayBuffers, rss } = process.memoryUsage();
    this.#samples.push({ atMs, heapBytes: heapUsed + arrayBuffers, residentBytes: rss, wasmBytes });
  }

  /** Says where it is when nothing goes on any more, and ends the process. */
  #guard(): NodeJS.Timeout {
    let actions = -1;
    let sinceMs = performance.now();
    return setInterval(() => {
      if (this.#counts.actions !== actions) {
        actions = this.#counts.actions;
        sinceMs = performance.now();
      } else if (performance.now() - sinceMs > STUCK_AFTER_MS) {
        this.#fail(`nothing has ended for ${STUCK_AFTER_MS / 1000} s at ${this.#current?.traffic?.where()}`, undefined);
        setTimeout(() => process.exit(1), 1000);
      }
    }, 1000);
  }

  #fail(what: string, cause: unknown): void {
    const { seed, verbose } = this.#settings;
    const phase = this.#current === undefined ? '' : phaseText(this.#current.phase);
    const stack = verbose && cause instanceof Error ? `\n${cause.stack}` : '';
    this.#tell({
      type: 'failed',
      text: `seed ${seed}, ${phase}\n  ${what}${stack}`,
      again: `node test/soak/main.ts --seed ${seed} ${this.#current?.again ?? ''}`,
    });
  }
}

/** In the process that main.ts starts. */
async function main(): Promise<void> {
  const settings = JSON.parse(process.argv[2] ?? '') as StreamSettings;
  const stream = new Stream(settings, (message) => process.send?.(message));
  process.on('SIGINT', () => {}); // a terminal tells it to all processes; main.ts says when to stop
  process.on('message', () => stream.stop());
  process.on('disconnect', () => process.exit(1)); // whoever started it is gone
  process.exitCode = (await stream.run()) ? 0 : 1;
  process.disconnect();
}

if (process.send !== undefined && process.argv[1] === import.meta.filename) await main();
