/**
 * `npm run bench`: the main job on the example model and on stories260K, as a batch of greedy requests, with attention in this
 * process and behind TCP. Prints tokens/s, the share of time each tier is busy, dense and attention time per micro-batch, and
 * bytes per row on the wire beside the least that the design allows (q, k, v out and o back). Figures are of this machine and
 * this run; compare ratios.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { availableParallelism, cpus } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { type AttentionSource, localAttentionSource } from '@glinthawk/attention';
import { remoteSource } from '@glinthawk/attention/node';
import { attentionGeometry, type KvDtype, outputRowFloats, qkvRowFloats } from '@glinthawk/core';
import { createWasmDense, createWebGpuDense, type DenseBackend, openGpuDevice } from '@glinthawk/dense';
import { createEngine, type EngineStats, type GenerationRequest } from '@glinthawk/engine';
import { type Model, openModel } from '@glinthawk/model';
import { modelPath, repositoryRoot } from '../model-paths.ts';

const { values: flags } = parseArgs({
  options: {
    dense: { type: 'string', default: 'wasm' },
    kv: { type: 'string', default: 'f16' },
    requests: { type: 'string', default: '64' },
    'prompt-tokens': { type: 'string', default: '32' },
    'max-tokens': { type: 'string', default: '64' },
    'in-flight': { type: 'string', default: 'auto' },
    model: { type: 'string', multiple: true, default: ['tale-1m', 'stories260K'] },
  },
});
const requestCount = Number(flags.requests);
const promptTokens = Number(flags['prompt-tokens']);
const maxTokens = Number(flags['max-tokens']);
const kvDtype = flags.kv as KvDtype;
const inFlight = flags['in-flight'] === 'auto' ? 'auto' : Number(flags['in-flight']);

function* requestsFor(model: Model): Generator<GenerationRequest> {
  for (let i = 0; i < requestCount; i++) {
    yield {
      id: String(i),
      // Different prompts, the same for every configuration: token ids from a small linear generator.
      promptIds: Array.from({ length: promptTokens }, (_, j) => (i * 7919 + j * 104729 + 3) % model.config.vocabSize),
      maxTokens,
      sampling: {
        temperature: 0,
        topP: 1,
        topK: 0,
        minP: 0,
        seed: 0n,
        frequencyPenalty: 0,
        presencePenalty: 0,
        repetitionPenalty: 1,
        logitBias: new Map(),
      },
      stop: { strings: [], tokenIds: [], ignoreEos: true },
      topLogprobs: null,
    };
  }
}

async function measure(model: Model, dense: DenseBackend, attention: readonly AttentionSource[]): Promise<EngineStats> {
  const engine = await createEngine({ dense, attention, kvDtype, fingerprint: model.fingerprint, inFlight });
  for await (const event of engine.generate(requestsFor(model))) if (event.type === 'error') throw event.error;
  const stats = engine.stats();
  await engine.close();
  return stats;
}

/** A `glinthawk attention` process on a port of its choice. */
async function startNode(): Promise<{ readonly address: string; readonly process: ChildProcess }> {
  const bin = join(repositoryRoot, 'apps', 'cli', 'bin', 'glinthawk.js');
  const child = spawn(process.execPath, [bin, 'attention', '--listen', '127.0.0.1:0', '--workers', '1'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  for (const stream of [child.stdout, child.stderr]) {
    for await (const line of createInterface({ input: stream })) {
      const address = /127\.0\.0\.1:\d+/.exec(line)?.[0];
      if (address) return { address, process: child };
    }
  }
  throw new Error('the attention node did not start');
}

const columns = [
  'configuration',
  'tok/s',
  'prompt tok/s',
  'dense busy',
  'attention busy',
  'dense ms',
  'attention ms',
  'rows',
  'wire B/row',
  'of least',
];
const line = (cells: readonly string[]) =>
  console.log(cells.map((cell, i) => (i === 0 ? cell.padEnd(26) : cell.padStart(columns[i].length + 2))).join(''));
const percent = (share: number) => `${(100 * share).toFixed(0)} %`;

function report(name: string, stats: EngineStats, model: Model): void {
  const seconds = stats.wallMs / 1000;
  const geometry = attentionGeometry(model.config);
  const least = 4 * (qkvRowFloats(geometry) + outputRowFloats(geometry)) * model.config.layers;
  const wire = (stats.bytesSent + stats.bytesReceived) / stats.rows;
  line([
    name,
    (stats.generatedTokens / seconds).toFixed(0),
    (stats.promptTokens / seconds).toFixed(0),
    percent(stats.denseBusyMs / stats.wallMs),
    percent(stats.attentionBusyMs / stats.wallMs),
    (stats.denseStageMs / stats.steps).toFixed(2),
    (stats.attentionStageMs / stats.steps).toFixed(2),
    (stats.rows / stats.steps).toFixed(1),
    wire ? wire.toFixed(0) : '-',
    wire ? `${(wire / least).toFixed(3)}x` : '-',
  ]);
}

console.log(`${cpus()[0]?.model}, ${availableParallelism()} cores, Node ${process.versions.node}`);
console.log(
  `${requestCount} requests of ${promptTokens} + ${maxTokens} tokens, greedy, kv ${kvDtype}, in flight ${inFlight}`,
);
for (const name of flags.model) {
  const path = modelPath(name) ?? name;
  const model = await openModel(path);
  const dense =
    flags.dense === 'webgpu'
      ? await createWebGpuDense(await openGpuDevice({ allowSoftware: true }), model, {})
      : await createWasmDense(model, {});
  console.log(`\n${model.name}: ${dense.info.description}`);
  line(columns);
  report('attention local:1', await measure(model, dense, [localAttentionSource({ workers: 1 })]), model);
  report('attention local:2', await measure(model, dense, [localAttentionSource({ workers: 2 })]), model);
  const nodes = [await startNode(), await startNode()];
  try {
    const sources = nodes.map(({ address }) => remoteSource(`tcp://${address}`));
    report('attention tcp, 1 node', await measure(model, dense, sources.slice(0, 1)), model);
    report('attention tcp, 2 nodes', await measure(model, dense, sources), model);
  } finally {
    for (const node of nodes) node.process.kill('SIGTERM');
  }
  await dense.close();
  await model.close();
}
console.log(
  '\ndense ms and attention ms: of one micro-batch in one step, all layers. wire B/row: both ways, all layers, f32; least: q, k, v and o alone.',
);
