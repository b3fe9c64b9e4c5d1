/** A peer's process: it has its libraries, threads and memory for itself, and they are gone with it. */
import { workData } from '../work.ts';
import { shareData } from './matmul-form.ts';
import type { Answer, Implementation, Request, Task } from './task.ts';

async function start(task: Task): Promise<Implementation> {
  const data = shareData(task.whole, task.share, workData(task.whole));
  switch (task.kind) {
    case 'tfjs':
      return (await import('./tfjs.ts')).tfjsMatmul(task, data);
    case 'onnx-web':
    case 'onnx-node':
      return (await import('./onnx.ts')).onnxMatmul(task, data, task.kind === 'onnx-web');
    case 'onnx-node-gqa':
      return (await import('./onnx.ts')).onnxGroupQueryAttention(task, data);
    default:
      return task.kind satisfies never;
  }
}

let implementation: Implementation | null = null;

async function answer(request: Request): Promise<Answer> {
  if (request.what === 'start') {
    implementation = await start(request.task);
    return { what: 'started', note: implementation.note ?? '' };
  }
  if (implementation === null) throw new Error('nothing was started');
  if (request.what === 'output') return { what: 'output', output: await implementation.output() };
  const begun = process.hrtime.bigint();
  await implementation.run();
  return { what: 'ran', begun: Number(begun) / 1e6, ended: Number(process.hrtime.bigint()) / 1e6 };
}

process.on('message', (request: Request) => {
  answer(request)
    .catch((error: unknown): Answer => ({ what: 'failed', reason: String(error) }))
    .then((reply) => process.send?.(reply));
});
process.on('disconnect', () => process.exit());
