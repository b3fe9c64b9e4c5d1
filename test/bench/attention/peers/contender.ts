/** Somebody who does the work: ours in worker threads, a library in a process of its own, or several processes together. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import type { KvDtype } from '@glinthawk/core';
import { measureCeilings } from '../measure.ts';
import type { Team } from '../team.ts';
import { type Share, shareWork, type Work } from '../work.ts';
import { leastMs } from './goals.ts';
import type { Answer, PeerKind, Request, Task } from './task.ts';

export interface Contender {
  readonly name: string;
  /** Precision of KV. */
  readonly kv: string;
  readonly note: string;
  /** Has threads of its own, which may not rest between runs. */
  readonly hasOwnThreads: boolean;
  /** KV of one layer. */
  readonly bytes: number;
  /** What the machine allows a layer, as it is now; null where that isn't known. Milliseconds. */
  readonly least: (() => Promise<number>) | null;
  /** All layers once; milliseconds of one layer. */
  run(): Promise<number>;
  /** Of the first layer, after a run. [sequences, chunk, kvHeads, group, headDim] */
  output(): Promise<Float32Array>;
  close(): Promise<void>;
}

export function ourContender(team: Team, work: Work, kv: KvDtype, layers: number, bytes: number): Contender {
  return {
    name: 'glinthawk',
    kv,
    note: '',
    hasOwnThreads: false,
    bytes,
    least: async () => leastMs(work, kv, bytes, await measureCeilings(team)),
    run: async () => (await team.run('attend', layers * team.pieces)) / layers,
    output: () => team.output(),
    close: () => team.close(),
  };
}

/** A peer's process, asked one thing at a time. */
class PeerProcess {
  readonly #child: ChildProcess;
  #waiting: { readonly resolve: (answer: Answer) => void; readonly reject: (error: Error) => void } | null = null;
  #complaints = '';

  constructor() {
    this.#child = fork(new URL('./process.ts', import.meta.url), {
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    });
    this.#child.stderr?.on('data', (chunk) => {
      this.#complaints = (this.#complaints + chunk).slice(-500);
    });
    this.#child.on('message', (answer: Answer) => {
      const waiting = this.#waiting;
      this.#waiting = null;
      if (answer.what === 'failed') waiting?.reject(new Error(answer.reason));
      else waiting?.resolve(answer);
    });
    this.#child.once('exit', (code, signal) => {
      this.#waiting?.reject(new Error(`its process ended (${signal ?? code}) ${this.#complaints.trim()}`));
      this.#waiting = null;
    });
  }

  ask(request: Request): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      this.#child.send(request, (error) => {
        if (error !== null) reject(error);
      });
    });
  }

  async close(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, 'exit');
    this.#child.kill();
    await ended;
  }
}

/** Puts what the shares computed into one array. */
export function joinShares(
  work: Work,
  parts: readonly { readonly share: Share; readonly output: Float32Array }[],
): Float32Array {
  const { chunk, kvHeads, group, headDim, sequences } = work;
  const headFloats = group * headDim;
  const whole = new Float32Array(sequences * chunk * kvHeads * headFloats);
  for (const { share, output } of parts) {
    const width = share.kvHeads * headFloats;
    for (let row = 0; row < share.sequences * chunk; row++) {
      const to = ((share.firstSequence * chunk + row) * kvHeads + share.firstHead) * headFloats;
      whole.set(output.subarray(row * width, (row + 1) * width), to);
    }
  }
  return whole;
}

export interface Timed {
  readonly begun: number;
  readonly ended: number;
}

export function elapsed(parts: readonly Timed[]): number {
  return Math.max(...parts.map(({ ended }) => ended)) - Math.min(...parts.map(({ begun }) => begun));
}

/** @throws Error when it can't do the work, in its own words */
export async function libraryContender(
  kind: PeerKind,
  work: Work,
  threads: number,
  layers: number,
): Promise<Contender> {
  // A library with threads of its own gets all of the work, one without is started as often as there are threads.
  const shares = shareWork(work, kind === 'tfjs' ? threads : 1);
  const processes = shares.map(() => new PeerProcess());
  const close = async () => {
    await Promise.all(processes.map((one) => one.close()));
  };
  const all = (requestOf: (share: Share) => Request) =>
    Promise.all(processes.map((one, i) => one.ask(requestOf(shares[i] as Share))));
  const taskOf = (share: Share): Task => ({
    kind,
    work: { ...work, sequences: share.sequences, kvHeads: share.kvHeads },
    whole: work,
    share,
    layers,
    threads,
  });
  try {
    const started = await all((share) => ({ what: 'start', task: taskOf(share) }));
    const [first] = started;
    return {
      name: kind === 'onnx-node-gqa' ? 'onnx-node GQA' : kind,
      kv: 'f32',
      hasOwnThreads: kind !== 'tfjs',
      note: first?.what === 'started' ? first.note : '',
      bytes: work.sequences * work.kvHeads * work.context * work.headDim * 8,
      least: null,
      async run() {
        const answers = await all(() => ({ what: 'run' }));
        return elapsed(answers.filter((answer) => answer.what === 'ran')) / layers;
      },
      async output() {
        const answers = await all(() => ({ what: 'output' }));
        const parts = answers.flatMap((answer, i) =>
          answer.what === 'output' ? [{ share: shares[i] as Share, output: answer.output }] : [],
        );
        return joinShares(work, parts);
      },
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}
