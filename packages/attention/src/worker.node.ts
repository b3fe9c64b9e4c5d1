/** Entry point of a shard's worker thread in Node. */
import { parentPort, workerData } from 'node:worker_threads';
import { runShardWorker, type ShardWorkerData } from './shard-worker.ts';

runShardWorker(workerData as ShardWorkerData, () => parentPort?.postMessage('ready'));
