/** Worker threads of Node. */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import type { Reply } from './messages.ts';
import type { DenseWasmPlatform, WorkerEvents, WorkerHandle } from './platform.ts';

/** The compiler rewrites imports, not URLs: run from source the worker is a .ts file, built it is a .js file. */
const workerUrl = new URL(import.meta.url.endsWith('.ts') ? './worker.node.ts' : './worker.node.js', import.meta.url);

export const platform: DenseWasmPlatform = {
  startWorker(events: WorkerEvents): WorkerHandle {
    const worker = new Worker(workerUrl, { name: 'glinthawk-dense' });
    let ended = false;
    worker.on('message', (reply: Reply) => events.onReply(reply));
    worker.on('error', (error) => {
      if (!ended) events.onLost(error.message);
    });
    worker.on('exit', (code) => {
      if (!ended) events.onLost(`the thread ended with code ${code}`);
    });
    return {
      post: (request, transfer) => worker.postMessage(request, transfer),
      async terminate() {
        ended = true;
        await worker.terminate();
      },
    };
  },
  cores: availableParallelism,
  canShareMemory: () => true,
  noSharedMemory: 'switched off',
  wasmUrl: null,
};
