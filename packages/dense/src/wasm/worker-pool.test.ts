/** Loss of workers: with workers that are only played, and a real thread that crashes. */

import { expect, it } from 'vitest';
import { platform as realPlatform } from '#dense-wasm';
import { randomModel } from '../../../../test/kernels/random-model.ts';
import { batchMemoryBytes } from './batch-memory.ts';
import type { Reply, Request } from './messages.ts';
import type { DenseWasmPlatform, WorkerEvents, WorkerHandle } from './platform.ts';
import { WorkerPool } from './worker-pool.ts';

function playedPlatform() {
  const events: WorkerEvents[] = [];
  const posted: Request[][] = [];
  let terminated = 0;
  const platform: DenseWasmPlatform = {
    startWorker(workerEvents) {
      const index = events.push(workerEvents) - 1;
      posted[index] = [];
      return {
        post: (request) => void posted[index]?.push(request),
        terminate: async () => void terminated++,
      };
    },
    cores: () => 2,
    canShareMemory: () => true,
    noSharedMemory: '',
    wasmUrl: null,
  };
  return { platform, events, posted, terminated: () => terminated };
}

const done: Reply = { type: 'done', description: '', heapBytes: 100, liveTensors: 1 };
const stage = { type: 'stage', batch: 1, stage: 'begin', rows: 1, headRows: 0, layer: -1, sections: null } as const;
const vector: Request = { type: 'vector', role: 'finalNorm', index: 0, values: new Float32Array(1) };

it('a worker that dies loses the pool: pending calls reject, later ones too, all threads end', async () => {
  const { platform, events, terminated } = playedPlatform();
  const pool = new WorkerPool(platform, 2, true);
  const asked = pool.request(0, vector);
  const run = pool.run(stage, []);
  events[1]?.onLost('the thread ended with code 7');
  const lost = { code: 'DENSE_WORKER_LOST', message: 'dense worker 1 is gone: the thread ended with code 7' };
  await expect(asked).rejects.toMatchObject(lost);
  await expect(run).rejects.toMatchObject(lost);
  expect(await pool.lost).toMatchObject(lost);
  await expect(pool.run(stage, [])).rejects.toMatchObject(lost);
  await expect(pool.request(0, vector)).rejects.toMatchObject(lost);
  expect(terminated()).toBe(2);
  expect(pool.heapBytes()).toBe(0);
});

it('a failure inside a stage loses the pool, as the other workers wait at a barrier', async () => {
  const { platform, events, terminated } = playedPlatform();
  const pool = new WorkerPool(platform, 2, true);
  const run = pool.run(stage, []);
  events[0]?.onReply({ type: 'failed', request: 'stage', kind: 'device', code: 'X', message: 'why', hint: undefined });
  await expect(run).rejects.toMatchObject({ code: 'X', message: 'dense worker 0 failed: why' });
  expect(await pool.lost).toMatchObject({ code: 'X' });
  expect(terminated()).toBe(2);
});

it('a failure to make room is an error of that request alone', async () => {
  const { platform, events } = playedPlatform();
  const pool = new WorkerPool(platform, 1, true);
  const first = pool.request(0, vector);
  const second = pool.request(0, vector);
  events[0]?.onReply({ type: 'failed', request: 'vector', kind: 'capacity', code: 'C', message: 'full', hint: 'less' });
  events[0]?.onReply(done);
  await expect(first).rejects.toMatchObject({ name: 'CapacityError', code: 'C', hint: 'less' });
  await expect(second).resolves.toEqual(done);
  expect(pool.heapBytes()).toBe(100);
});

it('closing is not a loss', async () => {
  const { platform, events } = playedPlatform();
  const pool = new WorkerPool(platform, 1, true);
  let lost = false;
  void pool.lost.then(() => {
    lost = true;
  });
  await pool.close();
  events[0]?.onLost('ended');
  await new Promise((resolve) => setTimeout(resolve, 5));
  expect(lost).toBe(false);
});

it('a thread that crashes rejects the stage that the others have finished', async () => {
  const handles: WorkerHandle[] = [];
  const platform: DenseWasmPlatform = {
    ...realPlatform,
    startWorker(events) {
      const handle = realPlatform.startWorker(events);
      handles.push(handle);
      return handle;
    },
  };
  const pool = new WorkerPool(platform, 2, true);
  const { config } = randomModel();
  const { barrier } = pool;
  await Promise.all(
    [0, 1].map((worker) => pool.request(worker, { type: 'start', config, worker, workers: 2, barrier, wasmUrl: null })),
  );
  const { hiddenSize, intermediateSize, headDim, heads, kvHeads, vocabSize } = config;
  const sizes = { hiddenSize, intermediateSize, headDim, heads, qkvHeads: heads + 2 * kvHeads, vocabSize };
  const shape = { ...sizes, maxRows: 1, maxHeadRows: 1, workers: 2 };
  const memory = new SharedArrayBuffer(batchMemoryBytes(shape));
  await pool.requestAll({ type: 'open', batch: 1, shape, memory });
  handles[1]?.post(null as unknown as Request, []); // nothing that a worker can read
  const run = pool.run({ ...stage, rows: 0 }, []);
  await expect(run).rejects.toMatchObject({ code: 'DENSE_WORKER_LOST' });
  expect((await pool.lost).message).toMatch(/dense worker 1 is gone/);
  await pool.close();
});
