/**
 * `npm run bench:quality`: what a smaller KV cache and smaller rows cost in quality, on a real model and real text: perplexity, divergence
 * of the next token's distribution, how often the most probable token stays, and the error of attention's output by layer. `-- --help`
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { attentionKernelInfo } from '@glinthawk/attention';
import { createWasmDense } from '@glinthawk/dense';
import { type Model, openModel } from '@glinthawk/model';
import { modelPath, modelsRoot } from '../../model-paths.ts';
import { formatTable } from '../attention/table.ts';
import { type Evaluation, evaluate } from './evaluate.ts';
import { type Options, parseOptions, UsageError } from './options.ts';
import type { ScoreResult } from './score.ts';
import { type Variant, variantsFor } from './variants.ts';

const DEFAULT_MODEL = 'smollm2-135m-instruct';
const textFolder = join(import.meta.dirname, 'text');

function loadTexts(model: Model, options: Options): (readonly number[])[] {
  const { tokenizer } = model;
  if (tokenizer === null) throw new UsageError(`${model.name} has no tokenizer`);
  const files = readdirSync(textFolder).filter((file) => file.endsWith('.txt'));
  const longest = Math.min(options.tokens, model.config.contextTokens);
  return files.slice(0, options.texts).map((file) => {
    const text = readFileSync(join(textFolder, file), 'utf8');
    return tokenizer.encode(text, { addSpecial: true }).slice(0, longest);
  });
}

function chosenVariants(model: Model, only: Options['only']): readonly Variant[] {
  const all = variantsFor(model.config.headDim);
  if (only === null) return all;
  for (const wanted of only) {
    if (!all.some(({ name }) => name.startsWith(wanted))) {
      throw new UsageError(`no variant is called ${wanted}; there are ${all.map(({ name }) => name).join(', ')}`);
    }
  }
  return all.filter(({ name }) => only.some((wanted) => name.startsWith(wanted)));
}

function row(variant: Variant | null, result: ScoreResult): string[] {
  const { name, perplexity, perplexityChange, perplexityChangeError, divergence, agreement, outputErrors } = result;
  const sorted = [...outputErrors].sort((a, b) => a - b);
  const worst = sorted.at(-1) as number;
  const percent = (x: number) => (100 * x).toFixed(2);
  if (variant === null) return [name, '32', perplexity.toFixed(3)];
  return [
    name,
    variant.bits.toFixed(variant.bits % 1 === 0 ? 0 : 2),
    perplexity.toFixed(3),
    `${perplexityChange < 0 ? '' : '+'}${percent(perplexityChange)} ± ${percent(perplexityChangeError)} %`,
    divergence.toExponential(1),
    `${percent(agreement)} %`,
    (sorted[sorted.length >> 1] as number).toExponential(1),
    `${worst.toExponential(1)} (${outputErrors.indexOf(worst)})`,
  ];
}

const HEADS = ['', 'bits', 'perplexity', 'change', 'divergence', 'same best', 'error', 'of the worst layer'];

function summary({ keyOutliers }: Evaluation): string {
  const sorted = keyOutliers.map(Math.sqrt).sort((a, b) => a - b);
  const [median, most] = [sorted[sorted.length >> 1] as number, sorted.at(-1) as number];
  return `Largest channel of K over the median one of its head, root mean squares: median of layers ${median.toFixed(1)}, most ${most.toFixed(1)}.`;
}

async function main(args: readonly string[]): Promise<void> {
  const options = parseOptions(args);
  const path = options.model ?? modelPath(DEFAULT_MODEL);
  if (path === null) {
    throw new UsageError(`there is no ${DEFAULT_MODEL} in ${modelsRoot}: set GLINTHAWK_MODELS, or give --model PATH`);
  }
  const began = performance.now();
  const model = await openModel(path);
  const variants = chosenVariants(model, options.only);
  const texts = loadTexts(model, options);
  const { headDim, kvHeads, heads, layers } = model.config;
  console.log(
    [
      `${cpus().length} × ${cpus()[0]?.model}, Node ${process.version}, ${new Date().toISOString().slice(0, 10)}`,
      `${model.name}: ${layers} layers, ${heads} heads over ${kvHeads}, head_dim ${headDim}; int8 by ${attentionKernelInfo().int8}`,
      `node test/bench/quality/main.ts ${args.join(' ')}`,
      `Contexts of ${texts.map(({ length }) => length).join(', ')} tokens. bits: of a number of K and V as stored. divergence: mean, nats.`,
      'error: of attention’s output, mean square over mean square, given true q, k and v; median of layers.',
    ].join('\n'),
  );
  const dense = await createWasmDense(model, { workers: options.workers });
  let done = 0;
  const total = texts.reduce((sum, { length }) => sum + length - 1, 0);
  const onProgress = (tokens: number) => {
    done += tokens;
    const seconds = (performance.now() - began) / 1000;
    if (process.stderr.isTTY) process.stderr.write(`\r${done} of ${total} tokens, ${seconds.toFixed(0)} s `);
  };
  let evaluation: Evaluation;
  try {
    const { workers, keyBias } = options;
    evaluation = await evaluate(dense, texts, variants, { workers, keyBias, onProgress });
  } finally {
    if (process.stderr.isTTY) process.stderr.write('\n');
    await dense.close();
    await model.close();
  }
  const rows = [
    row(null, evaluation.truth),
    ...evaluation.variants.map((result, i) => row(variants[i] as Variant, result)),
  ];
  console.log(`\n${formatTable({ heads: HEADS, rows }, options.markdown)}\n\n${summary(evaluation)}`);
  console.log(`${((performance.now() - began) / 1000).toFixed(0)} s`);
  if (options.json !== null) {
    const bits = Object.fromEntries(variants.map(({ name, bits }) => [name, bits]));
    writeFileSync(options.json, `${JSON.stringify({ ...options, model: model.name, bits, ...evaluation }, null, 2)}\n`);
  }
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  const wanted = process.argv.includes('--help');
  (wanted ? console.log : console.error)(error.message);
  process.exitCode = wanted ? 0 : 2;
}
