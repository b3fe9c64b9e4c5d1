/**
 * `npm run soak -- --minutes 30 [--seed N]`: random traffic on attention, here and over a wire, in all KV dtypes, held to a naive
 * model; stream.ts tells which streams there are, traffic.ts what is compared. Prints a line a minute and stream. Exits with 1 on the first
 * difference, and where memory isn't level, and says how to see it again.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { parseArgs } from 'node:util';
import { countsText } from './counts.ts';
import { trendText } from './memory-trend.ts';
import { STREAMS, type StreamMessage, type StreamName, type StreamReport, type StreamSettings } from './stream.ts';

const USAGE = `node test/soak/main.ts [flags]
  --minutes N     how long, default 30
  --seed N        default 1
  --streams LIST  of short (one backend after another), local and tcp (one for the whole time); default all
  --phase N       short: begin with this phase
  --phases N      short: run so many phases and end, whatever the time
  --actions N     short: of each phase, default 1500
  --path LIST     short: only phases of local, memory, tcp
  --verbose       say each phase, and where a difference was found in the code
  --help`;

const { values: flags } = parseArgs({
  options: {
    minutes: { type: 'string', default: '30' },
    seed: { type: 'string', default: '1' },
    streams: { type: 'string', default: STREAMS.join(',') },
    phase: { type: 'string', default: '0' },
    phases: { type: 'string', default: '1000000' },
    actions: { type: 'string', default: '1500' },
    path: { type: 'string', default: 'local,memory,tcp' },
    verbose: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

/** A stream that says nothing for so long has its thread in a loop. */
const SILENT_MS = 120_000;

function number(flag: 'minutes' | 'seed' | 'phase' | 'phases' | 'actions'): number {
  const value = Number(flags[flag]);
  if (!Number.isFinite(value) || value < 0) throw new Error(`--${flag} is a number from 0 on, found "${flags[flag]}"`);
  return value;
}

function streams(): readonly StreamName[] {
  const wanted = flags.streams.split(',');
  const unknown = wanted.find((name) => !STREAMS.some((stream) => stream === name));
  if (unknown !== undefined) throw new Error(`--streams are of ${STREAMS.join(', ')}, found "${unknown}"`);
  return STREAMS.filter((stream) => wanted.includes(stream));
}

function progressLine({ stream, counts, phases, residentBytes }: StreamReport): string {
  const backends = stream === 'short' ? `${phases} backends, ` : '';
  return `${stream.padEnd(5)} ${backends}${countsText(counts)}; resident ${(residentBytes / 2 ** 20).toFixed(0)} MiB`;
}

/** One stream's process and what it said last. */
class StreamProcess {
  readonly name: StreamName;
  /** Whether all was as it should be. */
  readonly ended: Promise<boolean>;
  report: StreamReport | undefined;
  readonly #child: ChildProcess;
  readonly #settings: StreamSettings;
  #heardMs = performance.now();
  /** What of its memory is level, and what can't be told. */
  readonly memory = { level: 0, unknown: 0 };
  #isDone = false;
  #hasFailed = false;

  constructor(settings: StreamSettings) {
    this.name = settings.stream;
    this.#settings = settings;
    this.#child = fork(new URL('./stream.ts', import.meta.url), [JSON.stringify(settings)], {
      // A young generation that grows and shrinks moves what is resident by tens of MiB.
      execArgv: ['--expose-gc', '--max-semi-space-size=2'],
      // What threads that have ended leave in the C library's pools, one for each, would look like a leak.
      env: { ...process.env, MALLOC_ARENA_MAX: '1' },
    });
    this.#child.on('message', (message) => this.#hear(message as StreamMessage));
    const silence = setInterval(() => {
      if (performance.now() - this.#heardMs < SILENT_MS) return;
      this.#fail(`its thread hasn't come to rest for ${SILENT_MS / 1000} s`);
      this.#child.kill('SIGKILL');
    }, 1000);
    this.ended = new Promise((resolve) => {
      this.#child.on('exit', (code, signal) => {
        clearInterval(silence);
        if (!this.#isDone && !this.#hasFailed) this.#fail(`its process ended with ${signal ?? code}`);
        resolve(!this.#hasFailed);
      });
    });
  }

  stop(): void {
    if (this.#child.connected) this.#child.send('stop');
  }

  #hear(message: StreamMessage): void {
    this.#heardMs = performance.now();
    switch (message.type) {
      case 'said':
        console.log(`${this.name.padEnd(5)} ${message.text}`);
        return;
      case 'progress':
        this.report = message.report;
        return;
      case 'failed':
        this.#hasFailed = true;
        console.error(`${this.name}: ${message.text}\n  again: ${message.again}`);
        return;
      case 'done':
        this.#isDone = true;
        this.report = message.report;
        console.log(progressLine(message.report));
        for (const trend of message.trends) {
          console.log(`${this.name.padEnd(5)} ${trendText(trend)}`);
          if (trend.verdict === 'grows') this.#hasFailed = true;
          else this.memory[trend.verdict]++;
        }
        if (message.trends.length === 0) console.log(`${this.name.padEnd(5)} memory: no samples`);
        return;
      default:
        message satisfies never;
    }
  }

  #fail(what: string): void {
    this.#hasFailed = true;
    const { seed } = this.#settings;
    const { counts, phases } = this.report ?? {};
    console.error(
      `${this.name}: seed ${seed}, ${phases ?? 0} backends, ${counts?.actions ?? 0} actions, ${counts?.steps ?? 0} steps: ${what}\n  again: node test/soak/main.ts --seed ${seed} --streams ${this.name}`,
    );
  }
}

function memoryText(streams: readonly StreamProcess[]): string {
  const unknown = streams.filter(({ memory }) => memory.unknown > 0 || memory.level === 0).map(({ name }) => name);
  return unknown.length === 0 ? 'memory is level' : `whether memory is level can not be told of ${unknown.join(', ')}`;
}

async function main(): Promise<void> {
  if (flags.help) {
    console.log(USAGE);
    return;
  }
  const began = performance.now();
  const seed = number('seed');
  const running = streams().map(
    (stream) =>
      new StreamProcess({
        stream,
        seed,
        minutes: number('minutes'),
        actions: number('actions'),
        phase: number('phase'),
        phases: number('phases'),
        paths: flags.path.split(','),
        verbose: flags.verbose,
      }),
  );
  const stopAll = () => {
    for (const stream of running) stream.stop();
  };
  process.once('SIGINT', () => {
    console.log('ending');
    stopAll();
  });
  const ticking = setInterval(() => {
    console.log(`minute ${Math.round((performance.now() - began) / 60_000)}`);
    for (const { report } of running) if (report !== undefined) console.log(`  ${progressLine(report)}`);
  }, 60_000);
  const outcomes = running.map(async ({ ended }) => {
    const isGood = await ended;
    if (!isGood) stopAll(); // the others say how far they are
    return isGood;
  });
  const isGood = (await Promise.all(outcomes)).every((good) => good);
  clearInterval(ticking);
  if (!isGood) process.exitCode = 1;
  else console.log(`no difference, seed ${seed}; ${memoryText(running)}`);
}

await main();
