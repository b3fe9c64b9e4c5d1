/**
 * How workers are told what to do: one ring of commands in shared memory for all of them. A command is a step's tasks in one memory;
 * workers take them one by one by compare-and-swap, without locks, and one that finds nothing left goes on to the next command. Both
 * sides wait on counters, so that a command costs no message, no copy and no allocation.
 *
 * A command's `next` word holds the lap of the ring beside the next task, so that a worker that lags can't take a later
 * command's task for one of its own. While the other fields are written, which is done only when the slot's last command is complete,
 * `next` is closed: of the new lap, so that nobody's swap succeeds, and beyond any task.
 */
import { CapacityError } from '@glinthawk/core';

const SUBMITTED = 0; // Int32 indices; counters may wrap
const COMPLETED = 1;
/** All commands before it are complete. */
const OLDEST = 2;
const COMMANDS = 16; // of the ring

const COMMAND_FIELDS = 8; // two commands a cache line
const MEMORY = 0;
const STEP = 1;
const LAYER = 2;
const TASKS = 3;
const NEXT = 4;
const DONE = 5;

const RING_BITS = 12;
/** Attends of all memories that may be under way at the same time. */
export const RING_COMMANDS = 1 << RING_BITS;
/** The rest of `next` is the lap: it comes around after half a billion commands. */
const TASK_BITS = 15;
const TASK_MASK = (1 << TASK_BITS) - 1;
const LAP_MASK = 2 ** (32 - TASK_BITS) - 1;

const RING_END = COMMANDS + COMMAND_FIELDS * RING_COMMANDS;
/** Times of workers follow the ring, each on a cache line of its own. */
const WORKER_FIELDS = 16;

function controlBytes(workers: number): number {
  return 4 * (RING_END + WORKER_FIELDS * workers);
}

function commandIndex(number: number): number {
  return COMMANDS + COMMAND_FIELDS * (number & (RING_COMMANDS - 1));
}

/** `next` of a command whose first task is still to be taken. */
function firstNext(number: number): number {
  return (((number >>> RING_BITS) & LAP_MASK) << TASK_BITS) | 0;
}

/** One number: milliseconds in which a worker ran tasks. */
export function busyTime(control: SharedArrayBuffer, worker: number): Float64Array {
  return new Float64Array(control, 4 * (RING_END + WORKER_FIELDS * worker), 1);
}

/** Runs one task. */
type RunTask = (memory: number, step: number, layer: number, task: number) => void;

/** In a worker: takes tasks for ever. Whatever `run` throws ends it. */
export function serveRing(control: SharedArrayBuffer, worker: number, run: RunTask): never {
  const ring = new Int32Array(control);
  const busy = busyTime(control, worker);
  for (let number = 0; ; number = (number + 1) | 0) {
    while (Atomics.load(ring, SUBMITTED) === number) Atomics.wait(ring, SUBMITTED, number);
    const oldest = Atomics.load(ring, OLDEST);
    if (((oldest - number) | 0) > 0) {
      number = (oldest - 1) | 0;
      continue;
    }
    const at = commandIndex(number);
    const lap = firstNext(number);
    let done = 0;
    let tasks = 0;
    let started = 0;
    for (;;) {
      const next = Atomics.load(ring, at + NEXT);
      const task = next & TASK_MASK;
      if ((next & ~TASK_MASK) !== lap || task === Atomics.load(ring, at + TASKS)) break;
      const memory = Atomics.load(ring, at + MEMORY);
      const step = Atomics.load(ring, at + STEP);
      const layer = Atomics.load(ring, at + LAYER);
      const all = Atomics.load(ring, at + TASKS);
      // While it has tasks left the command isn't complete: what was read is its own.
      if (Atomics.compareExchange(ring, at + NEXT, next, next + 1) !== next) continue;
      if (done === 0) started = performance.now();
      run(memory, step, layer, task);
      done++;
      tasks = all;
    }
    if (done === 0) continue;
    busy[0] = (busy[0] ?? 0) + performance.now() - started;
    if (Atomics.add(ring, at + DONE, done) + done === tasks) {
      Atomics.add(ring, COMPLETED, 1);
      Atomics.notify(ring, COMPLETED);
    }
  }
}

interface Pending {
  readonly tasks: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/**
 * The other end, in the thread that owns the workers. Never blocks it: Atomics.waitAsync takes 12–16 µs there and back where a
 * message from a worker takes 17–19 (medians, Node 24, busy machine).
 */
export class CommandRing {
  readonly control: SharedArrayBuffer;
  readonly #ring: Int32Array;
  readonly #busy: readonly Float64Array[];
  readonly #onActive: (active: boolean) => void;
  readonly #pending: (Pending | undefined)[] = []; // from #oldest on, in the order of submission
  #oldest = 0;
  #submitted = 0;
  #listening = false;
  #failure: Error | null = null;

  /** @param onActive called when the first command is under way, and when none is any more */
  constructor(workers: number, onActive: (active: boolean) => void) {
    this.control = new SharedArrayBuffer(controlBytes(workers));
    this.#ring = new Int32Array(this.control);
    this.#busy = Array.from({ length: workers }, (_, worker) => busyTime(this.control, worker));
    this.#onActive = onActive;
    // No command was there before: what a worker reads in an unused slot is of no lap.
    for (let slot = 0; slot < RING_COMMANDS; slot++) this.#ring[commandIndex(slot) + NEXT] = firstNext(-1);
  }

  get busyMs(): number {
    return this.#busy.reduce((sum, [ms = 0]) => sum + ms, 0);
  }

  submit(memory: number, step: number, layer: number, tasks: number): Promise<void> {
    if (this.#failure !== null) return Promise.reject(this.#failure);
    if (tasks === 0) return Promise.resolve();
    if (tasks >= TASK_MASK)
      return Promise.reject(new RangeError(`a command has fewer than ${TASK_MASK} tasks, found ${tasks}`));
    if (this.#pending.length === RING_COMMANDS) {
      return Promise.reject(
        new CapacityError('ATTENTION_QUEUE', `${RING_COMMANDS} attends are waiting already`, {
          hint: 'have fewer micro-batches in flight',
        }),
      );
    }
    const ring = this.#ring;
    const number = this.#submitted;
    const at = commandIndex(number);
    Atomics.store(ring, at + NEXT, firstNext(number) | TASK_MASK);
    Atomics.store(ring, at + MEMORY, memory);
    Atomics.store(ring, at + STEP, step);
    Atomics.store(ring, at + LAYER, layer);
    Atomics.store(ring, at + TASKS, tasks);
    Atomics.store(ring, at + DONE, 0);
    this.#submitted = (number + 1) | 0;
    return new Promise((resolve, reject) => {
      this.#pending.push({ tasks, resolve, reject });
      Atomics.store(ring, at + NEXT, firstNext(number));
      Atomics.store(ring, SUBMITTED, this.#submitted);
      Atomics.notify(ring, SUBMITTED, tasks);
      if (!this.#listening) {
        this.#listening = true;
        this.#onActive(true);
        this.#listen();
      }
    });
  }

  /** Rejects what is under way and whatever comes. */
  fail(error: Error): void {
    this.#failure ??= error;
    for (const pending of this.#pending.splice(0)) pending?.reject(error);
    // Wakes the listener of #listen, which then finds nothing to wait for.
    Atomics.notify(this.#ring, COMPLETED);
  }

  #listen(): void {
    for (;;) {
      const completed = Atomics.load(this.#ring, COMPLETED);
      this.#collect();
      if (this.#pending.length === 0) {
        this.#listening = false;
        this.#onActive(false);
        return;
      }
      const wait = Atomics.waitAsync(this.#ring, COMPLETED, completed);
      if (wait.async) {
        wait.value.then(() => this.#listen());
        return;
      }
    }
  }

  /** Commands complete in any order. */
  #collect(): void {
    for (const [i, pending] of this.#pending.entries()) {
      if (pending === undefined) continue;
      if (Atomics.load(this.#ring, commandIndex(this.#oldest + i) + DONE) !== pending.tasks) continue;
      this.#pending[i] = undefined;
      pending.resolve();
    }
    let complete = 0;
    while (complete < this.#pending.length && this.#pending[complete] === undefined) complete++;
    if (complete === 0) return;
    this.#pending.splice(0, complete);
    this.#oldest = (this.#oldest + complete) | 0;
    Atomics.store(this.#ring, OLDEST, this.#oldest);
  }
}
