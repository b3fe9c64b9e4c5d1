/** The engine worker as the page has it: the example's goldens on both dense tiers and every place of attention, stop, and batch. */
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { EngineClient } from './client.ts';
import type { Event, TierSettings } from './protocol.ts';
import { generateCommand, RecordedEvents, twoTiers } from './recorded-events.fixture.ts';
import { SPAN_FIELDS, SpanField, SpanKind } from './span.ts';

interface Golden {
  readonly prompt: string;
  readonly greedy_ids: readonly number[];
  readonly text: string;
}

const client = new EngineClient();
const events = new RecordedEvents();
let goldens: readonly Golden[] = [];
let run = 0;

beforeAll(async () => {
  client.subscribe((event) => events.add(event));
  const response = await fetch(new URL('../../../../examples/tale-1m/golden.json', import.meta.url));
  goldens = ((await response.json()) as { readonly cases: readonly Golden[] }).cases;
});
afterAll(() => client.destroy());

/** @param maxTokens fewer than the goldens have, where they take long */
async function expectGoldens(count: number, maxTokens = Number.POSITIVE_INFINITY): Promise<void> {
  const since = events.all.length;
  const chosen = goldens
    .slice(0, count)
    .map((golden) => ({ ...golden, greedy_ids: golden.greedy_ids.slice(0, maxTokens) }));
  const longest = Math.max(...chosen.map(({ greedy_ids }) => greedy_ids.length));
  client.send(
    generateCommand(
      ++run,
      chosen.map(({ prompt }) => prompt),
      { maxTokens: longest },
    ),
  );
  const ended = await events.next('ended', (event) => event.run === run, since);
  expect(ended).toMatchObject({ how: 'done', error: null });
  for (const [index, golden] of chosen.entries()) {
    const finished = await events.next('finished', (event) => event.run === run && event.index === index, since);
    expect(finished.tokenIds.slice(0, golden.greedy_ids.length)).toEqual(golden.greedy_ids);
    expect(finished.text.startsWith(golden.text) || golden.text.startsWith(finished.text)).toBe(true);
  }
  expect(ended.generatedTokens).toBeGreaterThanOrEqual(
    chosen.reduce((sum, { greedy_ids }) => sum + greedy_ids.length, 0),
  );
}

function isErrorNotice(event: Event): boolean {
  return event.type === 'notice' && event.notice.level === 'error';
}

async function open(tiers: TierSettings): Promise<void> {
  const since = events.all.length;
  client.send({ type: 'open', model: { kind: 'example' }, tiers });
  await events.next('ready', () => true, since);
}

async function retier(tiers: TierSettings): Promise<void> {
  const since = events.all.length;
  client.send({ type: 'retier', tiers });
  await events.next('ready', () => true, since);
}

it('says what this browser has', async () => {
  client.send({ type: 'probe' });
  const { capabilities } = await events.next('probed');
  expect(capabilities).toMatchObject({ crossOriginIsolated: true, kernels: { sharedMemory: true } });
  expect(capabilities.gpus.length).toBeGreaterThan(0);
});

describe('on WASM', () => {
  it('opens the example and gives its goldens on two tiers', async () => {
    await open(twoTiers);
    const [described] = events.of('described');
    expect(described?.model).toMatchObject({ hasChatTemplate: true, description: { name: 'tale-1m' } });
    const ready = events.of('ready').at(-1);
    expect(ready?.tiers.nodes).toEqual([
      { name: 'worker 1', kind: 'worker' },
      { name: 'worker 2', kind: 'worker' },
    ]);
    expect(events.of('progress').map(({ stage }) => stage)).toContain('loading weights');
    await expectGoldens(4);
  });

  it('sent samples whose spans are of both tiers, in order of time, and whose residents are the prompts', () => {
    const samples = events.of('sample').map(({ sample }) => sample);
    const kinds = new Set<number>();
    const nodes = new Set<number>();
    for (const { spans } of samples) {
      expect(spans.length % SPAN_FIELDS).toBe(0);
      for (let at = 0; at < spans.length; at += SPAN_FIELDS) {
        const field = (name: keyof typeof SpanField) => spans[at + SpanField[name]] ?? Number.NaN;
        kinds.add(field('kind'));
        if (field('kind') === SpanKind.attention) nodes.add(field('node'));
        const times = [field('sent'), field('began'), field('ended'), field('back')];
        expect(times).toEqual(times.toSorted((a, b) => a - b));
      }
    }
    expect([...kinds].sort()).toEqual([0, 1, 2]);
    expect([...nodes].sort()).toEqual([0, 1]);
    const residents = samples.flatMap((sample) => sample.residents);
    expect(residents.some(({ id }) => id === `${run}.0`)).toBe(true);
    const last = samples.at(-1);
    expect(last?.tierBytesOut).toBeGreaterThan(last?.tierBytesIn ?? 0);
    expect(last?.residents).toEqual([]);
    expect(last?.nodes[0]).toMatchObject({ name: 'worker 1', connected: true, usedBlocks: 0 });
    expect(last?.nodes[0]?.blockTokens).toBeGreaterThan(0);
  });

  it('said with each sample until when all is told: no later span reaches back behind it', () => {
    let behindMs = 0;
    let untilMs = 0;
    for (const { sample } of events.of('sample')) {
      for (let at = 0; at < sample.spans.length; at += SPAN_FIELDS) {
        const attention = sample.spans[at + SpanField.kind] === SpanKind.attention;
        const from = sample.spans[at + (attention ? SpanField.sent : SpanField.began)];
        expect(from).toBeGreaterThanOrEqual(untilMs);
      }
      expect(sample.completeUntilMs).toBeGreaterThanOrEqual(untilMs);
      untilMs = sample.completeUntilMs;
      behindMs = Math.max(behindMs, sample.atMs - untilMs);
    }
    expect(behindMs).toBeGreaterThan(0);
  });

  it('gives them on one tier, the dense tier kept', async () => {
    const since = events.all.length;
    await retier({ ...twoTiers, mode: 'one-tier' });
    const stages = events.all.slice(since).flatMap((event) => (event.type === 'progress' ? [event.stage] : []));
    expect(stages).not.toContain('loading weights');
    expect(events.of('ready').at(-1)?.tiers.nodes).toEqual([{ name: 'dense tier', kind: 'inline' }]);
    await expectGoldens(2);
    // Its samples are told from those of the engine before.
    expect(new Set(events.of('sample').map(({ sample }) => sample.epoch)).size).toBe(2);
  });

  it('adds a latency that can be changed while running', async () => {
    await retier({ ...twoTiers, workers: 1, inFlight: 1, latencyMs: 20 });
    const since = events.all.length;
    client.send(generateCommand(++run, ['Once upon a time'], { maxTokens: 4 }));
    const ended = await events.next('ended', () => true, since);
    const layers = events.of('ready').at(-1)?.model.description.layers ?? 0;
    expect(ended.wallMs).toBeGreaterThan(4 * layers * 20);
    client.send({ type: 'latency', ms: 0 });
    client.send(generateCommand(++run, ['Once upon a time'], { maxTokens: 4 }));
    const faster = await events.next('ended', (event) => event.run === run, since);
    expect(faster.wallMs).toBeLessThan(4 * layers * 20);
  });

  it('stops when told, keeps what it has, and goes on with the next run', async () => {
    const since = events.all.length;
    client.send(generateCommand(++run, ['Once upon a time'], { maxTokens: 400 }));
    await events.next('tokens', () => true, since);
    client.send({ type: 'stop', run });
    const ended = await events.next('ended', () => true, since);
    expect(ended).toMatchObject({ run, how: 'stopped', error: null });
    expect(ended.generatedTokens).toBeGreaterThan(0);
    await expectGoldens(1);
  });

  it('fails one prompt and runs the others', async () => {
    const since = events.all.length;
    const { sampling } = generateCommand(0, []);
    client.send({
      type: 'generate',
      run: ++run,
      prompts: [
        { kind: 'chat', messages: [] },
        { kind: 'text', text: 'word '.repeat(600) },
        { kind: 'text', text: 'Tom' },
      ],
      sampling,
    });
    const ended = await events.next('ended', () => true, since);
    expect(ended.how).toBe('done');
    const failed = events.all.slice(since).flatMap((event) => (event.type === 'requestFailed' ? [event] : []));
    expect(failed.map(({ index, error }) => [index, error.code])).toEqual([
      [0, 'NO_MESSAGES'],
      [1, 'CONTEXT_EXCEEDED'],
    ]);
    await events.next('finished', (event) => event.run === run && event.index === 2, since);
  });

  it('runs a batch, gzipped, in the order of its input, whatever lines are wrong', async () => {
    const since = events.all.length;
    const lines = [
      '{"prompt": "Once", "max_tokens": 8, "temperature": 0}',
      'nonsense',
      '{"prompt": "Tom", "max_tokens": 2, "seed": 3}',
    ];
    const zipped = new Blob([lines.join('\n')]).stream().pipeThrough(new CompressionStream('gzip'));
    const input = await new Response(zipped).blob();
    client.send({ type: 'batch', run: ++run, input, skipInvalid: false });
    const refused = await events.next('ended', () => true, since);
    expect(refused).toMatchObject({ how: 'failed', error: { code: 'INVALID_REQUESTS' } });
    expect(refused.error?.message).toContain('line 2');
    client.send({ type: 'batch', run: ++run, input, skipInvalid: true });
    const ended = await events.next('ended', (event) => event.run === run, since);
    expect(ended).toMatchObject({ how: 'done', generatedTokens: 10 });
    const { results, errors, complete } = await events.next('batchResults', () => true, since);
    expect(complete).toBe(true);
    const parsed = (await results.text())
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(parsed.map(({ custom_id }) => custom_id)).toEqual(['line-1', 'line-3']);
    expect(JSON.parse(await errors.text())).toMatchObject({ error: { line: 2 } });
    expect(events.of('batch').at(-1)).toMatchObject({ succeeded: 2, failed: 1, summary: { requests: 3, invalid: 1 } });
  });

  it('gives partial results of a batch that is stopped', async () => {
    const since = events.all.length;
    const lines = Array.from(
      { length: 60 },
      (_, i) => `{"prompt": "Once", "max_tokens": ${i < 2 ? 1 : 300}, "ignore_eos": true}`,
    );
    client.send({ type: 'batch', run: ++run, input: new Blob([lines.join('\n')]), skipInvalid: false });
    await events.next('batch', ({ succeeded }) => succeeded >= 1, since);
    client.send({ type: 'stop', run });
    const ended = await events.next('ended', () => true, since);
    expect(ended.how).toBe('stopped');
    const { results, complete } = await events.next('batchResults', () => true, since);
    expect(complete).toBe(false);
    expect((await results.text()).trim().split('\n').length).toBeGreaterThanOrEqual(1);
  });
});

it('on WebGPU: goldens with attention in workers and in one tier', async () => {
  await retier({ ...twoTiers, dense: 'webgpu' });
  await expectGoldens(1, 24);
  expect(events.of('ready').at(-1)?.tiers.dense.kind).toBe('webgpu');
  await retier({ ...twoTiers, dense: 'webgpu', mode: 'one-tier' });
  await expectGoldens(1, 24);
});

describe('what can go wrong', () => {
  it('a later open cancels the one under way, and a run asked for meanwhile waits for it', async () => {
    const since = events.all.length;
    client.send({ type: 'open', model: { kind: 'example' }, tiers: twoTiers });
    client.send({ type: 'open', model: { kind: 'example' }, tiers: { ...twoTiers, workers: 1 } });
    client.send(generateCommand(++run, ['Once'], { maxTokens: 2 }));
    await events.next('ended', (event) => event.run === run, since);
    const readies = events.all.slice(since).flatMap((event) => (event.type === 'ready' ? [event] : []));
    expect(readies.map(({ tiers }) => tiers.nodes.length)).toEqual([1]);
  });

  const unreachable = { ...twoTiers, workers: 0, remotes: [{ url: 'ws://127.0.0.1:9' }] };

  it('other tiers that can not be had leave the model open: those from before come back, after why', async () => {
    await open({ ...twoTiers, workers: 1 });
    for (const tiers of [unreachable, { ...unreachable, weightDtype: 'f16' as const }]) {
      const since = events.all.length;
      client.send({ type: 'retier', tiers });
      const ready = await events.next('ready', () => true, since);
      expect(ready.tiers.nodes).toEqual([{ name: 'worker 1', kind: 'worker' }]);
      const told = events.all.slice(since).filter((event) => event.type === 'ready' || isErrorNotice(event));
      expect(told.map(({ type }) => type)).toEqual(['notice', 'ready']);
      const stages = events.all.slice(since).flatMap((event) => (event.type === 'progress' ? [event.stage] : []));
      // Only another dense tier costs loading.
      expect(stages.includes('loading weights')).toBe(tiers.weightDtype === 'f16');
      await expectGoldens(1);
    }
    const [noNode, noWeights] = events.of('notice').filter(isErrorNotice);
    expect(noNode?.notice).toMatchObject({ level: 'error', text: expect.stringContaining('--origin') });
    expect(noWeights?.notice.text).toContain('f16 needs a GPU');
  });

  it('an unreachable remote node, a damaged model and a model that is not there fail with a hint, and a good one opens after', async () => {
    let since = events.all.length;
    client.send({ type: 'open', model: { kind: 'example' }, tiers: unreachable });
    const { error } = await events.next('failed', () => true, since);
    expect(error).toMatchObject({ code: 'NODE_LOST' });
    expect(error.hint).toContain('--origin');
    since = events.all.length;
    client.send(generateCommand(++run, ['Once']));
    const ended = await events.next('ended', () => true, since);
    expect(ended).toMatchObject({ how: 'failed', error: { code: 'NOT_OPEN' } });
    const files = new Map([['m.gguf', new Blob(['GGUF but no more'])]]);
    client.send({ type: 'open', model: { kind: 'files', name: 'm.gguf', files, single: true }, tiers: twoTiers });
    await events.next('failed', () => true, since);
    since = events.all.length;
    client.send({ type: 'open', model: { kind: 'stored', id: 'nothing' }, tiers: twoTiers });
    await events.next('failed', () => true, since);
    await open(twoTiers);
    await expectGoldens(1);
  });

  it('a worker that ends without a word is noticed, and the next one is another', async () => {
    const workers: Worker[] = [];
    const PlainWorker = globalThis.Worker;
    vi.stubGlobal(
      'Worker',
      class extends PlainWorker {
        constructor(url: string | URL, options?: WorkerOptions) {
          super(url, options);
          workers.push(this);
        }
      },
    );
    const own = new EngineClient({ betweenPingsMs: 500 });
    onTestFinished(() => {
      own.destroy();
      vi.unstubAllGlobals();
    });
    const heard = new RecordedEvents();
    own.subscribe((event) => heard.add(event));
    own.send({ type: 'open', model: { kind: 'example' }, tiers: twoTiers });
    await heard.next('ready');
    // Idle and with a run under way it answers in time.
    await new Promise((resolve) => setTimeout(resolve, 1500));
    own.send(generateCommand(1, ['Once upon a time'], { maxTokens: 400 }));
    await heard.next('tokens');
    workers[0]?.terminate();
    const { error } = await heard.next('failed');
    expect(error).toMatchObject({ code: 'ENGINE_WORKER_DIED', message: expect.stringContaining('1 seconds') });
    expect(heard.of('ended')).toMatchObject([{ run: 1, how: 'failed', error: { code: 'ENGINE_WORKER_DIED' } }]);
    const since = heard.all.length;
    own.send({ type: 'open', model: { kind: 'example' }, tiers: twoTiers });
    await heard.next('ready', () => true, since);
    expect(workers.length).toBe(2);
  });

  it('close cancels an opening, and closes', async () => {
    const since = events.all.length;
    client.send({ type: 'open', model: { kind: 'example' }, tiers: twoTiers });
    client.send({ type: 'close' });
    await events.next('closed', () => true, since);
    expect(events.all.slice(since).some(({ type }) => type === 'ready' || type === 'failed')).toBe(false);
  });
});
