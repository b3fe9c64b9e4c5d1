/** Entry point of a shard's worker thread in Node. */
import { parentPort, workerData } from 'node:worker_threads';
import type { ShardWorkerData } from './platform.ts';
import { runShardWorker } from './shard-worker.ts';

runShardWorker(workerData as ShardWorkerData, () => parentPort?.postMessage('ready'));
