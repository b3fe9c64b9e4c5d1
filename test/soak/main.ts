/**
 * `npm run soak -- --minutes 30 [--seed N]`: random traffic on attention, here and over a wire, in all KV dtypes in turn, against a naive
 * model; see traffic.ts for what is compared. Prints a line a minute. Exits with 1 on the first difference, and when memory
 * isn't level, and then says how to see it again.
 */
import { parseArgs } from 'node:util';
import { MemoryWatch } from './memory-watch.ts';
import { phaseOf, phaseText } from './phase.ts';
import { runPhase } from './run-phase.ts';
import { type Counts, Mismatch, noCounts } from './traffic.ts';

const USAGE = `node test/soak/main.ts [flags]
  --minutes N    how long, default 30
  --seed N       default 1
  --phase N      begin with this phase
  --phases N     run so many phases and end, whatever the time
  --actions N    of each phase, default 1500
  --path LIST    only phases of local, memory, tcp
  --verbose      say each phase
  --help`;

const { values: flags } = parseArgs({
  options: {
    minutes: { type: 'string', default: '30' },
    seed: { type: 'string', default: '1' },
    phase: { type: 'string', default: '0' },
    phases: { type: 'string', default: '1000000' },
    actions: { type: 'string', default: '1500' },
    path: { type: 'string', default: 'local,memory,tcp' },
    verbose: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

function number(flag: 'minutes' | 'seed' | 'phase' | 'phases' | 'actions'): number {
  const value = Number(flags[flag]);
  if (!Number.isFinite(value) || value < 0) throw new Error(`--${flag} is a number from 0 on, found "${flags[flag]}"`);
  return value;
}

const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
const text = (count: number) => count.toLocaleString('en-US');

function line(counts: Counts, minute: number, phases: number): string {
  const { heapUsed, rss } = process.memoryUsage();
  const { steps, rows, appended, visited, forks, frees, preempted, aborted, refused, compared, longest } = counts;
  return [
    `minute ${minute}: ${phases} phases, ${text(steps)} steps, ${text(rows)} rows (${text(appended)} tokens appended, ${text(visited)} rows visiting)`,
    `${text(forks)} forks, ${text(frees)} freed, ${text(preempted)} preempted, ${text(aborted)} given up, ${text(refused)} refused`,
    `${text(compared)} outputs compared, longest ${text(longest)}; heap ${mib(heapUsed)}, resident ${mib(rss)}`,
  ].join('; ');
}

async function main(): Promise<void> {
  if (flags.help) {
    console.log(USAGE);
    return;
  }
  const began = performance.now();
  const seed = number('seed');
  const endsAt = began + 60_000 * number('minutes');
  let interrupted = false;
  process.once('SIGINT', () => {
    interrupted = true;
    console.log('ending');
  });
  const stop = () => interrupted || performance.now() >= endsAt;
  const counts = noCounts();
  const watch = new MemoryWatch();
  const first = number('phase');
  let index = first;
  const minute = () => Math.round((performance.now() - began) / 60_000);
  const ticking = setInterval(() => console.log(line(counts, minute(), index - first)), 60_000);
  try {
    for (; !stop() && index < first + number('phases'); index++) {
      const phase = phaseOf(seed, index);
      if (!flags.path.split(',').includes(phase.path)) continue;
      if (flags.verbose) console.log(phaseText(phase));
      try {
        await runPhase(phase, number('actions'), counts, stop);
      } catch (error) {
        if (!(error instanceof Mismatch)) throw error;
        console.error(`${phaseText(phase)}\n  ${error.message}`);
        if (flags.verbose) console.error(error.cause);
        console.error(
          `again: node test/soak/main.ts --seed ${seed} --phase ${index} --phases 1 --actions ${flags.actions}`,
        );
        process.exitCode = 1;
        return;
      }
    }
  } finally {
    clearInterval(ticking);
    watch.close();
  }
  console.log(line(counts, minute(), index - first));
  const trends = watch.trends();
  for (const { name, early, late, isFlat } of trends ?? []) {
    console.log(`${name}: ${mib(early)} in the second tenth, ${mib(late)} in the last${isFlat ? '' : ': it grows'}`);
    if (!isFlat) process.exitCode = 1;
  }
  if (trends === null) console.log(`memory: ${watch.seconds} s are too few to tell`);
  if (process.exitCode !== 1) console.log(`no difference in ${text(counts.actions)} actions, seed ${seed}`);
}

await main();
