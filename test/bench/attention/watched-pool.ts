/**
 * The product's pool of workers, of which a benchmark may change the window while it fills the KV: with a window of 1 a prefill
 * is hardly more than the append.
 */
import type { AttentionBackend } from '@glinthawk/attention';
import type { AttentionGeometry, KvDtype } from '@glinthawk/core';
import { platform } from '../../../packages/attention/src/platform.node.ts';
import type { ShardWorkerData } from '../../../packages/attention/src/platform.ts';
import { createPool } from '../../../packages/attention/src/pool.ts';

export interface WatchedPool {
  readonly backend: AttentionBackend;
  /** Of all layers; 0 is none. No attend may be under way. */
  setWindow(tokens: number): void;
  /** Time in which kernels ran, of each worker. */
  busyMs(): readonly number[];
}

const BUSY_MS = 1; // Float64 index in a shard's control memory, as in shard-worker.ts
const CONFIG_WORDS = 64; // more than Config in kernels/layout.h has

/** The kernels' windows lie right behind their Config, which points at them: no other of its words is such an address. */
function windowsOf({ memory, config }: ShardWorkerData, layers: number): Uint32Array {
  const words = new Uint32Array(memory.buffer, config, CONFIG_WORDS);
  const address = words.find((word) => word > config && word < config + 4 * CONFIG_WORDS);
  const windows = address === undefined ? null : new Uint32Array(memory.buffer, address, layers);
  if (windows?.every((window) => window === 0) !== true) {
    throw new Error(
      'the kernels keep their windows elsewhere now: adapt windowsOf in test/bench/attention/watched-pool.ts',
    );
  }
  return windows;
}

/** `geometry` has no windows. */
export async function createWatchedPool(
  geometry: AttentionGeometry,
  kvDtype: KvDtype,
  workers: number,
  memoryBytes: number,
): Promise<WatchedPool> {
  const started: ShardWorkerData[] = [];
  const watched: typeof platform = {
    ...platform,
    startWorker: (data, onGone) => {
      started.push(data);
      return platform.startWorker(data, onGone);
    },
  };
  const backend = await createPool(geometry, { kvDtype, workers, memoryBytes }, watched);
  const windows = started.map((data) => windowsOf(data, geometry.layers));
  const busy = started.map(({ control }) => new Float64Array(control, 0, BUSY_MS + 1));
  return {
    backend,
    busyMs() {
      const each = busy.map((words) => words[BUSY_MS] as number);
      const [sum, expected] = [each.reduce((a, b) => a + b, 0), backend.stats().busyMs];
      if (Math.abs(sum - expected) > 1e-6 * (sum + 1)) {
        throw new Error('workers keep their busy time elsewhere now: adapt test/bench/attention/watched-pool.ts');
      }
      return each;
    },
    setWindow(tokens) {
      for (const one of windows) one.fill(tokens);
    },
  };
}
