/** An attention node in a process of its own, which tells the benchmark how long its kernels ran. */
import { serveAttention } from '@glinthawk/attention/node';
import { createWatchedPool, type WatchedPool } from './watched-pool.ts';

const workers = Number(process.argv[2]);
const memoryBytes = Number(process.argv[3]);
let pool: WatchedPool | null = null;

const server = await serveAttention({
  host: '127.0.0.1',
  port: 0,
  createBackend: async (geometry, { kvDtype, rowDtype }) => {
    pool = await createWatchedPool(geometry, kvDtype, workers, memoryBytes, rowDtype);
    return pool.backend;
  },
});
process.send?.(server.listener.url);
process.on('message', (request: { readonly window?: number }) => {
  if (request.window !== undefined) pool?.setWindow(request.window);
  process.send?.(pool?.busyMs() ?? []);
});
process.on('disconnect', () => process.exit());
