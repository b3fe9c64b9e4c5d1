/** Runs the `glinthawk` command as a user does: a process, its output, its exit status. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { exampleModel, repositoryRoot } from '../models.ts';

const LAUNCHER = join(repositoryRoot, 'apps', 'cli', 'bin', 'glinthawk.js');

export interface Outcome {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Running {
  readonly child: ChildProcess;
  readonly ended: Promise<Outcome>;
  /** Resolves when the text has been printed on either stream. @throws when the process ends without */
  saw(pattern: RegExp): Promise<RegExpExecArray>;
}

export interface CommandOptions {
  /** The Node that starts the launcher. */
  readonly node?: string;
  /** Standard input isn't ended: more may come. */
  readonly stdinStaysOpen?: boolean;
  /** A file to write to rather than what `stdout` collects. */
  readonly stdout?: number;
  readonly stdin?: string | Uint8Array;
  readonly env?: Readonly<Record<string, string>>;
}

export function start(args: readonly string[], options: CommandOptions = {}): Running {
  const child = spawn(options.node ?? process.execPath, [LAUNCHER, ...args], {
    cwd: repositoryRoot,
    env: { ...process.env, NO_COLOR: '1', GLINTHAWK_TOKEN: '', ...options.env },
    stdio: ['pipe', options.stdout ?? 'pipe', 'pipe'],
  });
  // A test that fails half-way leaves no node behind.
  onTestFinished(() => {
    child.kill('SIGKILL');
  });
  let stdout = '';
  let stderr = '';
  const watchers = new Set<() => void>();
  const notify = () => {
    for (const watcher of watchers) watcher();
  };
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    notify();
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
    notify();
  });
  child.stdin?.on('error', () => {}); // It may end before it has read everything.
  child.stdin?.write(options.stdin ?? '');
  if (!options.stdinStaysOpen) child.stdin?.end();
  let isOver = false;
  const ended = new Promise<Outcome>((resolve) => {
    child.on('close', (status, signal) => {
      isOver = true;
      resolve({ status, signal, stdout, stderr });
      notify();
    });
  });
  return {
    child,
    ended,
    saw(pattern) {
      return new Promise((resolve, reject) => {
        const look = () => {
          const match = pattern.exec(stdout) ?? pattern.exec(stderr);
          if (match === null && !isOver) return;
          watchers.delete(look);
          if (match !== null) resolve(match);
          else reject(new Error(`the command ended without saying ${pattern}:\n${stderr}`));
        };
        watchers.add(look);
        look();
      });
    },
  };
}

export function glinthawk(args: readonly string[], options: CommandOptions = {}): Promise<Outcome> {
  return start(args, options).ended;
}

/** A folder that is gone after the test. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'glinthawk-e2e-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export interface ResultLine {
  readonly custom_id: string | null;
  readonly response: {
    readonly status_code: number;
    readonly body: {
      readonly choices: readonly {
        readonly text?: string;
        readonly message?: { readonly content: string };
        readonly finish_reason: string;
        readonly token_ids?: readonly number[];
        readonly logprobs: unknown;
      }[];
      readonly usage: Readonly<Record<string, number>>;
      created?: number;
    };
  };
  readonly error: { readonly code: string; readonly message: string; readonly line: number } | null;
}

export function readLines(path: string): ResultLine[] {
  return readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as ResultLine);
}

/** Everything but the time of day, by custom_id; fails on one that is there twice. */
export function byId(lines: readonly ResultLine[]): Map<string | null, ResultLine> {
  const all = new Map<string | null, ResultLine>();
  for (const line of lines) {
    if (all.has(line.custom_id)) throw new Error(`custom_id ${line.custom_id} is there twice`);
    delete line.response.body.created;
    all.set(line.custom_id, line);
  }
  return all;
}

/**
 * The flags of a run on the example model, on the backend that every machine has. KV in f32, since runs are compared to the
 * token: f16 turns the last bits in which batches differ into differences of 2e-4 in logits, which decide a near tie (one token
 * in some thousands of this job's).
 */
export function runArguments(input: string, output: string, ...more: readonly string[]): string[] {
  return [
    'run',
    '--model',
    exampleModel,
    '--dense',
    'wasm',
    '--input',
    input,
    '--output',
    output,
    '--kv',
    'f32',
    ...more,
  ];
}
