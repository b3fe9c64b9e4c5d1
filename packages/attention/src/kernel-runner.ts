/** What runs the kernels on a backend's memories: the calling thread (inline.ts) or a pool of workers (worker-pool.ts). */

/** A memory of KV, and the address of the kernels' Config in it. */
export interface KernelMemory {
  readonly memory: WebAssembly.Memory;
  readonly config: number;
}

/**
 * Attends of different steps may run at the same time and end in any order; a step's own parts too. So blocks, tables and
 * staging that an attend under way names stay as they are until it settles.
 */
export interface KernelRunner {
  /** Threads that kernels run on, all of them on every memory. */
  readonly workers: number;
  /** Runs tasks 0 to `tasks` - 1 of the Step at address `step` of a memory. Rejects with NodeLostError when the runner is gone. */
  attend(memory: number, step: number, layer: number, tasks: number): Promise<void>;
  /** Time in which kernels ran, summed over workers. */
  readonly busyMs: number;
  /** Rejects what is under way with `error`. */
  close(error: Error): Promise<void>;
}
