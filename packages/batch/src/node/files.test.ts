/** The parts that need a real disk and real processes. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { gzipSync } from 'node:zlib';
import { AbortedError, GlinthawkError } from '@glinthawk/core';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LineError } from '../line-error.ts';
import { type InputFileOptions, openInputFile } from './input-file.ts';
import { acquireLock } from './lock.ts';

let folder = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'glinthawk-test-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

const text = '{"prompt":"a"}\n\n{"prompt":"é"}\n';

async function read(path: string, options?: InputFileOptions): Promise<{ lines: unknown[]; sha256: string }> {
  const input = await openInputFile(path, options);
  try {
    const sha256 = await input.sha256();
    const lines: unknown[] = [];
    for (let pass = 0; pass < 2; pass++) {
      lines.length = 0;
      for await (const { line, text: content } of input.lines()) {
        lines.push([line, content instanceof LineError ? content.message : content]);
      }
    }
    return { lines, sha256 };
  } finally {
    await input.close();
  }
}

describe('an input', () => {
  const expected = [
    [1, '{"prompt":"a"}'],
    [3, '{"prompt":"é"}'],
  ];

  it('is read twice, plain or gzipped, from a file or standard input', async () => {
    const plain = join(folder, 'in.jsonl');
    writeFileSync(plain, text);
    const zipped = join(folder, 'in.anything');
    writeFileSync(zipped, gzipSync(text));
    const fromFile = await read(plain);
    expect(fromFile.lines).toEqual(expected);
    expect((await read(zipped)).lines).toEqual(expected);
    expect(await read('-', { stdin: Readable.from([Buffer.from(text)]) })).toEqual(fromFile);
    expect((await read('-', { stdin: Readable.from([gzipSync(text)]) })).lines).toEqual(expected);
  });

  it('is refused with what is wrong', async () => {
    await expect(read(join(folder, 'none'))).rejects.toThrow(/^there is no input file /);
    await expect(read(folder)).rejects.toThrow(/is a folder, expected a JSONL file$/);
    const cut = join(folder, 'cut.gz');
    writeFileSync(cut, gzipSync(text.repeat(1000)).subarray(0, 60));
    await expect(read(cut)).rejects.toThrow(/is damaged gzip: /);
  });

  it('may be given up while it is still coming', async () => {
    const abort = new AbortController();
    const coming = openInputFile('-', { stdin: new Readable({ read: () => {} }), signal: abort.signal });
    setTimeout(() => abort.abort(new AbortedError('stopped')), 20);
    await expect(coming).rejects.toThrow(AbortedError);
  });

  it('may not change while it is read', async () => {
    const path = join(folder, 'in.jsonl');
    writeFileSync(path, text);
    const input = await openInputFile(path);
    await input.sha256();
    writeFileSync(path, text.replace('a', 'b'));
    const all = async () => {
      for await (const _ of input.lines());
    };
    await expect(all()).rejects.toThrow(/changed while it was read/);
    await input.close();
  });
});

describe('a lock', () => {
  it('is held by one at a time, and leaves nothing behind', async () => {
    const path = join(folder, 'out.lock');
    const first = await acquireLock(path);
    await expect(acquireLock(path, 0)).rejects.toThrow(`another process (${process.pid}) is writing this output`);
    const patient = acquireLock(path);
    setTimeout(() => first.release(), 30);
    await (await patient).release();
    expect(readdirSync(folder)).toEqual([]);
  });

  it('is taken over from the dead, and from who has their pid now', async () => {
    const path = join(folder, 'out.lock');
    const child = spawn(process.execPath, ['-e', '']);
    await new Promise((resolve) => child.on('exit', resolve));
    const mine = await acquireLock(path);
    const holder = JSON.parse(readFileSync(path, 'utf8'));
    await mine.release();
    const stale = [{ ...holder, pid: child.pid }, { ...holder, pid: process.ppid, began: '1' }, { nonsense: 1 }];
    for (const content of stale) {
      if (process.platform !== 'linux' && content.began === '1') continue;
      writeFileSync(path, JSON.stringify(content));
      await (await acquireLock(path)).release();
    }
    writeFileSync(path, JSON.stringify({ ...holder, host: 'elsewhere' }));
    await expect(acquireLock(path, 0)).rejects.toThrow(/on elsewhere\) is writing this output/);
  });

  it('goes to exactly one of many who find it stale', async () => {
    const path = join(folder, 'out.lock');
    writeFileSync(path, '{}');
    const taken = await Promise.allSettled(Array.from({ length: 8 }, () => acquireLock(path, 0)));
    expect(taken.filter(({ status }) => status === 'fulfilled').length).toBe(1);
    for (const outcome of taken) {
      if (outcome.status === 'rejected') expect(outcome.reason).toBeInstanceOf(GlinthawkError);
      else await outcome.value.release();
    }
  });
});

describe('a job that is killed', () => {
  it('has every request exactly once after a dozen kills at random instants', { timeout: 60_000 }, async () => {
    const requests = 400;
    const input = join(folder, 'in.jsonl');
    const output = join(folder, 'out.jsonl');
    writeFileSync(
      input,
      Array.from({ length: requests }, (_, i) => `{"custom_id":"c${i}","prompt":"${i}"}`).join('\n'),
    );
    const reported = new Set<number>();
    const script = join(import.meta.dirname, 'batch-process.fixture.ts');
    let kills = 0;
    for (let isComplete = false; !isComplete; ) {
      const child = spawn(process.execPath, [script, input, output], { stdio: ['ignore', 'pipe', 'inherit'] });
      let said = '';
      let left = kills < 12 ? 1 + Math.floor(Math.random() * 30) : Number.POSITIVE_INFINITY;
      child.stdout.setEncoding('utf8').on('data', (data: string) => {
        said += data;
        left -= data.split('\n').length - 1;
        // After so many reports, and then at any instant of the next few milliseconds.
        if (left <= 0) setTimeout(() => child.kill('SIGKILL'), Math.random() * 4);
      });
      const signal = await new Promise((resolve) => child.on('close', (_, by) => resolve(by)));
      if (signal !== null) kills++;
      for (const [, ordinal] of said.matchAll(/^done (\d+)\n/gm)) {
        expect(reported.has(Number(ordinal))).toBe(false);
        reported.add(Number(ordinal));
      }
      isComplete = said.endsWith('complete\n');
      if (signal === null) expect(isComplete).toBe(true);
    }
    expect(kills).toBeGreaterThanOrEqual(10);
    const ids = readFileSync(output, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line).custom_id);
    expect(ids.toSorted()).toEqual(Array.from({ length: requests }, (_, i) => `c${i}`).toSorted());
    expect(readdirSync(folder).toSorted()).toEqual(['in.jsonl', 'out.jsonl', 'out.jsonl.journal']);
  });
});
