/** Browsers: Web Workers, fetch. URLs are literal, so that bundlers find the files. */
import type { Platform, WasmName } from './platform.ts';

const WASM_URLS: Readonly<Record<WasmName, URL>> = {
  'attention-relaxed': new URL('../wasm/attention-relaxed.wasm', import.meta.url),
  'attention-plain': new URL('../wasm/attention-plain.wasm', import.meta.url),
  'attention-relaxed-shared': new URL('../wasm/attention-relaxed-shared.wasm', import.meta.url),
  'attention-plain-shared': new URL('../wasm/attention-plain-shared.wasm', import.meta.url),
};

/** Browsers don't tell how much memory there is beyond a coarse `deviceMemory` in GiB, and some not even that. */
const ASSUMED_MEMORY_GIB = 4;

export const platform: Platform = {
  sharedMemory: () =>
    globalThis.crossOriginIsolated && typeof Worker === 'function' && typeof Atomics.waitAsync === 'function',
  defaultWorkers: () => navigator.hardwareConcurrency,
  defaultMemoryBytes() {
    const { deviceMemory = ASSUMED_MEMORY_GIB } = navigator as Navigator & { readonly deviceMemory?: number };
    return (deviceMemory * 2 ** 30) / 4;
  },

  async readWasm(name) {
    const response = await fetch(WASM_URLS[name]);
    if (!response.ok) throw new Error(`${response.url}: ${response.status} ${response.statusText}`);
    return new Uint8Array(await response.arrayBuffer());
  },

  startWorker(data, onGone) {
    // Bundlers find the worker by exactly this form; from sources they look for the .ts file in its place.
    const worker = new Worker(new URL('./worker.browser.js', import.meta.url), { type: 'module', name: data.name });
    return new Promise((resolve, reject) => {
      worker.onerror = (event) => {
        // It is dealt with here: else it would go on to the parent of this worker, which would take it for this one's end.
        event.preventDefault();
        const error = new Error(event.message || 'the worker could not be started');
        reject(error);
        onGone(error);
      };
      worker.onmessage = () =>
        resolve({
          hold: () => {},
          letGo: () => {},
          async terminate() {
            worker.onerror = null;
            worker.terminate();
          },
        });
      worker.postMessage(data);
    });
  },
};
