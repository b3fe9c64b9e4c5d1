import { expect, it } from 'vitest';
import { StageQueue } from './stage-queue.ts';

const ticket = (depth: number, outstandingRows = 0) => ({ depth, outstandingRows: () => outstandingRows });

it('runs as many as may run, and the deepest of those that wait', async () => {
  const queue = new StageQueue({ policy: 'deepest-first', concurrency: 2, capacity: 8 });
  const order: number[] = [];
  let underWay = 0;
  const call = (depth: number) =>
    queue.run(ticket(depth), async () => {
      underWay++;
      expect(underWay).toBeLessThanOrEqual(2);
      order.push(depth);
      await new Promise((resolve) => setTimeout(resolve, 1));
      underWay--;
      return depth;
    });
  expect(await Promise.all([0, 1, 2, 5, 3].map(call))).toEqual([0, 1, 2, 5, 3]);
  expect(order).toEqual([0, 1, 5, 3, 2]);
  expect([queue.waiting, queue.running]).toEqual([0, 0]);
});

it('asks about starvation when it chooses, not when a stage arrives', async () => {
  const queue = new StageQueue({ policy: 'starvation-first', concurrency: 1, capacity: 8 });
  const rows = { a: 0, b: 1 };
  const order: string[] = [];
  const note = (name: string) => async () => {
    order.push(name);
  };
  const first = queue.run(ticket(0), async () => {
    await Promise.resolve();
    rows.a = 9;
  });
  const a = queue.run({ depth: 0, outstandingRows: () => rows.a }, note('a'));
  const b = queue.run({ depth: 0, outstandingRows: () => rows.b }, note('b'));
  await Promise.all([first, a, b]);
  expect(order).toEqual(['b', 'a']);
});

it('a call that throws gives its place on; the queue has a bound', async () => {
  const queue = new StageQueue({ policy: 'fcfs', concurrency: 1, capacity: 1 });
  const broken = queue.run(ticket(0), async () => {
    throw new Error('broken');
  });
  const next = queue.run(ticket(0), async () => 'next');
  await expect(queue.run(ticket(0), async () => 'too many')).rejects.toThrow('bound');
  await expect(broken).rejects.toThrow('broken');
  expect(await next).toBe('next');
});
