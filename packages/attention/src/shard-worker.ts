/**
 * A shard's worker and its way of being told what to do: a ring of commands in shared memory with two counters, how many were
 * submitted and how many are done. Both sides wait on the other's counter, so that a command costs no message, no copy and
 * no allocation. Commands are done in the order in which they were submitted.
 */
import { CapacityError } from '@glinthawk/core';
import { instantiateKernel } from './kernel.ts';
import type { ShardWorkerData } from './platform.ts';

const SUBMITTED = 0; // Int32 indices
const DONE = 1;
const BUSY_MS = 1; // Float64 index
const COMMANDS = 16; // Int32 index of the ring: step, layer, qkv, output, totals of each command
const COMMAND_FIELDS = 5;
/** Attends of one shard that wait at the same time; each is another step in flight. */
export const RING_COMMANDS = 256;
export const CONTROL_BYTES = 4 * (COMMANDS + COMMAND_FIELDS * RING_COMMANDS);

/** In the worker: never returns. Whatever the kernels throw ends the worker. */
export function runShardWorker(data: ShardWorkerData, ready: () => void): void {
  const kernel = instantiateKernel(data.module, data.memory);
  const control = new Int32Array(data.control);
  const busy = new Float64Array(data.control, 0, BUSY_MS + 1);
  ready();
  for (let done = 0; ; done = (done + 1) | 0) {
    while (Atomics.load(control, SUBMITTED) === done) Atomics.wait(control, SUBMITTED, done);
    const started = performance.now();
    const at = commandIndex(done);
    const [step, layer, qkv, output, totals] = control.subarray(at, at + COMMAND_FIELDS) as unknown as Command;
    kernel.attend(data.config, step, layer, qkv, output, totals);
    busy[BUSY_MS] = (busy[BUSY_MS] ?? 0) + performance.now() - started;
    Atomics.store(control, DONE, (done + 1) | 0);
    Atomics.notify(control, DONE);
  }
}

type Command = readonly [step: number, layer: number, qkv: number, output: number, totals: number];

function commandIndex(count: number): number {
  return COMMANDS + COMMAND_FIELDS * (count & (RING_COMMANDS - 1));
}

interface Pending {
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/**
 * The other end, in the thread that owns the shard. Never blocks it: Atomics.waitAsync takes 12–16 µs there and back where a
 * message from the worker takes 17–19 (medians, Node 24, busy machine).
 */
export class CommandQueue {
  readonly #control: Int32Array;
  readonly #busy: Float64Array;
  readonly #pending: Pending[] = []; // in the order of submission
  readonly #onActive: (active: boolean) => void;
  #submitted = 0;
  #done = 0;
  #failure: Error | null = null;

  /** @param onActive called when the first command is under way, and when none is any more */
  constructor(control: SharedArrayBuffer, onActive: (active: boolean) => void) {
    this.#control = new Int32Array(control);
    this.#busy = new Float64Array(control, 0, BUSY_MS + 1);
    this.#onActive = onActive;
  }

  get busyMs(): number {
    return this.#busy[BUSY_MS] ?? 0;
  }

  submit(command: Command): Promise<void> {
    if (this.#failure !== null) return Promise.reject(this.#failure);
    if (this.#pending.length === RING_COMMANDS) {
      return Promise.reject(
        new CapacityError('ATTENTION_QUEUE', `${RING_COMMANDS} attends of one shard are waiting already`, {
          hint: 'have fewer micro-batches in flight',
        }),
      );
    }
    this.#control.set(command, commandIndex(this.#submitted));
    this.#submitted = (this.#submitted + 1) | 0;
    return new Promise((resolve, reject) => {
      this.#pending.push({ resolve, reject });
      Atomics.store(this.#control, SUBMITTED, this.#submitted);
      Atomics.notify(this.#control, SUBMITTED);
      if (this.#pending.length === 1) {
        this.#onActive(true);
        this.#listen();
      }
    });
  }

  /** Rejects what is under way and whatever comes. */
  fail(error: Error): void {
    this.#failure = error;
    for (const { reject } of this.#pending.splice(0)) reject(error);
    // Wakes the listener of #listen, which then finds nothing to wait for.
    Atomics.notify(this.#control, DONE);
  }

  #listen(): void {
    for (;;) {
      this.#collect();
      if (this.#pending.length === 0) {
        this.#onActive(false);
        return;
      }
      const wait = Atomics.waitAsync(this.#control, DONE, this.#done);
      if (wait.async) {
        wait.value.then(() => this.#listen());
        return;
      }
    }
  }

  #collect(): void {
    const done = Atomics.load(this.#control, DONE);
    while (this.#done !== done && this.#pending.length > 0) {
      this.#done = (this.#done + 1) | 0;
      this.#pending.shift()?.resolve();
    }
  }
}
