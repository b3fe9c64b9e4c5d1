/** What the `wasm` backend needs of the runtime. `#dense-wasm` is the one for Node or the one for browsers. */
import type { Reply, Request } from './messages.ts';

export interface WorkerEvents {
  readonly onReply: (reply: Reply) => void;
  /** The thread is gone or has thrown; at most a few times, never after terminate. */
  readonly onLost: (reason: string) => void;
}

export interface WorkerHandle {
  post(request: Request, transfer: ArrayBuffer[]): void;
  terminate(): Promise<void>;
}

export interface DenseWasmPlatform {
  startWorker(events: WorkerEvents): WorkerHandle;
  /** Threads that can run at once. */
  cores(): number;
  /** Whether workers can share memory (a page must be cross-origin isolated). */
  canShareMemory(): boolean;
  /** For people: why memory isn't shared, where it isn't. */
  readonly noSharedMemory: string;
  /** Where tfjs-backend-wasm-simd.wasm is, or null if the library finds it by itself. */
  readonly wasmUrl: string | null;
}
