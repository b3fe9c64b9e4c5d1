/**
 * What happens while attends are under way: nobody writes what they still touch, and accounts don't show it. The runner here runs
 * nothing until it is told to.
 */
import { type AttentionGeometry, NodeLostError } from '@glinthawk/core';
import { beforeEach, expect, it } from 'vitest';
import { createInlineRunner } from './inline-runner.ts';
import { attentionKernelInfo, loadKernel } from './kernel.ts';
import type { KernelRunner } from './kernel-runner.ts';
import { LocalAttention } from './local-attention.ts';
import { planShards } from './plan-shards.ts';
import { createShards } from './shard.ts';

const geometry: AttentionGeometry = {
  layers: 2,
  kvHeads: 1,
  groupSize: 1,
  headDim: 8,
  softmaxScale: 0.5,
  windows: [0, 0],
  maxContextTokens: 128,
};
const T = 16;
const BLOCKS = 4;
const blockBytes = T * 8 * 2 * 4 * 2;
const QKV = 24;
const OUT = 8;

class HeldRunner implements KernelRunner {
  readonly workers = 1;
  readonly busyMs = 0;
  /** Steps' addresses that wait to be run. */
  readonly held: { readonly run: () => Promise<void>; readonly reject: (error: Error) => void }[] = [];
  readonly #kernels: KernelRunner;

  constructor(kernels: KernelRunner) {
    this.#kernels = kernels;
  }

  attend(...command: Parameters<KernelRunner['attend']>): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.held.push({ run: () => this.#kernels.attend(...command).then(resolve), reject });
    return promise;
  }

  async close(error: Error): Promise<void> {
    for (const { reject } of this.held.splice(0)) reject(error);
  }
}

let backend: LocalAttention;
let runner: HeldRunner;

beforeEach(async () => {
  const options = { kvDtype: 'f32', rowDtype: 'f32' } as const;
  const plan = planShards(geometry, { ...options, workers: 1, blockTokens: T, memoryBytes: BLOCKS * blockBytes });
  const { build, int8 } = attentionKernelInfo();
  const shards = createShards(plan, { ...options, geometry, int8, shared: false });
  runner = new HeldRunner(createInlineRunner(await loadKernel(build, false), shards));
  backend = new LocalAttention({
    ...options,
    name: 'held',
    geometry,
    plan,
    shards,
    runner,
    lost: new Promise(() => {}),
  });
});

const slot = (index: number) => ({ index, generation: 0 });
const turns = () => new Promise((resolve) => setImmediate(resolve));
/** K and V of every token are `value`, so that what is attended to is it, too. */
const rowsOf = (rows: number, value: number) => new Float32Array(rows * QKV).fill(value);

function announce(id: number, index: number, position: number, count: number) {
  backend.announce({ id, entries: [{ slot: slot(index), position, count }] });
}

function attend(id: number, layer: number, rows: number, value: number) {
  const output = new Float32Array(rows * OUT).fill(Number.NaN);
  let settled = false;
  const done = backend.attend(id, layer, rowsOf(rows, value), output).finally(() => {
    settled = true;
  });
  done.catch(() => {});
  return { output, done, settled: () => settled };
}

function expectAll(output: Float32Array, value: number) {
  for (const x of output) expect(x).toBeCloseTo(value, 4);
}

/** Runs what is held, and what that lets go on. */
async function runAll() {
  for (await turns(); runner.held.length > 0; await turns()) await runner.held.shift()?.run();
}

/** One slot's tokens through both layers. */
async function store(id: number, index: number, position: number, count: number, value: number) {
  announce(id, index, position, count);
  for (const layer of [0, 1]) {
    const attending = attend(id, layer, count, value);
    await runAll();
    await attending.done;
  }
  backend.retire(id);
}

it('blocks of a slot that was freed under a running attend are free at once, but who takes them waits', async () => {
  for (const index of [0, 1, 2]) backend.open(slot(index), 0);
  announce(1, 0, 0, 3 * T);
  const first = attend(1, 0, 3 * T, 1);
  await turns();
  backend.free(slot(0));
  expect(backend.stats()).toMatchObject({ usedBlocks: 0, openSlots: 2 });
  announce(2, 1, 0, T); // the block that was never touched
  const second = attend(2, 0, T, 2);
  announce(3, 2, 0, 2 * T); // of the freed ones
  const third = attend(3, 0, 2 * T, 3);
  expect(backend.stats().usedBlocks).toBe(3);
  await turns();
  expect(runner.held).toHaveLength(2);
  await runner.held.pop()?.run();
  await second.done;
  expect(third.settled()).toBe(false);
  await runAll();
  await Promise.all([first.done, third.done]);
  expectAll(second.output, 2);
  expectAll(third.output, 3);
  // The freed slot's rows were still attended to; in the next layer they are zeros.
  expectAll(first.output, 1);
  const later = attend(1, 1, 3 * T, 1);
  await runAll();
  await later.done;
  expectAll(later.output, 0);
});

it.each([
  ['retired', true],
  ['not', false],
])("an attend is waited for by its slot's next step, the last one %s", async (_, retired) => {
  backend.open(slot(0), 0);
  announce(1, 0, 0, 5);
  const abandoned = attend(1, 0, 5, 1);
  if (retired) backend.retire(1);
  announce(2, 0, 0, 7);
  const next = attend(2, 0, 7, 2);
  await turns();
  expect(runner.held).toHaveLength(1);
  await runAll();
  await Promise.all([abandoned.done, next.done]);
  expectAll(abandoned.output, 1);
  expectAll(next.output, 2);
});

it('blocks of a slot that was freed while an earlier step of it runs are not written before', async () => {
  for (const index of [0, 1]) backend.open(slot(index), 0);
  announce(1, 0, 0, 4 * T);
  const abandoned = attend(1, 0, 4 * T, 1);
  backend.retire(1);
  announce(2, 0, 0, 7);
  backend.free(slot(0));
  backend.retire(2);
  announce(3, 1, 0, 3);
  const next = attend(3, 0, 3, 3);
  await turns();
  expect(runner.held).toHaveLength(1);
  await runAll();
  await Promise.all([abandoned.done, next.done]);
  expectAll(abandoned.output, 1);
  expectAll(next.output, 3);
});

it('a copy for a fork waits for the abandoned attend that stores its tokens, and the parent may go meanwhile', async () => {
  backend.open(slot(0), 0);
  await store(1, 0, 0, 4, 1);
  announce(2, 0, 2, 3);
  const abandoned = attend(2, 0, 3, 9);
  backend.retire(2);
  backend.fork(slot(1), slot(0), 5);
  expect(backend.stats().usedBlocks).toBe(2);
  backend.free(slot(0));
  expect(backend.stats().usedBlocks).toBe(1);
  backend.open(slot(2), 0);
  announce(3, 2, 0, 3 * T);
  const greedy = attend(3, 0, 3 * T, 4); // takes the parent's block, among others
  announce(4, 1, 5, 1);
  const child = attend(4, 0, 1, 9);
  await turns();
  expect(runner.held).toHaveLength(1);
  await runAll();
  await Promise.all([abandoned.done, greedy.done, child.done]);
  expectAll(greedy.output, 4);
  // Tokens 0 and 1 are the parent's first ones, 2 to 4 the abandoned attend's, 5 its own; its key is 9, the scores differ.
  expectAll(child.output, 9);
  backend.free(slot(1));
  backend.free(slot(2));
  expect(backend.stats().usedBlocks).toBe(0);
});

it('a fork is made while its parent appends behind it', async () => {
  backend.open(slot(0), 0);
  await store(1, 0, 0, 5, 3);
  announce(2, 0, 5, 1);
  const appending = attend(2, 0, 1, 8);
  await turns();
  backend.fork(slot(1), slot(0), 5);
  announce(3, 1, 5, 1);
  const child = attend(3, 0, 1, 3);
  await turns();
  expect(runner.held).toHaveLength(2);
  await runner.held.pop()?.run();
  await child.done;
  expectAll(child.output, 3);
  await runAll();
  await appending.done;
});

it('tables of a freed slot are not reused while they are read', async () => {
  backend.open(slot(0), 0);
  announce(1, 0, 0, 2);
  const first = attend(1, 0, 2, 1);
  await turns();
  backend.free(slot(0));
  backend.open(slot(1), 0);
  announce(2, 1, 0, 2);
  const second = attend(2, 0, 2, 2);
  await turns();
  expect(runner.held).toHaveLength(2);
  await runner.held.pop()?.run();
  await second.done;
  await runAll();
  await first.done;
  expectAll(second.output, 2);
  // What the first attend appended is not in the second slot's block.
  announce(3, 1, 2, 1);
  const third = attend(3, 0, 1, 2);
  await runAll();
  await third.done;
  expectAll(third.output, 2);
});

it('staging of a step that is retired under its attend is not reused before', async () => {
  for (const index of [0, 1]) backend.open(slot(index), 0);
  announce(1, 0, 0, 2);
  const first = attend(1, 0, 2, 1);
  await turns();
  backend.retire(1);
  announce(2, 1, 0, 2);
  const second = attend(2, 0, 2, 2);
  await runAll();
  await Promise.all([first.done, second.done]);
  expectAll(first.output, 1);
  expectAll(second.output, 2);
});

it('closing rejects what runs and what waits', async () => {
  for (const index of [0, 1]) backend.open(slot(index), 0);
  announce(1, 0, 0, 4 * T);
  const running = attend(1, 0, 4 * T, 1);
  await turns();
  backend.free(slot(0));
  announce(2, 1, 0, 1);
  const waiting = attend(2, 0, 1, 1);
  await turns();
  await backend.close();
  await expect(running.done).rejects.toThrow(NodeLostError);
  await expect(waiting.done).rejects.toThrow(NodeLostError);
  expect(backend.allocatedBytes()).toBe(0);
  expect(backend.stats().usedBlocks).toBe(0);
});
