/** The worker of memory-bandwidth.ts. */
import { parentPort } from 'node:worker_threads';
import { measureThisThread } from './memory-bandwidth.ts';

parentPort?.postMessage(measureThisThread());
