/** Web Workers. */
import wasmUrl from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm?url';
import type { Reply } from './messages.ts';
import type { DenseWasmPlatform, WorkerEvents, WorkerHandle } from './platform.ts';

export const platform: DenseWasmPlatform = {
  startWorker(events: WorkerEvents): WorkerHandle {
    // Bundlers find the worker by exactly this form; from sources they look for the .ts file in its place.
    const worker = new Worker(new URL('./worker.browser.js', import.meta.url), {
      type: 'module',
      name: 'glinthawk-dense',
    });
    let ended = false;
    worker.addEventListener('message', (event: MessageEvent<Reply>) => events.onReply(event.data));
    worker.addEventListener('error', (event) => {
      // It is dealt with here: else it would go on to the parent of this worker, which would take it for this one's end.
      event.preventDefault();
      if (!ended) events.onLost(event.message || 'the worker script did not load');
    });
    return {
      post: (request, transfer) => worker.postMessage(request, transfer),
      async terminate() {
        ended = true;
        worker.terminate();
      },
    };
  },
  cores: () => navigator.hardwareConcurrency,
  canShareMemory: () => typeof SharedArrayBuffer !== 'undefined' && globalThis.crossOriginIsolated,
  noSharedMemory: 'the page is not cross-origin isolated, or it was switched off',
  wasmUrl: new URL(wasmUrl, globalThis.location.href).href,
};
