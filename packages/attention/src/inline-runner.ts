/** A KernelRunner in the calling thread: one "worker", which works while it is asked. */
import { instantiateKernel } from './kernel.ts';
import type { KernelMemory, KernelRunner } from './kernel-runner.ts';

export function createInlineRunner(module: WebAssembly.Module, memories: readonly KernelMemory[]): KernelRunner {
  const kernels = memories.map(({ memory, config }) => ({ ...instantiateKernel(module, memory), config }));
  let busyMs = 0;
  return {
    workers: 1,
    async attend(memory, step, layer, tasks) {
      const kernel = kernels[memory];
      if (kernel === undefined) throw new RangeError(`memory ${memory} doesn't exist: there are ${kernels.length}`);
      const started = performance.now();
      kernel.attend(kernel.config, step, layer, 0, tasks);
      busyMs += performance.now() - started;
    },
    get busyMs() {
      return busyMs;
    },
    async close() {},
  };
}
