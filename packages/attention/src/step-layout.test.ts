/** Staging of steps: what they take at most, and what happens where there is no room for partials. */
import { type AttentionGeometry, CapacityError } from '@glinthawk/core';
import { describe, expect, it } from 'vitest';
import { pageLayout } from './page-layout.ts';
import {
  type KernelEntry,
  layOutStep,
  passesOfLayer,
  stageStep,
  stagingRowBytes,
  stepSlackBytes,
  wantLogSumExp,
  writeStep,
} from './step-layout.ts';
import { createMemory, WasmHeap } from './wasm-heap.ts';

const geometry: AttentionGeometry = {
  layers: 4,
  kvHeads: 2,
  groupSize: 4,
  headDim: 64,
  softmaxScale: 0.125,
  windows: [0, 1000, 0, 4096],
  maxContextTokens: 131_072,
};
const config = { geometry, rowDtype: 'f16', layout: pageLayout(geometry, 'f16', 32) } as const;
const entry = (position: number, count = 1): KernelEntry => ({
  tables: 64,
  position,
  count,
  stored: position + count,
  visit: false,
});

function heapOf(stagingBytes: number): WasmHeap {
  const plan = { baseBytes: 1 << 20, keptBytes: 64, stagingBytes, blocks: 1, frameBlocks: 1, frameBytes: 64 };
  return new WasmHeap(createMemory(plan, false), plan);
}

describe('staging of a step', () => {
  it('takes no more than its rows and the slack, without partials', () => {
    for (const workers of [1, 2, 7, 64]) {
      for (const entries of [
        [],
        [entry(9)],
        [entry(100_000)],
        [entry(0, 700), entry(90_000, 100), entry(5000)],
        Array.from({ length: 300 }, (_, i) => entry(300 * i)),
      ]) {
        const rows = entries.reduce((sum, { count }) => sum + count, 0);
        const { bytes } = layOutStep(config, entries, workers, 0);
        const most = rows * stagingRowBytes(geometry, 'f16') + stepSlackBytes(geometry, workers);
        expect(bytes).toBeLessThanOrEqual(most);
      }
    }
  });

  it('goes without partials where there is no room for them, and fails where there is none at all', () => {
    const entries = [entry(100_000)];
    const roomy = stageStep(heapOf(4 << 20), config, entries, 16).layout;
    const plans = (layout: typeof roomy) => layout.plans.map(({ plan }) => plan.counters);
    expect(plans(roomy)).toEqual([2, 0, 2]);
    const tight = stageStep(heapOf(64 << 10), config, entries, 16).layout;
    expect(plans(tight)).toEqual([0, 0, 0]);
    expect(tight.bytes).toBeLessThan(roomy.bytes);
    expect(() => stageStep(heapOf(1024), config, entries, 16)).toThrow(CapacityError);
    expect(() => stageStep(heapOf(64), config, [entry(1)], 16)).toThrow(CapacityError);
  });

  it('has a descriptor for each window and pass, of which none points beyond it', () => {
    const heap = heapOf(8 << 20);
    const entries = [entry(50_000, 200), entry(100_000), entry(20)];
    const { address, layout } = stageStep(heap, config, entries, 16);
    writeStep(heap, address, layout, entries);
    wantLogSumExp(heap, address, layout, true);
    expect([0, 1, 2, 3].map((layer) => passesOfLayer(layout, layer).length)).toEqual([2, 2, 2, 2]);
    expect(passesOfLayer(layout, 2)).toBe(passesOfLayer(layout, 0));
    const end = address + layout.bytes;
    for (const layer of [0, 1, 3]) {
      for (const { descriptor, tasksAt, tasks } of passesOfLayer(layout, layer)) {
        const words = heap.u32.subarray((address + descriptor) / 4).subarray(0, 5);
        expect([...words]).toEqual(
          [layout.qkv, layout.output, layout.logSumExp, layout.entries, tasksAt].map((at) => address + at),
        );
        expect(address + tasksAt + 48 * tasks.length).toBeLessThanOrEqual(end);
      }
    }
  });
});
