/**
 * Attention in this process on several workers, each a shard with a memory of its own. q, k and v are copied once, into the
 * worker's memory, and the output once, out of it; see shard-worker.ts for how a worker is told.
 */
import {
  type AttentionGeometry,
  CapacityError,
  type KvDtype,
  type Logger,
  NodeLostError,
  silentLogger,
  toError,
} from '@glinthawk/core';
import { platform } from '#platform';
import type { AttentionBackend, AttentionSource } from './backend.ts';
import { createInlineAttention, type InlineAttentionOptions } from './inline.ts';
import { attentionKernelInfo, int8Kernel, loadKernel } from './kernel.ts';
import { LocalAttention } from './local-attention.ts';
import { planShards } from './plan-shards.ts';
import type { Platform } from './platform.ts';
import { Shard, writeConfig } from './shard.ts';
import { CONTROL_BYTES, CommandQueue } from './shard-worker.ts';
import { createMemory, WasmHeap } from './wasm-heap.ts';

export interface LocalAttentionOptions extends InlineAttentionOptions {
  /** Default: one a core. */
  readonly workers?: number;
  /** KV of all workers together at most, shared out evenly; memory grows as it is used. Default: a quarter of the machine's. */
  readonly memoryBytes?: number;
  readonly logger?: Logger;
}

/**
 * A pool of workers; where memory can't be shared with workers, one shard in this thread, which the logger is told.
 * @throws InputError, UnsupportedError, CapacityError, DeviceError
 */
export function createLocalAttention(
  geometry: AttentionGeometry,
  options: LocalAttentionOptions,
): Promise<AttentionBackend> {
  return createPool(geometry, options, platform);
}

/** createLocalAttention on a platform that a test may have changed. */
export async function createPool(
  geometry: AttentionGeometry,
  options: LocalAttentionOptions,
  platform: Platform,
): Promise<AttentionBackend> {
  const { kvDtype, name = 'local', logger = silentLogger, workers = platform.defaultWorkers() } = options;
  if (!platform.sharedMemory()) {
    logger.warn(
      'no memory can be shared with workers here (a page must be cross-origin isolated): attention runs in this thread',
    );
    return createInlineAttention(geometry, { ...options, name });
  }
  const { layout, blocks, heapBytes } = planShards(geometry, { ...options, workers });
  const { build = attentionKernelInfo().build } = options;
  const { int8 = int8Kernel(build) } = options;
  const module = await loadKernel(build, true);
  const { promise: lost, resolve: resolveLost } = Promise.withResolvers<NodeLostError>();

  const queues: CommandQueue[] = [];
  const onGone = (cause: Error) => {
    const error = new NodeLostError(name, `an attention worker of ${name} ended: ${cause.message}`, { cause });
    for (const queue of queues) queue.fail(error);
    resolveLost(error);
  };
  const starting = Array.from({ length: workers }, async (_, index) => {
    const memory = createMemory(heapBytes, true);
    const heap = new WasmHeap(memory, heapBytes);
    const config = writeConfig(heap, geometry, kvDtype, layout, int8);
    const control = new SharedArrayBuffer(CONTROL_BYTES);
    const data = { name: `glinthawk-attention-${index}`, module, memory, control, config };
    const worker = await platform.startWorker(data, onGone);
    const queue = new CommandQueue(control, (active) => (active ? worker.hold() : worker.letGo()));
    queues.push(queue);
    return new Shard(index, blocks, layout.blockBytes, heap, {
      attend: (...command) => queue.submit(command),
      get busyMs() {
        return queue.busyMs;
      },
      async close(error) {
        queue.fail(error);
        await worker.terminate();
      },
    });
  });
  const started = await Promise.allSettled(starting);
  const shards = started.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  const failed = started.find((result) => result.status === 'rejected');
  if (failed !== undefined) {
    const cause = toError(failed.reason);
    // What there is no room for now there won't be at the next try either, unlike a worker that died.
    const error =
      cause instanceof CapacityError
        ? cause
        : new NodeLostError(name, `an attention worker could not be started: ${cause.message}`, { cause });
    await Promise.all(shards.map(({ runner }) => runner.close(error)));
    throw error;
  }
  return new LocalAttention({ name, geometry, kvDtype, layout, heapBytes, shards, lost });
}

export type LocalAttentionSourceOptions = Omit<LocalAttentionOptions, 'kvDtype'>;

/** Workers of this process, made anew at each connect. */
export function localAttentionSource(options: LocalAttentionSourceOptions = {}): AttentionSource {
  return {
    name: options.name ?? 'local',
    connect: (geometry: AttentionGeometry, { kvDtype }: { readonly kvDtype: KvDtype }) =>
      createLocalAttention(geometry, { ...options, kvDtype }),
  };
}
