/** A dense worker as a Web Worker. */
import { createRequestHandler } from './dense-worker.ts';
import type { Request } from './messages.ts';
import { createTfjsEngine } from './tfjs-engine.ts';

/** The part of DedicatedWorkerGlobalScope that is used; TypeScript's `dom` and `webworker` libraries exclude each other. */
interface WorkerScope {
  postMessage(message: unknown, transfer: ArrayBuffer[]): void;
  addEventListener(type: 'message', listener: (event: { readonly data: Request }) => void): void;
}

const scope = globalThis as unknown as WorkerScope;
const handle = createRequestHandler(
  { post: (reply, transfer) => scope.postMessage(reply, transfer) },
  createTfjsEngine,
);
scope.addEventListener('message', (event) => handle(event.data));
