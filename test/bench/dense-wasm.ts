/**
 * Stage times of the `wasm` dense backend by rows and workers, beside the bare products of one layer in one thread of the same
 * run: `node test/bench/dense-wasm.ts [--model FOLDER_OR_GGUF] [--rows 1,8,64] [--workers 1,2] [--seconds 3]`.
 * Best of many; run it on a quiet machine.
 */
import { availableParallelism, cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { createWasmDense, type DenseBatch } from '@glinthawk/dense';
import { openModel } from '@glinthawk/model';
import { createTfjsEngine } from '../../packages/dense/src/wasm/tfjs-engine.ts';
import { exampleModel, modelPath } from '../model-paths.ts';

const { values: flags } = parseArgs({
  options: {
    model: { type: 'string', default: modelPath('smollm2-135m-instruct') ?? exampleModel },
    rows: { type: 'string', default: '1,8,64' },
    workers: { type: 'string', default: '1,2' },
    seconds: { type: 'string', default: '3' },
  },
});
const numbers = (list: string) => list.split(',').map(Number);
const budgetMs = Number(flags.seconds) * 1000;

/** The least of the times of `run`, in ms. */
async function best(ms: number, run: () => Promise<void> | void): Promise<number> {
  let least = Number.POSITIVE_INFINITY;
  for (const end = performance.now() + ms; performance.now() < end; ) {
    const start = performance.now();
    await run();
    least = Math.min(least, performance.now() - start);
  }
  return least;
}

const model = await openModel(flags.model);
const { hiddenSize, intermediateSize, heads, kvHeads, headDim, layers, vocabSize } = model.config;
console.log(`${model.name}: ${layers} layers of ${hiddenSize}, FFN ${intermediateSize}, vocabulary ${vocabSize}`);
console.log(`${cpus()[0]?.model ?? 'unknown CPU'}, ${availableParallelism()} threads, Node ${process.versions.node}`);

const products = [
  [hiddenSize, (heads + 2 * kvHeads) * headDim],
  [heads * headDim, hiddenSize],
  [hiddenSize, 2 * intermediateSize],
  [intermediateSize, hiddenSize],
] as const;
const layerFloats = products.reduce((sum, [inputs, outputs]) => sum + inputs * outputs, 0);
const engine = await createTfjsEngine(null);
const matrices = products.map(([inputs, outputs]) =>
  engine.addMatrix(new Float32Array(inputs * outputs).fill(0.01), inputs, outputs, null),
);
const bareMs = new Map<number, number>();
for (const rows of numbers(flags.rows)) {
  const widest = Math.max(hiddenSize, intermediateSize, heads * headDim);
  engine.reserve(rows * widest, rows * Math.max(2 * intermediateSize, (heads + 2 * kvHeads) * headDim));
  engine.input(rows * widest).fill(0.01);
  const ms = await best(budgetMs / 4, () => {
    for (const matrix of matrices) engine.multiply(matrix, rows);
  });
  bareMs.set(rows, ms);
  const gflops = (2 * rows * layerFloats) / ms / 1e6;
  console.log(
    `bare products of a layer, ${rows} rows, 1 thread, in cache: ${ms.toFixed(3)} ms, ${gflops.toFixed(1)} GFLOP/s`,
  );
}

for (const workers of numbers(flags.workers)) {
  const start = performance.now();
  const backend = await createWasmDense(model, { workers });
  const loadMs = performance.now() - start;
  const mib = (bytes: number) => `${(bytes / 1024 ** 2).toFixed(0)} MiB`;
  console.log(
    `\n${backend.info.description}: loaded in ${loadMs.toFixed(0)} ms, ` +
      `${mib(backend.allocatedBytes())} held, ${mib(process.memoryUsage().rss)} resident`,
  );
  for (const rows of numbers(flags.rows)) {
    const batch: DenseBatch = await backend.createBatch({ maxRows: rows, maxHeadRows: rows });
    const step = {
      tokenIds: Uint32Array.from({ length: rows }, (_, i) => i % vocabSize),
      positions: Uint32Array.from({ length: rows }, (_, i) => i),
      headRows: Uint32Array.from({ length: rows }, (_, i) => i),
      inverseTemperatures: new Float32Array(rows).fill(1 / 0.7),
    };
    let layerMs = Number.POSITIVE_INFINITY;
    let headMs = Number.POSITIVE_INFINITY;
    const stepMs = await best(budgetMs, async () => {
      await batch.begin(step);
      const afterBegin = performance.now();
      for (let layer = 0; layer < layers - 1; layer++) await batch.advance(layer);
      const afterLayers = performance.now();
      await batch.finish();
      layerMs = Math.min(layerMs, (afterLayers - afterBegin) / (layers - 1));
      headMs = Math.min(headMs, performance.now() - afterLayers);
    });
    const share = (bareMs.get(rows) ?? 0) / (layerMs * workers);
    console.log(
      `${rows} rows: layer ${layerMs.toFixed(3)} ms (${(share * 100).toFixed(0)} % in bare products), ` +
        `head ${headMs.toFixed(2)} ms, step ${stepMs.toFixed(2)} ms, ${((rows * 1000) / stepMs).toFixed(0)} tokens/s`,
    );
    batch.destroy();
  }
  await backend.close();
}
await model.close();
