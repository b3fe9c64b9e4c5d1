/**
 * The product's pool of workers, of which a benchmark may change the window while it fills the KV: with a window of 1 a prefill
 * is hardly more than the append.
 */
import type { StagedAttention } from '@glinthawk/attention';
import type { AttentionGeometry, KvDtype, RowDtype } from '@glinthawk/core';
import { busyTime } from '../../../packages/attention/src/command-ring.ts';
import type { KernelMemory } from '../../../packages/attention/src/kernel-runner.ts';
import { platform } from '../../../packages/attention/src/platform.node.ts';
import type { KernelWorkerData } from '../../../packages/attention/src/platform.ts';
import { createPool } from '../../../packages/attention/src/pool.ts';

export interface WatchedPool {
  readonly backend: StagedAttention;
  /** Of all layers; 0 is none. No attend may be under way. */
  setWindow(tokens: number): void;
  /** Time in which kernels ran, of each worker. */
  busyMs(): readonly number[];
}

const CONFIG_WORDS = 64; // more than Config in kernels/layout.h has

/** The kernels' windows lie right behind their Config, which points at them: no other of its words is such an address. */
function windowsOf({ memory, config }: KernelMemory, layers: number): Uint32Array {
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
  rowDtype: RowDtype = 'f32',
): Promise<WatchedPool> {
  const started: KernelWorkerData[] = [];
  const watched: typeof platform = {
    ...platform,
    startWorker: (data, onGone) => {
      started.push(data);
      return platform.startWorker(data, onGone);
    },
  };
  const backend = await createPool(geometry, { kvDtype, rowDtype, workers, memoryBytes }, watched);
  const windows = started[0]?.memories.map((memory) => windowsOf(memory, geometry.layers)) ?? [];
  const busy = started.map(({ control, index }) => busyTime(control, index));
  return {
    backend,
    busyMs: () => busy.map(([ms = 0]) => ms),
    setWindow(tokens) {
      for (const one of windows) one.fill(tokens);
    },
  };
}
