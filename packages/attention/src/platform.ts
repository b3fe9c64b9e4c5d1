/** What attention needs of the machine that it runs on; `#platform` is Node's or the browser's. */

import type { KernelMemory } from './kernel-runner.ts';

export type KernelBuild = 'relaxed' | 'plain';
export type WasmName = `attention-${KernelBuild}${'' | '-shared'}`;

/** What a worker is given to run kernels. */
export interface KernelWorkerData {
  readonly name: string;
  readonly module: WebAssembly.Module;
  readonly memories: readonly KernelMemory[];
  /** Of the command ring. */
  readonly control: SharedArrayBuffer;
  /** Among the pool's workers. */
  readonly index: number;
}

export interface KernelWorker {
  /** While something is under way the process must not end. */
  hold(): void;
  letGo(): void;
  terminate(): Promise<void>;
}

export interface Platform {
  /** Whether a WebAssembly memory can be shared with workers, and waited for without blocking. */
  sharedMemory(): boolean;
  defaultWorkers(): number;
  /** A limit for KV that leaves the machine usable. */
  defaultMemoryBytes(): number;
  readWasm(name: WasmName): Promise<Uint8Array<ArrayBuffer>>;
  /** Resolves when the worker waits for commands. `onGone` is called once if it ends otherwise than by terminate(). */
  startWorker(data: KernelWorkerData, onGone: (error: Error) => void): Promise<KernelWorker>;
}
