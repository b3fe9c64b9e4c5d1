/** A KernelRunner of several workers, all of them on every memory; see command-ring.ts for how they are told. */
import { CapacityError, NodeLostError, toError } from '@glinthawk/core';
import { CommandRing } from './command-ring.ts';
import type { KernelMemory, KernelRunner } from './kernel-runner.ts';
import type { KernelWorker, Platform } from './platform.ts';

export interface WorkerPoolOptions {
  /** Of the backend, for errors. */
  readonly name: string;
  /** A shared build. */
  readonly module: WebAssembly.Module;
  /** Shared, with room for so many workers (heapBase in kernel.ts). */
  readonly memories: readonly KernelMemory[];
  readonly workers: number;
  readonly platform: Platform;
  /** A worker ended, so that all that was under way and will come is rejected. */
  readonly onLost: (error: NodeLostError) => void;
}

/** @throws NodeLostError, CapacityError; no worker is left then */
export async function startWorkers(options: WorkerPoolOptions): Promise<KernelRunner> {
  const { name, module, memories, workers: count, platform, onLost } = options;
  const workers: KernelWorker[] = [];
  // One of them keeps the process from ending.
  const ring = new CommandRing(count, (active) => (active ? workers[0]?.hold() : workers[0]?.letGo()));
  const onGone = (cause: Error) => {
    const error = new NodeLostError(name, `an attention worker of ${name} ended: ${cause.message}`, { cause });
    ring.fail(error);
    onLost(error);
  };
  const starting = Array.from({ length: count }, (_, index) => {
    const { control } = ring;
    return platform.startWorker({ name: `glinthawk-attention-${index}`, module, memories, control, index }, onGone);
  });
  const started = await Promise.allSettled(starting);
  workers.push(...started.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : [])));
  const terminate = async () => {
    await Promise.all(workers.map((worker) => worker.terminate()));
  };
  const failed = started.find((result) => result.status === 'rejected');
  if (failed !== undefined) {
    await terminate();
    const cause = toError(failed.reason);
    // What there is no room for now there won't be at the next try either, unlike a worker that died.
    if (cause instanceof CapacityError) throw cause;
    throw new NodeLostError(name, `an attention worker could not be started: ${cause.message}`, { cause });
  }
  return {
    workers: count,
    attend: (memory, step, layer, tasks) => ring.submit(memory, step, layer, tasks),
    get busyMs() {
      return ring.busyMs;
    },
    async close(error) {
      ring.fail(error);
      await terminate();
    },
  };
}
