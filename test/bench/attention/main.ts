/**
 * How near the attention kernels come to what this machine could do: by shape, KV dtype and threads, the GB/s of KV read, the
 * operations and tokens a second, and the share of the roofline, whose ceilings are measured around every single figure. Then
 * other implementations on the same work, and what a step costs beyond the kernels.
 * `npm run bench:attention -- --help`
 */
import { writeFileSync } from 'node:fs';
import { cpus, freemem, loadavg, totalmem } from 'node:os';
import { attentionKernelInfo } from '@glinthawk/attention';
import { errorText, errorToExact } from './check.ts';
import { type Ceilings, isValid, measure, movement, type Result, sharesOf, spreadOf } from './measure.ts';
import { inCache, type Options, parseOptions, placementsOf, UsageError } from './options.ts';
import { comparePeers, type PeerResult } from './peers/compare.ts';
import { goalSummary } from './peers/goals.ts';
import { placementName } from './placement.ts';
import { measureOverhead, type OverheadResult } from './step-overhead.ts';
import { figure, formatTable, percent } from './table.ts';
import { layersFor, Team } from './team.ts';
import { type Work, workData, workName } from './work.ts';

interface Checked {
  readonly result: Result;
  readonly nmse: number;
}

function settings(options: Options): string {
  const { build, int8 } = attentionKernelInfo();
  const gib = (bytes: number) => (bytes / 2 ** 30).toFixed(0);
  return [
    `${cpus().length} × ${cpus()[0]?.model}, ${gib(totalmem())} GiB (${gib(freemem())} free), load ${loadavg()[0]?.toFixed(2)}, ${new Date().toISOString().slice(0, 16).replace('T', ' ')} UTC`,
    `Node ${process.version} (V8 ${process.versions.v8}), kernels: ${build} SIMD, int8 by ${int8}`,
    `node test/bench/attention/main.ts ${process.argv.slice(2).join(' ')}`,
    `Pages (KiB) in random order, of some runs of blocks each block alone (apart); KV of a thread is in one L2, or ${options.dramBytes >> 20} MiB and more in layers that follow one another.`,
    `Medians of ${options.repetitions}; tokens/s of one layer. of read: of reading in order; of read2: of reading by two streams a thread or one,`,
    'whichever is faster; of peak: of multiply-adds, for int8 of dots. The roofline is the lower of read2 and peak, of ceilings',
    `that are measured before and after each repetition. One where they differ by over ${percent(options.bound)}, or where another program had the`,
    'processor, is not valid; of fewer than 5 valid ones no share is given. moved: the ceilings, over all repetitions.',
    'GB/s, GOP/s and tokens/s are of the valid ones if there are any. error: mean square, to f64.',
  ].join('\n');
}

const HEADS = [
  'KV',
  'thr',
  'page',
  'apart',
  'GB/s',
  'GOP/s',
  'tokens/s',
  'of read',
  'of read2',
  'of peak',
  'roofline',
  'quartiles',
  'best',
  'valid',
  'moved',
  'error',
];

function row({ result, nmse }: Checked, bound: number): string[] {
  const { work, bytes, operations, samples } = result;
  const valid = samples.filter((sample) => isValid(sample, result.kvDtype, bound));
  const counted = valid.length > 0 ? valid : samples;
  const milliseconds = spreadOf(counted.map((sample) => sample.milliseconds)).median;
  const { kept, figures } = sharesOf(result, bound);
  const peak = result.kvDtype.startsWith('int') ? 'dot' : 'FMA';
  return [
    result.kvDtype,
    String(result.threads),
    (result.pageBytes / 1024).toFixed(0),
    placementName(result.placement),
    figure(bytes / milliseconds / 1e6),
    figure(operations / milliseconds / 1e6),
    figure((1000 * work.sequences * work.chunk) / milliseconds),
    ...(figures === null
      ? ['–', '–', '–', 'disturbed', '', '']
      : [
          percent(figures.ofRead),
          percent(figures.ofFastestRead),
          percent(figures.ofOperations),
          `${percent(figures.roofline.median)} ${figures.binds === 'read' ? 'read' : peak}`,
          `${percent(figures.roofline.low).replace(' %', '')}–${percent(figures.roofline.high)}`,
          percent(figures.roofline.best),
        ]),
    `${kept}/${samples.length}`,
    percent(movement(result)),
    errorText(nmse),
  ];
}

function ceilingsText(results: readonly Result[], markdown: boolean): string {
  const threads = [...new Set(results.map((result) => result.threads))];
  const lines = threads.map((count) => {
    const all = results
      .filter((result) => result.threads === count)
      .flatMap(({ samples }) => samples.map(({ after }) => after))
      .filter(({ undisturbed }) => undisturbed);
    if (all.length === 0) return `${count} threads: no ceiling could be measured undisturbed`;
    const median = (of: (ceilings: Ceilings) => number) => figure(spreadOf(all.map(of)).median);
    return (
      `${count === 1 ? '1 thread' : `${count} threads`}: read ${median(({ read }) => read)} GB/s, by two streams ${median(({ readTwo }) => readTwo)}; ` +
      `FMA ${median(({ fma }) => fma)} GFLOP/s; dot of int8 ${median(({ dotI8 }) => dotI8)}, of int16 ${median(({ dotI16 }) => dotI16)} GOP/s`
    );
  });
  return lines.join(markdown ? '\\\n' : '\n');
}

async function measureWork(work: Work, options: Options): Promise<Checked[]> {
  const checked: Checked[] = [];
  for (const threads of options.threads) {
    const mine = work.place === 'cache' ? inCache(work, threads) : work;
    const data = workData(mine);
    for (const kvDtype of options.kvDtypes) {
      const layers = layersFor(mine, kvDtype, threads, options.dramBytes);
      const { blockTokens, repetitions, bound } = options;
      for (const placement of placementsOf(mine, options)) {
        const team = await Team.start({ work: mine, data, kvDtype, threads, layers, blockTokens, placement });
        try {
          const result = await measure(team, mine, kvDtype, { layers, placement, repetitions, bound });
          checked.push({ result, nmse: errorToExact(mine, data, await team.output()) });
        } finally {
          await team.close();
        }
      }
    }
  }
  return checked;
}

async function main(): Promise<void> {
  const options = parseOptions(process.argv.slice(2));
  const { markdown, bound } = options;
  console.log(settings(options));
  const kernels: Checked[] = [];
  const peers: PeerResult[] = [];
  const overhead: OverheadResult[] = [];
  if (options.sections.kernels) {
    for (const work of options.works) {
      const checked = await measureWork(work, options);
      kernels.push(...checked);
      console.log(
        `\n${markdown ? '### ' : ''}${workName(work)}\n${markdown ? '\n' : ''}${ceilingsText(
          checked.map(({ result }) => result),
          markdown,
        )}${markdown ? '\n' : ''}`,
      );
      console.log(formatTable({ heads: HEADS, rows: checked.map((one) => row(one, bound)) }, markdown));
    }
  }
  if (options.peers.length > 0) {
    for (const work of options.works.filter(({ place }) => place === 'dram')) {
      const results = await comparePeers(work, options);
      peers.push(...results.results);
      console.log(
        `\n${markdown ? '### ' : ''}${workName(work)}, beside others\n${markdown ? '\n' : ''}${formatTable(results.table, markdown)}`,
      );
      for (const line of [...results.goals, ...results.notes]) console.log(markdown ? `- ${line}` : line);
    }
    console.log(
      `\n${markdown ? '### ' : ''}Goals, ${options.works.length === 1 ? 'of this shape' : 'of all shapes'}\n`,
    );
    for (const line of goalSummary(peers)) console.log(line);
  }
  if (options.sections.overhead) {
    const results = await measureOverhead(options);
    overhead.push(...results.results);
    console.log(
      `\n${markdown ? '### ' : ''}${results.title}\n${markdown ? '\n' : ''}${formatTable(results.table, markdown)}`,
    );
    console.log(`\n${results.handOver}`);
  }
  if (options.json !== null) {
    const flat = kernels.map(({ result, nmse }) => ({ ...result, nmse, shares: sharesOf(result, bound) }));
    writeFileSync(
      options.json,
      `${JSON.stringify({ settings: settings(options), kernels: flat, peers, overhead }, null, 1)}\n`,
    );
  }
}

try {
  await main();
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  console.error(error.message);
  process.exitCode = 2;
}
