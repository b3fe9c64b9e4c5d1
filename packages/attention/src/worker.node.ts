/** Entry point of an attention worker thread in Node. */
import { parentPort, workerData } from 'node:worker_threads';
import { runKernelWorker } from './kernel-worker.ts';
import type { KernelWorkerData } from './platform.ts';

runKernelWorker(workerData as KernelWorkerData, () => parentPort?.postMessage('ready'));
