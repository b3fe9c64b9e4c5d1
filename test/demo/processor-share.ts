/**
 * How much of the processor other programs take, so that a test of wall-clock time can say that it measured them rather than the
 * page. From Linux's /proc; elsewhere nobody is suspected.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';

/** Of /proc; the same on every architecture that Node runs on. */
const TICKS_PER_SECOND = 100;

/** @returns what tells the share of all cores, 0 to 1, that others took since the call */
export function watchOthers(): () => number {
  const [began, all, own] = [performance.now(), allTicks(), ownTicks()];
  return () => {
    const ticks = ((performance.now() - began) / 1000) * TICKS_PER_SECOND * availableParallelism();
    return Math.max(0, allTicks() - all - (ownTicks() - own)) / Math.max(1, ticks);
  };
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return ''; // Not Linux, or a process that just ended.
  }
}

/** Of all programs, and what a host took from this machine. */
function allTicks(): number {
  const [, user = 0, nice = 0, system = 0, , , irq = 0, softIrq = 0, steal = 0] = read('/proc/stat')
    .split('\n', 1)
    .join('')
    .split(/\s+/)
    .map(Number);
  return user + nice + system + irq + softIrq + steal;
}

interface Process {
  readonly parent: number;
  readonly ticks: number;
}

/** Of this process and all below it: the browser. */
function ownTicks(): number {
  const pids = read('/proc/stat') === '' ? [] : readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  const processes = new Map(pids.map((pid) => [Number(pid), processOf(pid)]));
  const isOwn = (pid: number): boolean => {
    for (let at = pid; at > 1; at = processes.get(at)?.parent ?? 0) if (at === process.pid) return true;
    return false;
  };
  return [...processes].reduce((sum, [pid, { ticks }]) => (isOwn(pid) ? sum + ticks : sum), 0);
}

/** The command in the second field may have anything in it, so fields count from behind its parenthesis. */
function processOf(pid: string): Process {
  const stat = read(`/proc/${pid}/stat`);
  const fields = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .map(Number);
  return { parent: fields[1] ?? 0, ticks: (fields[11] ?? 0) + (fields[12] ?? 0) };
}
