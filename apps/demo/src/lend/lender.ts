/**
 * Lends this tab: workers that serve a job elsewhere as attention nodes, one connection each. This is the page's side; it computes
 * nothing. A worker that dies is reported and replaced by nobody: the job goes on without it, and the visitor may start again.
 */
import { InputError } from '@glinthawk/core';
import { MAX_WORKERS } from '../limits.ts';
import type { LendCommand, LendStart, LentWorker } from './lend-messages.ts';

export interface LendOptions {
  readonly workers: number;
  /** Of the job; from a lend link, or as typed and checked by jobAddress(). */
  readonly url: string;
  readonly token: string | null;
  /** KV of all workers together at most. */
  readonly memoryBytes: number;
}

export interface LendStatus {
  readonly lending: boolean;
  readonly workers: readonly LentWorker[];
}

/** A worker that doesn't say good-bye within this time is ended without. */
const STOP_MS = 3_000;

interface Lent {
  readonly worker: Worker;
  report: LentWorker;
  readonly gone: PromiseWithResolvers<void>;
}

export class Lender {
  readonly #listeners = new Set<(status: LendStatus) => void>();
  #lent: Lent[] = [];
  #lending = false;

  get status(): LendStatus {
    return { lending: this.#lending, workers: this.#lent.map(({ report }) => report) };
  }

  /** Called whenever something changed, some times a second while lending. @returns what ends the subscription */
  subscribe(listener: (status: LendStatus) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** @throws InputError when it lends already, or the options are out of range */
  start({ workers, url, token, memoryBytes }: LendOptions): void {
    if (this.#lending) throw new InputError('LENDING', 'this tab is being lent already', { hint: 'Stop that first.' });
    if (!Number.isInteger(workers) || workers < 1 || workers > MAX_WORKERS) {
      throw new InputError('LEND_WORKERS', `${workers} workers to lend, expected 1 to ${MAX_WORKERS}`);
    }
    if (!(memoryBytes > 0 && Number.isFinite(memoryBytes))) {
      throw new InputError('LEND_MEMORY', `${memoryBytes} bytes to lend, expected a positive number`);
    }
    this.#lending = true;
    this.#lent = Array.from({ length: workers }, (_, i) =>
      this.#startWorker({
        type: 'start',
        name: `tab worker ${i + 1}`,
        url,
        token,
        memoryBytes: Math.floor(memoryBytes / workers),
      }),
    );
    this.#tell();
  }

  /** Resolves when the job was told and every worker is gone. The last reports stay. */
  async stop(): Promise<void> {
    const lent = this.#lent;
    for (const { worker } of lent) worker.postMessage({ type: 'stop' } satisfies LendCommand);
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, STOP_MS);
    });
    await Promise.race([Promise.all(lent.map(({ gone }) => gone.promise)), late]);
    clearTimeout(timer);
    for (const each of lent) this.#end(each, null);
    if (this.#lent !== lent) return;
    this.#lending = false;
    this.#tell();
  }

  /** Ends every worker at once. */
  destroy(): void {
    this.#listeners.clear();
    for (const each of this.#lent) this.#end(each, null);
    this.#lending = false;
  }

  #startWorker(start: LendStart): Lent {
    const worker = new Worker(new URL('./lend-worker.ts', import.meta.url), { type: 'module', name: 'glinthawk-lend' });
    const lent: Lent = { worker, report: notYet(start.name), gone: Promise.withResolvers<void>() };
    worker.onmessage = ({ data }: MessageEvent<LentWorker>) => {
      lent.report = data;
      if (data.state === 'stopped') lent.gone.resolve();
      this.#tell();
    };
    worker.onerror = (event) => {
      event.preventDefault();
      this.#end(lent, event.message || 'its script could not be loaded');
      this.#tell();
    };
    worker.postMessage(start satisfies LendCommand);
    return lent;
  }

  #end(lent: Lent, died: string | null): void {
    lent.worker.onmessage = null;
    lent.worker.onerror = null;
    lent.worker.terminate();
    lent.gone.resolve();
    const reason = died === null ? lent.report.reason : `the worker ended: ${died}`;
    lent.report = { ...lent.report, state: 'stopped', reason, usedBlocks: 0, slots: 0, busyShare: 0 };
  }

  #tell(): void {
    const { status } = this;
    for (const listener of [...this.#listeners]) listener(status);
  }
}

function notYet(name: string): LentWorker {
  const none = { usedBlocks: 0, blocks: 0, blockBytes: 0, slots: 0, attends: 0, bytesIn: 0, bytesOut: 0, busyShare: 0 };
  return { name, state: 'connecting', reason: null, ...none };
}
