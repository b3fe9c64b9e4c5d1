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
const held = new Set<string>();

/** @throws InputError when a living process holds it */
export async function acquireLock(path: string): Promise<Lock> {
  const nonce = randomUUID();
  const mine: Holder = { pid: process.pid, host: hostname(), began: processStart(process.pid), nonce };
  const draft = `${path}.${nonce}`;
  try {
    await writeFile(draft, JSON.stringify(mine), { flag: 'wx' });
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') {
      throw new InputError('FOLDER_MISSING', `there is no folder ${dirname(path)}`, { cause, hint: 'make it first' });
    }
    throw new InputError('NOT_WRITABLE', `the lock ${path} can't be written: ${toError(cause).message}`, { cause });
  }
  try {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      if (await appears(draft, path)) {
        held.add(nonce);
        return {
          release: async () => {
            if (held.delete(nonce)) await rm(path, { force: true });
          },
        };
      }
      await removeStale(path, nonce);
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

async function removeStale(path: string, nonce: string): Promise<void> {
  const seen = await readFile(path, 'utf8').catch(() => null);
  if (seen === null) return;
  const holder = parseHolder(seen);
  if (holder !== null && isAlive(holder)) {
    const where = holder.host === hostname() ? '' : ` on ${holder.host}`;
    throw new InputError(
      'OUTPUT_LOCKED',
      `another process (${holder.pid}${where}) is writing this output; its lock is ${path}`,
      {
        hint: 'wait for it, stop it, or remove the lock if you are sure that it is gone',
      },
    );
  }
  // Moved before it is judged again: a lock that somebody took in the meantime is put back.
  const aside = `${path}.${nonce}.stale`;
  try {
    await rename(path, aside);
    if ((await readFile(aside, 'utf8')) !== seen) await link(aside, path).catch(() => {});
  } catch {
    // Somebody else removed it first.
  }
  await rm(aside, { force: true });
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
