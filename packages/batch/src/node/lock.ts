/**
 * One process at a time writes an output. The lock is a file beside it that names its holder; it appears whole (hard link) and
 * a dead holder's is taken over.
 */
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { link, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname } from 'node:path';
import { GlinthawkError, InputError, toError } from '@glinthawk/core';

const FULL_DISK: ReadonlySet<string | undefined> = new Set(['ENOSPC', 'EDQUOT']);

interface Holder {
  readonly pid: number;
  readonly host: string;
  /** When the process began, in the kernel's ticks, so that another process with its pid isn't taken for it; else null. */
  readonly began: string | null;
  readonly nonce: string;
}

export interface Lock {
  release(): Promise<void>;
}

const ATTEMPTS = 5;
/** How long a holder that was just stopped may take to be gone. */
const PATIENCE_MS = 2_000;
const RETRY_MS = 50;
const held = new Set<string>();

/**
 * @param patienceMs how long to wait for a living holder before it is refused
 * @throws InputError when a living process holds it
 */
export async function acquireLock(path: string, patienceMs = PATIENCE_MS): Promise<Lock> {
  const refuseAtMs = performance.now() + patienceMs;
  const nonce = randomUUID();
  const mine: Holder = { pid: process.pid, host: hostname(), began: processStart(process.pid), nonce };
  const draft = `${path}.${nonce}`;
  try {
    await writeFile(draft, JSON.stringify(mine), { flag: 'wx' });
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') {
      throw new InputError('FOLDER_MISSING', `there is no folder ${dirname(path)}`, { cause, hint: 'make it first' });
    }
    if (FULL_DISK.has((cause as NodeJS.ErrnoException).code)) {
      await rm(draft, { force: true });
      throw new GlinthawkError('DISK_FULL', `no space left to write the lock ${path}`, {
        cause,
        hint: 'free some space and run the same command again',
      });
    }
    throw new InputError('NOT_WRITABLE', `the lock ${path} can't be written: ${toError(cause).message}`, { cause });
  }
  try {
    for (let attempt = 0; attempt < ATTEMPTS; ) {
      if (await appears(draft, path)) {
        held.add(nonce);
        return {
          release: async () => {
            if (held.delete(nonce)) await rm(path, { force: true });
          },
        };
      }
      const holder = await removeStale(path, nonce);
      if (holder === null) attempt++;
      else if (performance.now() < refuseAtMs) await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      else throw locked(path, holder);
    }
  } finally {
    await rm(draft, { force: true });
  }
  throw new GlinthawkError('LOCK_CONTENDED', `several processes are trying to take the lock ${path}`);
}

async function appears(draft: string, path: string): Promise<boolean> {
  try {
    await link(draft, path);
    return true;
  } catch (thrown) {
    const { code } = thrown as NodeJS.ErrnoException;
    if (code === 'EEXIST') return false;
    // No hard links on this file system: a copy that must not exist yet is as good but for a moment in which it is empty.
    try {
      await writeFile(path, await readFile(draft), { flag: 'wx' });
      return true;
    } catch (second) {
      if ((second as NodeJS.ErrnoException).code === 'EEXIST') return false;
      throw second;
    }
  }
}

function locked(path: string, holder: Holder): InputError {
  const where = holder.host === hostname() ? '' : ` on ${holder.host}`;
  return new InputError(
    'OUTPUT_LOCKED',
    `another process (${holder.pid}${where}) is writing this output; its lock is ${path}`,
    { hint: 'wait for it, stop it, or remove the lock if you are sure that it is gone' },
  );
}

/** @returns the holder when it lives */
async function removeStale(path: string, nonce: string): Promise<Holder | null> {
  const seen = await readFile(path, 'utf8').catch(() => null);
  if (seen === null) return null;
  const holder = parseHolder(seen);
  if (holder !== null && isAlive(holder)) return holder;
  // Moved before it is judged again: a lock that somebody took in the meantime is put back.
  const aside = `${path}.${nonce}.stale`;
  try {
    await rename(path, aside);
    if ((await readFile(aside, 'utf8')) !== seen) await link(aside, path).catch(() => {});
  } catch {
    // Somebody else removed it first.
  }
  await rm(aside, { force: true });
  return null;
}

function parseHolder(text: string): Holder | null {
  try {
    const value = JSON.parse(text) as Partial<Holder>;
    return typeof value.pid === 'number' && typeof value.host === 'string' ? (value as Holder) : null;
  } catch {
    return null;
  }
}

function isAlive(holder: Holder): boolean {
  // Nothing can be known of another machine's processes.
  if (holder.host !== hostname()) return true;
  if (holder.pid === process.pid) return held.has(holder.nonce);
  try {
    process.kill(holder.pid, 0);
  } catch (thrown) {
    return (thrown as NodeJS.ErrnoException).code === 'EPERM';
  }
  if (isZombie(holder.pid)) return false;
  const began = processStart(holder.pid);
  return holder.began === null || began === null || began === holder.began;
}

/** Killed, but its parent hasn't asked how it ended. */
function isZombie(pid: number): boolean {
  return processStatus(pid)?.[0] === 'Z';
}

function processStart(pid: number): string | null {
  return processStatus(pid)?.[19] ?? null;
}

/** Linux: the fields of proc_pid_stat(5) from the third on; they follow the command's name, which may hold spaces and parentheses. */
function processStatus(pid: number): string[] | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  } catch {
    return null;
  }
}
