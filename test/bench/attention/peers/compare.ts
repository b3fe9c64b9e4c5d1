/**
 * Everybody on the same work in turns, so that what else the machine does hits all alike: ours in each KV dtype, the libraries, and
 * the kernels' source compiled natively. KV of a peer is as many layers as ours in f32 have; a run takes all of them.
 * Who is how far ahead is told by the best runs of both: what disturbs a run only ever makes it slower.
 */
import { rmSync } from 'node:fs';
import { errorOf } from '../../../kernels/tolerances.ts';
import { errorText } from '../check.ts';
import { spreadOf, tokenBytes } from '../measure.ts';
import type { Options, PeerName } from '../options.ts';
import { figure, type Table } from '../table.ts';
import { layersFor, Team } from '../team.ts';
import { type Work, workData } from '../work.ts';
import { type Contender, libraryContender, ourContender } from './contender.ts';
import { goalLines } from './goals.ts';
import { buildNative, type NativeBuild, nativeContender } from './native.ts';
import { onnxInstalled } from './onnx.ts';

export interface PeerResult {
  readonly work: Work;
  readonly name: string;
  readonly kv: string;
  readonly threads: number;
  readonly note: string;
  readonly milliseconds: readonly number[]; // of a layer, by round
  /** Of ours: what a layer takes at the roofline. */
  readonly leastMs: number | null;
  readonly nmse: number; // to ours of the first KV dtype
}

const ROUNDS = 11;
/** V8 compiles anew what is hot. */
const WARM_UP_RUNS = 2;
const WARM_UP_MS = 200;
/** Threads of onnxruntime go on spinning when a run is over, at the cost of whoever comes next. */
const PAUSE_MS = 300;

const pause = () => new Promise((resolve) => setTimeout(resolve, PAUSE_MS));

async function libraries(work: Work, threads: number, layers: number, names: readonly string[], notes: Set<string>) {
  const contenders: Contender[] = [];
  for (const name of names as readonly PeerName[]) {
    if (name === 'native') continue;
    const library = name === 'tfjs' ? null : name === 'onnx-web' ? 'onnxruntime-web' : 'onnxruntime-node';
    if (library !== null && !onnxInstalled(library)) {
      notes.add(`${name}: ${library} is not installed: npm run bench:peers:install`);
      continue;
    }
    try {
      contenders.push(await libraryContender(name, work, threads, layers));
    } catch (error) {
      notes.add(`${name}, ${threads} threads: ${(error as Error).message}`);
    }
  }
  return contenders;
}

export interface Comparison {
  readonly results: readonly PeerResult[];
  readonly table: Table;
  /** Of each number of threads, how far the goals are reached. */
  readonly goals: readonly string[];
  readonly notes: readonly string[];
}

export async function comparePeers(work: Work, options: Options): Promise<Comparison> {
  const results: PeerResult[] = [];
  const rows: string[][] = [];
  const notes = new Set<string>();
  const data = workData(work);
  let native: NativeBuild | null = null;
  try {
    if (options.peers.includes('native')) native = buildNative();
  } catch (error) {
    notes.add(`native: ${(error as Error).message}`);
  }
  // Of a prefill chunk one layer is work enough.
  const layersOf = (kvDtype: (typeof options.kvDtypes)[number], threads: number) =>
    work.chunk > 1 ? 1 : layersFor(work, kvDtype, threads, options.dramBytes);
  try {
    for (const threads of options.threads) {
      const contenders: Contender[] = [];
      try {
        for (const kvDtype of options.kvDtypes) {
          const layers = layersOf(kvDtype, threads);
          const team = await Team.start({ work, data, kvDtype, threads, layers });
          const bytes = work.sequences * work.kvHeads * work.context * tokenBytes(team, kvDtype);
          contenders.push(ourContender(team, work, kvDtype, layers, bytes));
          if (native === null) continue;
          try {
            const how = { threads, layers, team, bytes };
            contenders.push(await nativeContender(native, work, data, kvDtype, how));
          } catch (error) {
            notes.add(`native ${kvDtype}: ${(error as Error).message}`);
          }
        }
        contenders.push(...(await libraries(work, threads, layersOf('f32', threads), options.peers, notes)));
        const measured = await takeTurns(contenders, notes);
        const ours = measured.filter(({ contender }) => contender.name === 'glinthawk');
        for (const { contender, times, leastMs, nmse } of measured) {
          const { name, kv, note, bytes } = contender;
          if (note !== '') notes.add(`${name}: ${note}`);
          results.push({ work, name, kv, threads, note, milliseconds: times, leastMs, nmse });
          const tokens = spreadOf(times.map((ms) => (1000 * work.sequences * work.chunk) / ms));
          rows.push([
            name,
            kv,
            String(threads),
            figure(tokens.median),
            figure(tokens.best),
            figure(bytes / Math.min(...times) / 1e6),
            ...ours.map((our) =>
              name === 'glinthawk' ? '' : `${figure(Math.min(...times) / Math.min(...our.times))}x`,
            ),
            errorText(nmse),
          ]);
        }
      } finally {
        for (const contender of contenders) await contender.close();
      }
    }
  } finally {
    if (native !== null) rmSync(native.folder, { recursive: true, force: true });
  }
  const ahead = options.kvDtypes.map((kvDtype) => `ours ${kvDtype}`);
  const heads = ['', 'KV', 'threads', 'median', 'tokens/s', 'GB/s', ...ahead, 'error to ours'];
  const goals = options.threads.flatMap((count) => goalLines(results.filter(({ threads }) => threads === count)));
  return { results, table: { heads, rows }, goals, notes: [...notes] };
}

interface Measured {
  readonly contender: Contender;
  readonly times: number[];
  leastMs: number | null;
  nmse: number;
}

async function takeTurns(contenders: readonly Contender[], notes: Set<string>): Promise<Measured[]> {
  let measured = contenders.map((contender): Measured => ({ contender, times: [], leastMs: null, nmse: 0 }));
  const drop = (one: Measured, error: unknown) => {
    notes.add(`${one.contender.name} ${one.contender.kv}: ${(error as Error).message}`);
    measured = measured.filter((other) => other !== one);
  };
  let reference: Float32Array | null = null;
  for (const one of measured) {
    try {
      const until = performance.now() + WARM_UP_MS;
      for (let i = 0; i < WARM_UP_RUNS || performance.now() < until; i++) await one.contender.run();
      const output = await one.contender.output();
      reference ??= output.slice();
      one.nmse = output.length === reference.length ? errorOf(output, reference).nmse : Number.POSITIVE_INFINITY;
    } catch (error) {
      drop(one, error);
    }
  }
  for (let round = 0; round < ROUNDS; round++) {
    for (const one of measured) {
      one.times.push(await one.contender.run());
      // The best that the machine was seen to do: a low ceiling flatters.
      const least = (await one.contender.least?.()) ?? null;
      if (least !== null) one.leastMs = Math.min(least, one.leastMs ?? least);
      if (one.contender.hasOwnThreads) await pause();
    }
  }
  return measured;
}
