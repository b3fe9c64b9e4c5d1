/** Node: worker threads, files. */
import { readFile } from 'node:fs/promises';
import { availableParallelism, totalmem } from 'node:os';
import { Worker } from 'node:worker_threads';
import { toError } from '@glinthawk/core';
import type { Platform } from './platform.ts';

/** Sources run as they are in development; what tsc built has .js beside it. */
const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';

/**
 * The machine's memory, or what a container (cgroup) leaves of it.
 * @param constrained process.constrainedMemory(): 0, or more than there is, when there is no limit
 */
export function availableMemoryBytes(total: number, constrained: number): number {
  return constrained > 0 ? Math.min(total, constrained) : total;
}

export const platform: Platform = {
  sharedMemory: () => typeof SharedArrayBuffer === 'function' && typeof Atomics.waitAsync === 'function',
  defaultWorkers: () => availableParallelism(),
  defaultMemoryBytes: () => Math.floor(availableMemoryBytes(totalmem(), process.constrainedMemory()) / 4),
  readWasm: (name) => readFile(new URL(`../wasm/${name}.wasm`, import.meta.url)),

  startWorker(data, onGone) {
    // No flags of this process: what a test runner or debugger loads has no place in a worker.
    const worker = new Worker(new URL(`./worker.node.${extension}`, import.meta.url), {
      workerData: data,
      name: data.name,
      execArgv: [],
    });
    let ending = false;
    return new Promise((resolve, reject) => {
      let failure: Error | null = null;
      worker.once('error', (error) => {
        failure = toError(error);
      });
      worker.once('exit', (code) => {
        if (ending) return;
        const error = failure ?? new Error(`the worker ended with exit code ${code}`);
        reject(error);
        onGone(error);
      });
      worker.once('message', () => {
        worker.unref();
        resolve({
          hold: () => worker.ref(),
          letGo: () => worker.unref(),
          async terminate() {
            ending = true;
            await worker.terminate();
          },
        });
      });
    });
  },
};
