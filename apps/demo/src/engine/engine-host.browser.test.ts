/**
 * What the engine worker survives: attention workers that end without a word, GPU devices that are destroyed, WASM dense workers
 * that die. The host runs in this page, so that a test can reach the workers and the device; output is the undisturbed one's.
 */
import { DeviceError } from '@glinthawk/core';
import { createWebGpuDense, type DenseBackend, openGpuDevice } from '@glinthawk/dense';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type OpenDense, openDenseTier } from './dense-tier.ts';
import { EngineHost, type EngineHostOptions } from './engine-host.ts';
import type { TierSettings } from './protocol.ts';
import { generateCommand, RecordedEvents, twoTiers } from './recorded-events.fixture.ts';

const PROMPTS = ['Once upon a time', 'Tom had a red kite.', 'The dog', 'One day'];
const TOKENS = 48;

/** Workers made since the last test, by name. */
const workers: { readonly name: string; readonly worker: Worker }[] = [];
const PlainWorker = globalThis.Worker;
beforeAll(() => {
  globalThis.Worker = class extends PlainWorker {
    constructor(url: string | URL, options?: WorkerOptions) {
      super(url, options);
      workers.push({ name: options?.name ?? '', worker: this });
    }
  };
});

type LosableDense = DenseBackend & { lose(): void };

/** The device tells that it is lost when the test says so. */
function losable(dense: DenseBackend): LosableDense {
  const { promise: lost, resolve } = Promise.withResolvers<DeviceError>();
  return Object.assign(dense, { lost, lose: () => resolve(new DeviceError('DEVICE_LOST', 'taken away')) });
}

const hosts: EngineHost[] = [];
afterEach(async () => {
  for (const host of hosts.splice(0)) host.handle({ type: 'close' });
  workers.length = 0;
});

function newHost(options: Omit<EngineHostOptions, 'send'> = {}): { host: EngineHost; events: RecordedEvents } {
  const events = new RecordedEvents();
  const host = new EngineHost({ ...options, send: (event) => events.add(event) });
  hosts.push(host);
  return { host, events };
}

async function opened(options: Omit<EngineHostOptions, 'send'>, tiers: TierSettings) {
  const { host, events } = newHost(options);
  host.handle({ type: 'open', model: { kind: 'example' }, tiers });
  await events.next('ready');
  return { host, events };
}

async function texts(events: RecordedEvents, run: number): Promise<readonly string[]> {
  const ended = await events.next('ended', (event) => event.run === run);
  expect(ended).toMatchObject({ how: 'done', error: null });
  const finished = events.of('finished').filter((event) => event.run === run);
  expect(finished.length).toBe(PROMPTS.length);
  return finished.toSorted((a, b) => a.index - b.index).map(({ text }) => text);
}

let undisturbed: readonly string[] = [];

it('runs on workers that share no memory, each reached by a MessagePort', async () => {
  const { host, events } = await opened({ sharedMemory: false }, twoTiers);
  expect(workers.filter(({ name }) => /^glinthawk-worker-\d$/.test(name)).length).toBe(2);
  expect(events.of('ready')[0]?.tiers.remarks.join(' ')).toContain('no shared memory');
  host.handle(generateCommand(1, PROMPTS, { maxTokens: TOKENS }));
  undisturbed = await texts(events, 1);
  expect(undisturbed[0]).toContain('there was a little girl named Lily');
  const { sample } = events.of('sample').at(-1) ?? {};
  expect(sample?.stats.bytesSent).toBeGreaterThan(sample?.tierBytesOut ?? Number.POSITIVE_INFINITY);
});

for (const sharedMemory of [true, false]) {
  it(`goes on when an attention worker ends silently, ${sharedMemory ? 'shared memory' : 'ports'}`, async () => {
    // Chromium lets a terminated worker that is busy work on for two seconds; the run must take longer.
    const tiers = { ...twoTiers, latencyMs: sharedMemory ? 12 : 0 };
    const { host, events } = await opened({ sharedMemory, attendTimeoutMs: 1000 }, tiers);
    const named = sharedMemory ? 'glinthawk-attention-0' : 'glinthawk-worker-2';
    const victim = workers.findLast(({ name }) => name === named);
    host.handle(generateCommand(1, PROMPTS, { maxTokens: TOKENS }));
    await events.next('tokens');
    victim?.worker.terminate(); // nobody is told
    expect(await texts(events, 1)).toEqual(undisturbed);
    const notices = events.of('notice').map(({ notice }) => notice.text);
    const losses = notices.filter((text) => /worker \d is lost/.test(text));
    expect(losses).toHaveLength(1);
    expect(losses[0]?.match(/is lost/g)).toHaveLength(1);
    const { sample } = events.of('sample').at(-1) ?? {};
    expect(sample?.stats.nodesLost).toBe(1);
  });
}

it('goes on when its only attention worker ends', async () => {
  const { host, events } = await opened({ attendTimeoutMs: 1000 }, { ...twoTiers, workers: 1, latencyMs: 12 });
  host.handle(generateCommand(1, PROMPTS, { maxTokens: TOKENS }));
  await events.next('tokens');
  workers.findLast(({ name }) => name === 'glinthawk-attention-0')?.worker.terminate();
  expect(await texts(events, 1)).toEqual(undisturbed);
  expect(events.of('sample').at(-1)?.sample.stats.nodesLost).toBe(1);
});

it('opens a destroyed GPU device again and gives the same; a second loss soon after fails with what to do', async () => {
  const devices: GPUDevice[] = [];
  const openDense: OpenDense = async (model) => {
    const gpu = await openGpuDevice({ allowSoftware: true });
    devices.push(gpu.device);
    return createWebGpuDense(gpu, model, { weightDtype: 'f32' });
  };
  const { host, events } = await opened({ openDense }, { ...twoTiers, dense: 'webgpu' });
  host.handle(generateCommand(1, PROMPTS, { maxTokens: 6 }));
  await events.next('tokens');
  devices[0]?.destroy();
  const again = await texts(events, 1);
  for (const [i, text] of again.entries()) expect(undisturbed[i]?.startsWith(text)).toBe(true);
  expect(events.of('restarted').length).toBe(1);
  expect(events.of('notice').map(({ notice }) => notice.level)).toEqual(['warn', 'info']);

  host.handle(generateCommand(2, PROMPTS, { maxTokens: 6 }));
  await events.next('tokens', (event) => event.run === 2);
  devices[1]?.destroy();
  const failed = await events.next('failed');
  expect(failed.error).toMatchObject({ code: 'DEVICE_LOST' });
  expect(failed.error.hint).toContain('WASM');
  await expect.poll(() => events.of('ended').at(-1)).toMatchObject({ run: 2, how: 'failed' });
  expect(devices.length).toBe(2);
});

it('opens a WASM dense tier again whose worker died, while a batch runs', async () => {
  const denses: DenseBackend[] = [];
  const openDense: OpenDense = async (...how) => {
    const dense = await openDenseTier(...how);
    denses.push(dense);
    return dense;
  };
  const { host, events } = await opened({ openDense }, twoTiers);
  const lines = PROMPTS.map((prompt) => JSON.stringify({ prompt, max_tokens: TOKENS, temperature: 0 }));
  host.handle({ type: 'batch', run: 1, input: new Blob([lines.join('\n')]), skipInvalid: false });
  await events.next('batch', ({ generatedTokens }) => generatedTokens > 8);
  const victim = workers.findLast(({ name }) => name === 'glinthawk-dense');
  victim?.worker.dispatchEvent(new ErrorEvent('error', { message: 'out of memory' }));
  await events.next('ended');
  const { results, complete } = await events.next('batchResults');
  expect(complete).toBe(true);
  const parsed = (await results.text())
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(parsed.map(({ response }) => response.body.choices[0].text)).toEqual(undisturbed);
  expect(denses.length).toBe(2);
  expect(denses[0]?.allocatedBytes()).toBe(0);
});

it('an opening that never ends is given up for the next one', async () => {
  const never: OpenDense = () => new Promise(() => {});
  let opens = 0;
  const openDense: OpenDense = (...how) => (++opens === 1 ? never(...how) : openDenseTier(...how));
  const { host, events } = newHost({ openDense });
  host.handle({ type: 'open', model: { kind: 'example' }, tiers: twoTiers });
  await events.next('described');
  host.handle({ type: 'open', model: { kind: 'example' }, tiers: { ...twoTiers, workers: 1 } });
  const ready = await events.next('ready');
  expect(ready.tiers.nodes.length).toBe(1);
});

describe('a device that is lost and hangs while it is opened again', () => {
  /** The first device can be lost; the second never comes. */
  async function hanging(options: Partial<EngineHostOptions> = {}) {
    const devices: LosableDense[] = [];
    let opens = 0;
    const openDense: OpenDense = async (...how) => {
      if (++opens === 2) await new Promise(() => {});
      const dense = losable(await openDenseTier(...how));
      devices.push(dense);
      return dense;
    };
    const { host, events } = await opened({ ...options, openDense }, { ...twoTiers, workers: 1 });
    host.handle(generateCommand(1, PROMPTS, { maxTokens: 200 }));
    await events.next('tokens');
    devices[0]?.lose();
    await expect.poll(() => opens).toBe(2);
    return { host, events };
  }

  it('stop ends the run, and so it does for one that was begun meanwhile', async () => {
    const { host, events } = await hanging();
    host.handle(generateCommand(2, ['Once'], { maxTokens: 2 }));
    for (const run of [1, 2]) {
      host.handle({ type: 'stop', run });
      expect(await events.next('ended', (event) => event.run === run)).toMatchObject({ how: 'stopped' });
    }
  });

  it('close gives everything back', async () => {
    const { host, events } = await hanging();
    host.handle({ type: 'close' });
    await events.next('closed');
    expect(events.of('ended')).toMatchObject([{ run: 1, how: 'stopped' }]);
  });

  for (const what of ['open', 'retier'] as const) {
    it(`${what} opens another one, and runs go on there`, async () => {
      const { host, events } = await hanging();
      const since = events.all.length;
      host.handle({ type: what, model: { kind: 'example' }, tiers: twoTiers });
      const ready = await events.next('ready', () => true, since);
      expect(ready.tiers.nodes.length).toBe(2);
      host.handle(generateCommand(2, PROMPTS, { maxTokens: TOKENS }));
      expect(await texts(events, 2)).toEqual(undisturbed);
    });
  }

  it('is given up when nothing moves for too long', async () => {
    const { events } = await hanging({ recoveryStallMs: 300 });
    const { error } = await events.next('failed');
    expect(error).toMatchObject({ code: 'DEVICE_LOST' });
    expect(error.message).toContain('no progress for 0.3 seconds');
    expect(events.of('ended')).toMatchObject([{ run: 1, how: 'failed', error: { code: 'DEVICE_LOST' } }]);
  });
});

it('a dense call that hangs holds up neither stop nor close', async () => {
  let calls = 0;
  const openDense: OpenDense = async (...how) => {
    const dense = await openDenseTier(...how);
    const plain = dense.createBatch.bind(dense);
    const createBatch: DenseBackend['createBatch'] = async (options) => {
      const batch = await plain(options);
      const advance = batch.advance.bind(batch);
      return Object.assign(batch, {
        advance: (layer: number) => (++calls > 40 ? new Promise<void>(() => {}) : advance(layer)),
      });
    };
    return Object.assign(dense, { createBatch });
  };
  const { host, events } = await opened({ openDense }, twoTiers);
  host.handle(generateCommand(1, PROMPTS, { maxTokens: 200 }));
  await events.next('tokens');
  await expect.poll(() => calls).toBeGreaterThan(40);
  host.handle({ type: 'stop', run: 1 });
  expect(await events.next('ended')).toMatchObject({ run: 1, how: 'stopped' });
  host.handle({ type: 'close' });
  await events.next('closed');
}, 30_000);

it('a failure is the last word, also for whoever asks for other tiers before having heard of it', async () => {
  const devices: LosableDense[] = [];
  const openDense: OpenDense = async (...how) => {
    if (devices.length > 0) throw new DeviceError('NO_DEVICE', 'gone for good');
    const dense = losable(await openDenseTier(...how));
    devices.push(dense);
    return dense;
  };
  const { host, events } = await opened({ openDense }, twoTiers);
  host.handle(generateCommand(1, PROMPTS, { maxTokens: 200 }));
  await events.next('tokens');
  devices[0]?.lose();
  await events.next('ended');
  host.handle({ type: 'retier', tiers: twoTiers });
  const { error } = await events.next('failed');
  expect(error).toMatchObject({ code: 'DEVICE_LOST', message: expect.stringContaining('gone for good') });
  host.handle({ type: 'retier', tiers: twoTiers });
  host.handle({ type: 'close' });
  await expect.poll(() => events.of('closed').length).toBe(1);
  expect(events.of('failed').length).toBe(1);
});

it('says what to do when there is no memory', async () => {
  const openDense: OpenDense = async () => {
    throw new RangeError('Array buffer allocation failed');
  };
  const { host, events } = newHost({ openDense });
  host.handle({ type: 'open', model: { kind: 'example' }, tiers: twoTiers });
  const { error } = await events.next('failed');
  expect(error.code).toBe('OUT_OF_MEMORY');
  expect(error.hint).toContain('smaller model');
});

it('takes nonsense for an error, not for an end', async () => {
  const { host, events } = newHost();
  host.handle({ type: 'dance' } as never);
  host.handle({ type: 'generate', run: 1 } as never);
  host.handle({ type: 'open' } as never);
  await events.next('notice');
  await events.next('failed');
  await expect.poll(() => events.of('ended')[0]).toMatchObject({ run: 1, how: 'failed' });
});
