/**
 * onnxruntime on the work: MatMul, Softmax, MatMul in WebAssembly or native, and natively its GroupQueryAttention. f32 throughout.
 * It is installed beside the benchmark, not with it, so its interface is declared here as far as it is used.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { WorkData } from '../work.ts';
import { matmulForm } from './matmul-form.ts';
import { encodeModel, type Initializer, type OnnxNode, type ValueInfo } from './onnx-model.ts';
import type { Implementation, Task } from './task.ts';

interface Tensor {
  readonly data: Float32Array | Int32Array;
}
interface Session {
  run(feeds: Readonly<Record<string, Tensor>>, fetches: readonly string[]): Promise<Readonly<Record<string, Tensor>>>;
}
interface Ort {
  readonly Tensor: new (type: 'float32' | 'int32', data: Float32Array | Int32Array, dims: readonly number[]) => Tensor;
  readonly InferenceSession: { create(model: Uint8Array, options: object): Promise<Session> };
  readonly env: { readonly wasm: { numThreads: number } };
}

const peersFolder = join(import.meta.dirname, '../../peers');

export function onnxInstalled(name: 'onnxruntime-node' | 'onnxruntime-web'): boolean {
  return existsSync(join(peersFolder, 'node_modules', name));
}

async function load(name: 'onnxruntime-node' | 'onnxruntime-web'): Promise<Ort> {
  const require = createRequire(join(peersFolder, 'package.json'));
  // The web build's entry for Node is a module; the native one is CommonJS.
  const path =
    name === 'onnxruntime-web'
      ? join(peersFolder, 'node_modules', name, 'dist/ort.node.min.mjs')
      : require.resolve(name);
  const loaded = await import(pathToFileURL(path).href);
  return loaded.default?.InferenceSession === undefined ? loaded : loaded.default;
}

async function createSession(ort: Ort, model: Uint8Array, threads: number): Promise<Session> {
  return ort.InferenceSession.create(model, {
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    executionMode: 'sequential',
    graphOptimizationLevel: 'all',
    logSeverityLevel: 3,
  });
}

export async function onnxMatmul(
  { work, layers, threads }: Task,
  data: WorkData,
  web: boolean,
): Promise<Implementation> {
  const ort = await load(web ? 'onnxruntime-web' : 'onnxruntime-node');
  if (web) ort.env.wasm.numThreads = threads;
  const form = matmulForm(work, data, layers);
  const { matrices, rows, mask } = form;
  const { headDim, context } = work;
  const kv: Initializer[] = [
    { name: 'keys', dims: [matrices, headDim, context], data: form.keys },
    { name: 'values', dims: [matrices, context, headDim], data: form.values },
    ...(mask === null ? [] : [{ name: 'mask', dims: [rows, context], data: mask }]),
  ];
  const qInfo: ValueInfo = { name: 'q', dims: [matrices, rows, headDim] };
  const nodes: OnnxNode[] = [
    { type: 'MatMul', inputs: ['q', 'keys'], outputs: ['scores'] },
    ...(mask === null ? [] : [{ type: 'Add', inputs: ['scores', 'mask'], outputs: ['masked'] }]),
    { type: 'Softmax', inputs: [mask === null ? 'scores' : 'masked'], outputs: ['weights'], attributes: { axis: 2 } },
    { type: 'MatMul', inputs: ['weights', 'values'], outputs: ['o'] },
  ];
  // The web build copies its inputs at each run, so KV is part of the model there; the native one reads them where they are.
  const model = encodeModel({
    nodes,
    inputs: web ? [qInfo] : [qInfo, ...kv],
    outputs: [{ name: 'o', dims: [matrices, rows, headDim] }],
    initializers: web ? kv : [],
  });
  const session = await createSession(ort, model, threads);
  const tensor = (value: Float32Array, dims: readonly number[]) => new ort.Tensor('float32', value, dims);
  const feeds: Record<string, Tensor> = { q: tensor(form.q, qInfo.dims) };
  if (!web) for (const { name, dims, data: floats } of kv) feeds[name] = tensor(floats, dims);
  let output: Float32Array = new Float32Array(0);
  return {
    async run() {
      output = (await session.run(feeds, ['o'])).o?.data as Float32Array;
    },
    output: async () => form.toRows(output),
  };
}

/**
 * The operator that onnxruntime has for this. Natively its past and present KV may be one buffer; through the interface for Node
 * they can't be, as outputs are copied to new arrays. So the present is an inner value of the graph, which the operator fills by
 * a copy of the past at each run (handed out it would take four times as long, measured).
 */
export async function onnxGroupQueryAttention(
  { work, layers, threads }: Task,
  data: WorkData,
): Promise<Implementation> {
  const ort = await load('onnxruntime-node');
  const { headDim, group, kvHeads, context, chunk } = work;
  const batch = layers * work.sequences;
  const kvFloats = kvHeads * headDim;
  const past = {
    keys: new Float32Array(batch * context * kvFloats),
    values: new Float32Array(batch * context * kvFloats),
  };
  for (const [from, to] of [
    [data.k, past.keys],
    [data.v, past.values],
  ] as const) {
    for (let h = 0; h < kvHeads; h++) {
      for (let t = 0; t < context; t++) {
        const at = ((t % data.period) * kvHeads + h) * headDim;
        to.set(from.subarray(at, at + headDim), (h * context + t) * headDim);
      }
    }
    for (let b = 1; b < batch; b++) to.copyWithin(b * context * kvFloats, 0, context * kvFloats);
  }
  const newest = (from: Float32Array) => {
    const to = new Float32Array(batch * chunk * kvFloats);
    for (let row = 0; row < batch * chunk; row++) {
      const at = ((context - chunk + (row % chunk)) % data.period) * kvFloats;
      to.set(from.subarray(at, at + kvFloats), row * kvFloats);
    }
    return to;
  };
  const queries = new Float32Array(layers * data.q.length);
  for (let layer = 0; layer < layers; layer++) queries.set(data.q, layer * data.q.length);

  const width = kvFloats * group;
  const cache = [batch, kvHeads, context, headDim];
  const inputs: ValueInfo[] = [
    { name: 'query', dims: [batch, chunk, width] },
    { name: 'key', dims: [batch, chunk, kvFloats] },
    { name: 'value', dims: [batch, chunk, kvFloats] },
    { name: 'past_key', dims: cache },
    { name: 'past_value', dims: cache },
    { name: 'seqlens_k', dims: [batch], integer: true },
    { name: 'total_sequence_length', dims: [1], integer: true },
  ];
  const model = encodeModel({
    nodes: [
      {
        type: 'GroupQueryAttention',
        domain: 'com.microsoft',
        inputs: inputs.map(({ name }) => name),
        outputs: ['output', 'present_key', 'present_value'],
        attributes: { num_heads: group * kvHeads, kv_num_heads: kvHeads },
      },
    ],
    inputs,
    outputs: [{ name: 'output', dims: [batch, chunk, width] }],
  });
  const session = await createSession(ort, model, threads);
  const feeds = {
    query: new ort.Tensor('float32', queries, [batch, chunk, width]),
    key: new ort.Tensor('float32', newest(data.k), [batch, chunk, kvFloats]),
    value: new ort.Tensor('float32', newest(data.v), [batch, chunk, kvFloats]),
    past_key: new ort.Tensor('float32', past.keys, cache),
    past_value: new ort.Tensor('float32', past.values, cache),
    seqlens_k: new ort.Tensor('int32', new Int32Array(batch).fill(context - 1), [batch]),
    total_sequence_length: new ort.Tensor('int32', Int32Array.of(context), [1]),
  };
  let output: Float32Array = new Float32Array(0);
  return {
    note: 'copies its KV at each run, as its interface for Node has no way to do without',
    async run() {
      output = (await session.run(feeds, ['output'])).output?.data as Float32Array;
    },
    output: async () => output.slice(0, work.sequences * chunk * width),
  };
}
