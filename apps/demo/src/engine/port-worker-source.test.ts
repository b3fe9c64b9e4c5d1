/** With workers that are none: what is reported belongs to the worker that was started last. */
import { afterEach, expect, it, vi } from 'vitest';
import { PortWorkerSource } from './port-worker-source.ts';

const geometry = {
  layers: 1,
  kvHeads: 1,
  groupSize: 1,
  headDim: 16,
  softmaxScale: 1,
  windows: [0],
  maxContextTokens: 64,
};
const options = { kvDtype: 'f32', fingerprint: 'x' } as const;

afterEach(() => vi.unstubAllGlobals());

it('says why its script did not load, and later what else is wrong', async () => {
  let workers = 0;
  class FailingWorker {
    onerror: ((event: Event) => void) | null = null;
    constructor() {
      if (++workers > 1) throw new Error('no more workers here');
      setTimeout(() => this.onerror?.(Object.assign(new Event('error'), { message: 'not found' })));
    }
    postMessage(): void {}
    terminate(): void {}
  }
  vi.stubGlobal('Worker', FailingWorker);
  const source = new PortWorkerSource({ name: 'worker 1', memoryBytes: 1 });
  await expect(source.connect(geometry, options)).rejects.toThrow('worker 1 ended: not found');
  await expect(source.connect(geometry, options)).rejects.toThrow('no more workers here');
  source.destroy();
});
