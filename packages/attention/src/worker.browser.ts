/** Entry point of an attention worker in browsers: its data comes as the first message. */

import { runKernelWorker } from './kernel-worker.ts';
import type { KernelWorkerData } from './platform.ts';

const scope = globalThis as unknown as {
  onmessage: ((event: MessageEvent<KernelWorkerData>) => void) | null;
  postMessage(message: string): void;
};
scope.onmessage = ({ data }) => runKernelWorker(data, () => scope.postMessage('ready'));
