/** Entry point of a shard's worker in browsers: its data comes as the first message. */
import type { ShardWorkerData } from './platform.ts';
import { runShardWorker } from './shard-worker.ts';

const scope = globalThis as unknown as {
  onmessage: ((event: MessageEvent<ShardWorkerData>) => void) | null;
  postMessage(message: string): void;
};
scope.onmessage = ({ data }) => runShardWorker(data, () => scope.postMessage('ready'));
