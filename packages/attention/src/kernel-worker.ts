/** A worker of the pool: an instance of the kernels on every memory, with stack and scratch of its own in each. */
import { serveRing } from './command-ring.ts';
import { instantiateKernel } from './kernel.ts';
import type { KernelWorkerData } from './platform.ts';

/** Never returns. Whatever the kernels throw ends the worker. */
export function runKernelWorker({ module, memories, control, index }: KernelWorkerData, ready: () => void): never {
  const kernels = memories.map(({ memory, config }) => ({ ...instantiateKernel(module, memory, index), config }));
  ready();
  return serveRing(control, index, (memory, step, layer, task) => {
    const kernel = kernels[memory];
    if (kernel === undefined) throw new RangeError(`memory ${memory} doesn't exist: there are ${kernels.length}`);
    kernel.attend(kernel.config, step, layer, task, task + 1);
  });
}
