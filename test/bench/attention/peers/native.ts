/** The kernels' own source, compiled by the machine's C compiler: what WebAssembly and V8 cost. x86-64 with AVX2 and FMA only. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import type { KvDtype } from '@glinthawk/core';
import type { Team } from '../team.ts';
import { type Share, shareWork, type Work, type WorkData, workName } from '../work.ts';
import { type Contender, elapsed, joinShares } from './contender.ts';
import { shareData } from './matmul-form.ts';

const kernels = join(import.meta.dirname, '../../../../packages/attention/kernels');
const shim = join(import.meta.dirname, 'native');
const COMPILERS = ['clang', 'gcc', 'cc'];
const FLAGS = [
  '-std=gnu11',
  '-O3',
  '-march=native',
  '-mprefer-vector-width=128',
  '-fno-strict-aliasing',
  '-D__wasm_relaxed_simd__',
  '-w',
];
/** Of simd.h, before which the native meaning of its macros is put. */
const VECTOR_TYPE = 'typedef v128_t Vec;';

export interface NativeBuild {
  readonly compiler: string;
  readonly program: string;
  readonly folder: string;
}

/** @throws Error saying what is missing */
export function buildNative(): NativeBuild {
  if (process.arch !== 'x64') throw new Error(`the native shim is for x86-64, this is ${process.arch}`);
  const compiler = COMPILERS.find((name) => {
    try {
      execFileSync(name, ['--version'], { stdio: 'ignore' });
      return true;
    } catch {
      return false;
    }
  });
  if (compiler === undefined) throw new Error(`there is no C compiler: ${COMPILERS.join(', ')} were looked for`);
  const folder = mkdtempSync(join(tmpdir(), 'glinthawk-native-'));
  try {
    for (const from of [kernels, shim]) {
      for (const name of readdirSync(from)) copyFileSync(join(from, name), join(folder, name));
    }
    const simd = readFileSync(join(folder, 'simd.h'), 'utf8');
    if (!simd.includes(VECTOR_TYPE)) throw new Error(`simd.h has no line "${VECTOR_TYPE}"`);
    writeFileSync(join(folder, 'simd.h'), simd.replace(VECTOR_TYPE, `#include "overrides.h"\n${VECTOR_TYPE}`));
    const program = join(folder, 'native');
    execFileSync(compiler, [...FLAGS, '-I', folder, join(folder, 'native.c'), '-o', program, '-lm'], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const version = execFileSync(compiler, ['--version'], { encoding: 'utf8' }).split('\n')[0] ?? compiler;
    return { compiler: version, program, folder };
  } catch (error) {
    rmSync(folder, { recursive: true, force: true });
    throw error;
  }
}

interface Program {
  readonly share: Share;
  readonly child: ChildProcess;
  readonly lines: AsyncIterator<string>;
  readonly reader: Interface;
  readonly outputFile: string;
}

async function nextLine({ lines }: Program): Promise<string> {
  const { value, done } = await lines.next();
  if (done === true) throw new Error('the native program ended');
  return value;
}

export async function nativeContender(
  build: NativeBuild,
  work: Work,
  data: WorkData,
  kvDtype: KvDtype,
  { threads, layers, team, bytes }: { threads: number; layers: number; team: Team; bytes: number },
): Promise<Contender> {
  const name = `${workName(work)} ${kvDtype} ${threads}`.replaceAll(/[^\w]+/g, '-');
  const programs = shareWork(work, threads).map((share, i): Program => {
    const [dataFile, outputFile] = ['in', 'out'].map((end) => join(build.folder, `${name}-${i}.${end}`)) as [
      string,
      string,
    ];
    const { q, k, v, period } = shareData(work, share, data);
    writeFileSync(dataFile, Buffer.concat([q, k, v].map(({ buffer }) => Buffer.from(buffer))));
    const { headDim, group, context, chunk } = work;
    const { paddedDim, pageTokens, pageBytes, valueOffset, scaleOffset } = team.layout;
    const numbers = [
      ...[team.dtypeCode, headDim, group, share.kvHeads, context, share.sequences, chunk, layers, period],
      ...[paddedDim, pageTokens, pageBytes, valueOffset, scaleOffset],
    ];
    const child = spawn(build.program, [...numbers.map(String), dataFile, outputFile], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const reader = createInterface({ input: child.stdout });
    return { share, child, reader, lines: reader[Symbol.asyncIterator](), outputFile };
  });
  const ask = async (command: string) => {
    for (const { child } of programs) child.stdin?.write(`${command}\n`);
    return Promise.all(programs.map(nextLine));
  };
  const close = async () => {
    await Promise.all(
      programs.map(async ({ child, reader }) => {
        const ended = new Promise((resolve) => child.once('exit', resolve));
        child.stdin?.end();
        await ended;
        reader.close();
      }),
    );
  };
  await Promise.all(programs.map(nextLine)); // ready
  return {
    name: 'native C',
    kv: kvDtype,
    note: build.compiler,
    hasOwnThreads: false,
    bytes,
    least: null,
    async run() {
      const answers = await ask(`run ${layers}`);
      const times = answers.map((line) => line.split(' ').map(Number) as [number, number]);
      return elapsed(times.map(([begun, ended]) => ({ begun, ended }))) / layers;
    },
    async output() {
      await ask('output');
      return joinShares(
        work,
        programs.map(({ share, outputFile }) => {
          const bytes = readFileSync(outputFile);
          return {
            share,
            output: new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length)),
          };
        }),
      );
    },
    close,
  };
}
