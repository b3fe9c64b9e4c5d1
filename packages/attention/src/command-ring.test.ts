/** The ring of commands with real threads, whose "kernels" only count. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { CapacityError } from '@glinthawk/core';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { CommandRing, RING_COMMANDS } from './command-ring.ts';

const TASKS = 8;
/** Of a worker's gates: before a task is taken, and in it. */
const [CLOSED, STOPPED, CLOSED_INSIDE] = [0, 1, 2];
const GATE_FIELDS = 4;

/**
 * Adds one for each task that it runs, under the command's step, and one to index 0 for each whose other fields aren't that
 * step's. While its gate is closed it stops between reading the ring and taking a task from it,
 * or in the task.
 */
const source = `
  const { workerData, parentPort } = require('node:worker_threads');
  const { url, control, index, log, gates } = workerData;
  const counts = new Int32Array(log);
  const gate = new Int32Array(gates, ${4 * GATE_FIELDS} * index);
  const exchange = Atomics.compareExchange;
  Atomics.compareExchange = (...args) => {
    while (Atomics.load(gate, ${CLOSED}) === 1) {
      Atomics.store(gate, ${STOPPED}, 1);
      Atomics.wait(gate, ${CLOSED}, 1);
    }
    Atomics.store(gate, ${STOPPED}, 0);
    return exchange(...args);
  };
  import(url).then(({ serveRing }) => {
    parentPort.postMessage('ready');
    serveRing(control, index, (memory, step, layer, task) => {
      while (Atomics.load(gate, ${CLOSED_INSIDE}) === 1) {
        Atomics.store(gate, ${STOPPED}, 1);
        Atomics.wait(gate, ${CLOSED_INSIDE}, 1);
      }
      if (memory !== step % 7 || layer !== step % 11) Atomics.add(counts, 0, 1);
      Atomics.add(counts, ${TASKS} * step + task, 1);
    });
  });
`;

const running: Worker[] = [];
afterEach(async () => {
  await Promise.all(running.splice(0).map((worker) => worker.terminate()));
});

interface Team {
  readonly ring: CommandRing;
  readonly submit: (step: number, tasks: number) => Promise<void>;
  readonly counts: Int32Array;
  readonly close: (worker: number, where?: number) => void;
  readonly open: (worker: number, where?: number) => void;
  readonly stopped: (worker: number) => Promise<void>;
}

async function start(workers: number, steps: number): Promise<Team> {
  const ring = new CommandRing(workers, (active) => (active ? running[0]?.ref() : running[0]?.unref()));
  const log = new SharedArrayBuffer(4 * TASKS * (steps + 1));
  const gates = new SharedArrayBuffer(4 * GATE_FIELDS * workers);
  const gate = new Int32Array(gates);
  const url = new URL('./command-ring.ts', import.meta.url).href;
  const started = Array.from({ length: workers }, async (_, index) => {
    const workerData = { url, control: ring.control, index, log, gates };
    const worker = new Worker(source, { eval: true, workerData, execArgv: [] });
    running.push(worker);
    await once(worker, 'message');
  });
  await Promise.all(started);
  return {
    ring,
    submit: (step, tasks) => ring.submit(step % 7, step, step % 11, tasks),
    counts: new Int32Array(log),
    close: (worker, where = CLOSED) => void Atomics.store(gate, GATE_FIELDS * worker + where, 1),
    open(worker, where = CLOSED) {
      Atomics.store(gate, GATE_FIELDS * worker + where, 0);
      Atomics.notify(gate, GATE_FIELDS * worker + where);
    },
    stopped: (worker) => expect.poll(() => Atomics.load(gate, GATE_FIELDS * worker + STOPPED)).toBe(1),
  };
}

/** Each task of steps 1 to `steps` ran once, with its own command's fields. */
function requireOnce(counts: Int32Array, steps: number, tasksOf: (step: number) => number): void {
  const wrong: number[] = [];
  for (let step = 1; step <= steps; step++) {
    for (let task = 0; task < TASKS; task++) {
      if (counts[TASKS * step + task] !== Number(task < tasksOf(step))) wrong.push(step);
    }
  }
  expect({ mixedUp: counts[0], wrong }).toEqual({ mixedUp: 0, wrong: [] });
}

describe('workers of a ring', () => {
  it.each([1, 3])('%i of them run every task of many commands once, over several laps', async (workers) => {
    const steps = 2.5 * RING_COMMANDS;
    const { ring, submit, counts } = await start(workers, steps);
    const tasksOf = (step: number) => 1 + (step % TASKS);
    const inFlight = new Set<Promise<void>>();
    for (let step = 1; step <= steps; step++) {
      const attend: Promise<void> = submit(step, tasksOf(step)).then(() => {
        expect(counts[TASKS * step + tasksOf(step) - 1]).toBe(1); // it is done when it says so
        inFlight.delete(attend);
      });
      inFlight.add(attend);
      if (inFlight.size === 40) await Promise.race(inFlight);
    }
    await Promise.all(inFlight);
    requireOnce(counts, steps, tasksOf);
    expect(ring.busyMs).toBeGreaterThan(0);
  });

  it('one that lags while the ring goes around takes no task of a later command for one of its own', async () => {
    const steps = RING_COMMANDS + 1;
    const [laggard, other] = [0, 1];
    const { submit, counts, close, open, stopped } = await start(2, steps);
    for (const worker of [laggard, other]) close(worker);
    const first = submit(1, 2);
    for (const worker of [laggard, other]) await stopped(worker); // both are about to take its first task
    open(other);
    await first;
    for (let step = 2; step <= RING_COMMANDS; step++) await submit(step, 1);
    close(other);
    const last = submit(steps, 1); // where the first one was, and its first task is free
    await stopped(other);
    open(laggard);
    await last;
    open(other);
    requireOnce(counts, steps, (step) => (step === 1 ? 2 : 1));
  });

  it('more of them than tasks, and none of them after long idleness, miss anything', async () => {
    const { submit, counts } = await start(4, 30);
    for (let step = 1; step <= 30; step++) {
      await submit(step, 1);
      if (step % 10 === 0) await new Promise((resolve) => setTimeout(resolve, 20));
    }
    requireOnce(counts, 30, () => 1);
  });

  it('go on to later commands without waiting for one that is still in a task', async () => {
    const [busy, other] = [0, 1];
    const { ring, submit, counts, close, open, stopped } = await start(2, 20);
    close(busy, CLOSED_INSIDE);
    close(other);
    let done = false;
    const first = submit(1, 4).then(() => {
      done = true;
    });
    await stopped(busy);
    open(other);
    for (let step = 2; step <= 20; step++) await submit(step, 1 + (step % 3));
    expect(done).toBe(false);
    open(busy, CLOSED_INSIDE);
    await first;
    requireOnce(counts, 20, (step) => (step === 1 ? 4 : 1 + (step % 3)));
    expect(ring.busyMs).toBeGreaterThan(0);
  });
});

describe('a ring without workers', () => {
  it('closes a slot to laggards before anything of the next command is there', () => {
    const ring = new CommandRing(1, () => {});
    const stores = vi.spyOn(Atomics, 'store');
    const submitted = ring.submit(7, 4096, 3, 4);
    const [closed, ...rest] = stores.mock.calls.map(([, index, value]) => ({ index, value: Number(value) }));
    stores.mockRestore();
    const published = rest.findLast(({ index }) => index === closed?.index);
    expect(rest.filter(({ index }) => index === closed?.index)).toHaveLength(1);
    expect(published?.value).toBe(0); // its first task
    expect(closed?.value).toBe(2 ** 15 - 1); // of the same lap, and no task that a command can have
    expect(rest.slice(0, rest.indexOf(published as never)).map(({ value }) => value)).toEqual([7, 4096, 3, 4, 0]);
    ring.fail(new Error('the end'));
    return expect(submitted).rejects.toThrow('the end');
  });

  it('takes so many commands, then refuses, and rejects all of them when it fails', async () => {
    const active: boolean[] = [];
    const ring = new CommandRing(1, (is) => active.push(is));
    const waiting = Array.from({ length: RING_COMMANDS }, (_, step) => ring.submit(0, step, 0, 1));
    await expect(ring.submit(0, 0, 0, 1)).rejects.toThrow(CapacityError);
    await expect(ring.submit(0, 0, 0, 1 << 20)).rejects.toThrow(/tasks/);
    ring.fail(new Error('the end'));
    const settled = await Promise.allSettled(waiting);
    expect(settled.every((result) => result.status === 'rejected' && result.reason.message === 'the end')).toBe(true);
    await expect(ring.submit(0, 0, 0, 1)).rejects.toThrow('the end');
    await expect.poll(() => active).toEqual([true, false]);
  });

  it('has nothing to do for a command of no tasks', async () => {
    await new CommandRing(1, () => {}).submit(0, 0, 0, 0);
  });
});
