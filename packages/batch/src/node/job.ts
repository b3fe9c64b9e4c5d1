/**
 * A job on disk: its journal, and the output and errors files that follow from it. A result counts once its journal record is
 * durable; the files are brought up to date after that, and repaired when a job is opened again. Kill it at any instant:
 * every request's line stands in the files exactly once when the job is done.
 */
import { GlinthawkError, InputError } from '@glinthawk/core';
import { DerivedFile } from './derived-file.ts';
import { type Disk, type DiskFile, nodeDisk } from './disk.ts';
import { encodeRecord, type JobHeader, Journal, type JournalRecord, type Receipt, type RecordKind } from './journal.ts';

/** Bytes of results that one fsync covers, at most. */
const COMMIT_BYTES = 8 << 20;

export interface JobOptions {
  readonly output: string;
  /** Where error lines go; absent: among the results. */
  readonly errors?: string | undefined;
  readonly header: JobHeader;
  /** Requests in the input, or as many of them as are wanted now. */
  readonly requests: number;
  /** Lines in the input's order rather than in order of completion. */
  readonly ordered: boolean;
  /** Discard what an earlier run left. */
  readonly restart: boolean;
  readonly disk?: Disk;
}

export function journalPath(output: string): string {
  return `${output}.journal`;
}

/** What was known of a finished job when it was asked for again. */
export interface FinishedJob {
  readonly type: 'finished';
  readonly receipt: Receipt;
}

/** A job as openJob would find it. */
export interface JobOutlook {
  readonly type: 'open';
  readonly done: number;
  isDone(ordinal: number): boolean;
}

/**
 * Looks at what an earlier run left, and changes no result of it: whatever else may stop a run is found out between this and
 * openJob. The caller holds the lock.
 * @throws InputError for everything that openJob refuses of the files' content
 */
export async function examineJob(options: JobOptions): Promise<JobOutlook | FinishedJob> {
  const disk = options.disk ?? nodeDisk;
  const ordinals = new Set<number>();
  const journal = options.restart ? null : await Journal.open(disk, journalPath(options.output));
  if (journal === null) {
    if (!options.restart) await refuseContent(disk, options);
  } else {
    try {
      refuseDifferent(options.output, journal.header, options.header);
      for await (const { ordinal } of journal.records()) if (ordinal < options.requests) ordinals.add(ordinal);
      const { receipt } = journal;
      if (receipt !== null) {
        await refuseChangedFiles(disk, options, receipt);
        refuseOtherFiles(options, receipt);
        return { type: 'finished', receipt };
      }
    } finally {
      await journal.close();
    }
  }
  return { type: 'open', done: ordinals.size, isDone: (ordinal) => ordinals.has(ordinal) };
}

/**
 * Opens a job or makes one. The caller holds the lock.
 * @throws InputError when an earlier run differs, when the output has content that is nobody's, or when files can't be used
 */
export async function openJob(options: JobOptions): Promise<Job | FinishedJob> {
  const disk = options.disk ?? nodeDisk;
  const path = journalPath(options.output);
  const earlier = options.restart ? null : await Journal.open(disk, path);
  const files: DiskFile[] = [];
  let journal = earlier;
  try {
    if (journal !== null) refuseDifferent(options.output, journal.header, options.header);
    if (journal === null && !options.restart) await refuseContent(disk, options);
    journal ??= await Journal.create(disk, path, options.header);
    const records: JournalRecord[] = [];
    for await (const record of journal.records()) records.push(record);
    if (journal.receipt !== null) {
      const { receipt } = journal;
      await refuseChangedFiles(disk, options, receipt);
      refuseOtherFiles(options, receipt);
      await journal.close();
      return { type: 'finished', receipt };
    }
    const openDerived = async (target: string) => {
      const file = (await disk.open(target)) ?? (await disk.create(target));
      files.push(file);
      return DerivedFile.from(file);
    };
    const output = await openDerived(options.output);
    const errors = options.errors === undefined ? null : await openDerived(options.errors);
    for (const target of [options.output, options.errors]) if (target !== undefined) await disk.syncFolder(target);
    const job = new Job(disk, journal, output, errors, options);
    await job.restore(records);
    return job;
  } catch (thrown) {
    await journal?.close();
    for (const file of files) await file.close();
    throw thrown;
  }
}

function refuseDifferent(output: string, then: JobHeader, now: JobHeader): void {
  const differences: string[] = [];
  if (then.input.sha256 !== now.input.sha256) {
    differences.push(
      `the input changed (SHA-256 ${then.input.sha256.slice(0, 12)}… then, ${now.input.sha256.slice(0, 12)}… now)`,
    );
  }
  if (then.model.fingerprint !== now.model.fingerprint) {
    differences.push(`the model changed (${then.model.name} then, ${now.model.name} now, or its files)`);
  }
  for (const name of new Set([...Object.keys(then.settings), ...Object.keys(now.settings)])) {
    const [before, after] = [then.settings[name] ?? 'unset', now.settings[name] ?? 'unset'];
    if (before !== after) differences.push(`--${name} was ${before}, now ${after}`);
  }
  if (differences.length === 0) return;
  throw new InputError('JOB_DIFFERS', `${output} belongs to another job: ${differences.join('; ')}`, {
    hint: 'run it as it was begun, choose another --output, or discard its results with --restart',
  });
}

async function refuseContent(disk: Disk, { output, errors }: JobOptions): Promise<void> {
  for (const path of [output, errors]) {
    const file = path === undefined ? null : await disk.open(path);
    if (file === null) continue;
    const size = await file.size();
    await file.close();
    if (size > 0) {
      throw new InputError(
        'OUTPUT_EXISTS',
        `${path} exists, has ${size} bytes, and no journal beside it says what they are`,
        {
          hint: 'choose another file, or discard what it holds with --restart',
        },
      );
    }
  }
}

async function refuseChangedFiles(disk: Disk, { output, errors }: JobOptions, receipt: Receipt): Promise<void> {
  const expected: [string | undefined, number | null][] = [
    [output, receipt.outputBytes],
    [errors, receipt.errorsBytes],
  ];
  for (const [path, bytes] of expected) {
    if (path === undefined || bytes === null) continue;
    const file = await disk.open(path);
    const size = file === null ? null : await file.size();
    await file?.close();
    if (size === bytes) continue;
    throw new InputError(
      'OUTPUT_CHANGED',
      `this job is done, but ${path} ${size === null ? 'is gone' : `has ${size} bytes instead of ${bytes}`}`,
      { hint: 'run it again from the start with --restart' },
    );
  }
}

/** The files of a finished job are all that is left of it: they can't be made in another way any more. */
function refuseOtherFiles({ output, errors, ordered }: JobOptions, receipt: Receipt): void {
  const hint = 'leave the flag out, or run the job again from the start with --restart';
  if (errors !== undefined && receipt.errorsBytes === null) {
    throw new InputError(
      'JOB_DONE_OTHERWISE',
      `this job is done and was run without --errors: its error lines (${receipt.failed}) are in ${output}`,
      { hint },
    );
  }
  if (ordered && !receipt.ordered) {
    throw new InputError(
      'JOB_DONE_OTHERWISE',
      `this job is done and was run without --ordered: ${output} has its lines in the order in which they finished`,
      { hint },
    );
  }
}

interface Pending {
  readonly kind: RecordKind;
  readonly ordinal: number;
  readonly text: string;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class Job {
  readonly type = 'open';
  readonly requests: number;
  readonly #disk: Disk;
  readonly #options: JobOptions;
  readonly #journal: Journal;
  readonly #output: DerivedFile;
  readonly #errors: DerivedFile | null;
  readonly #isDone: Uint8Array; // [requests] 1 when its record is durable or on its way
  /** Ordered output: finished requests that wait for earlier ones, by ordinal. Their text stays in the journal. */
  readonly #waiting = new Map<number, JournalRecord>();
  #next = 0;
  #done = 0;
  #failed = 0;
  #beyond = 0;
  #queue: Pending[] = [];
  #flushing: Promise<void> | null = null;
  #broken: unknown = null;

  constructor(disk: Disk, journal: Journal, output: DerivedFile, errors: DerivedFile | null, options: JobOptions) {
    this.#disk = disk;
    this.#journal = journal;
    this.#output = output;
    this.#errors = errors;
    this.#options = options;
    this.requests = options.requests;
    this.#isDone = new Uint8Array(options.requests);
  }

  /** Finished requests whose results are durable, failed ones included. */
  get done(): number {
    return this.#done;
  }

  get failed(): number {
    return this.#failed;
  }

  isDone(ordinal: number): boolean {
    return this.#isDone[ordinal] === 1;
  }

  /** Brings the files to what the journal says. Called once, by openJob. */
  async restore(records: readonly JournalRecord[]): Promise<void> {
    for (const record of records) {
      if (this.isDone(record.ordinal)) continue;
      if (record.ordinal < this.requests) {
        this.#isDone[record.ordinal] = 1;
        this.#done++;
        if (record.kind === 'error') this.#failed++;
      } else {
        this.#beyond++; // An earlier run went further than --limit does now.
      }
      if (this.#options.ordered) this.#waiting.set(record.ordinal, record);
      else await this.#put(record, await this.#journal.readText(record.position, record.length));
    }
    await this.#release();
    await this.#output.trim();
    await this.#errors?.trim();
  }

  /**
   * Adds a request's line. Resolves when it is durable; many calls share an fsync.
   * @throws GlinthawkError when the disk is full or fails: then nothing more can be added, and what resolved is kept
   */
  commit(ordinal: number, kind: RecordKind, text: string): Promise<void> {
    if (this.#broken !== null) return Promise.reject(this.#broken);
    if (this.isDone(ordinal) || ordinal >= this.requests) {
      return Promise.reject(new GlinthawkError('RESULT_REPEATED', `request ${ordinal} has a result already`));
    }
    this.#isDone[ordinal] = 1;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#queue.push({ kind, ordinal, text, resolve, reject });
    this.#flushing ??= this.#flush();
    return promise;
  }

  async #flush(): Promise<void> {
    // One turn of the event loop: requests that finish in the same step share a write.
    await new Promise((resolve) => setImmediate(resolve));
    let batch: Pending[] = [];
    try {
      while (this.#queue.length > 0) {
        batch = this.#nextBatch();
        await this.#write(batch);
        for (const { kind, resolve } of batch) {
          this.#done++;
          if (kind === 'error') this.#failed++;
          resolve();
        }
        batch = [];
      }
    } catch (thrown) {
      this.#broken = thrown;
      for (const { reject } of [...batch, ...this.#queue]) reject(thrown);
      this.#queue = [];
    }
    this.#flushing = null;
  }

  #nextBatch(): Pending[] {
    let bytes = 0;
    let count = 0;
    for (const { text } of this.#queue) {
      if (count > 0 && bytes + text.length > COMMIT_BYTES) break;
      bytes += text.length;
      count++;
    }
    return this.#queue.splice(0, count);
  }

  async #write(batch: readonly Pending[]): Promise<void> {
    const encoded = batch.map(({ kind, ordinal, text }) => encodeRecord(kind, ordinal, text));
    let at = await this.#journal.append(Buffer.concat(encoded.map(({ bytes }) => bytes)));
    for (const [i, { bytes, textAt }] of encoded.entries()) {
      const { kind, ordinal } = batch[i] as Pending;
      const record = { kind, ordinal, position: at + textAt, length: bytes.length - textAt };
      at += bytes.length;
      if (this.#options.ordered && ordinal !== this.#next) {
        this.#waiting.set(ordinal, record);
      } else {
        await this.#put(record, bytes.subarray(textAt));
        this.#next = ordinal + 1;
      }
    }
    await this.#release();
  }

  /** Ordered output: writes what has no earlier request left to wait for. */
  async #release(): Promise<void> {
    for (;;) {
      const record = this.#waiting.get(this.#next);
      if (record === undefined) return;
      this.#waiting.delete(this.#next);
      this.#next++;
      await this.#put(record, await this.#journal.readText(record.position, record.length));
    }
  }

  async #put({ kind }: JournalRecord, line: Uint8Array): Promise<void> {
    const target = kind === 'error' && this.#errors !== null ? this.#errors : this.#output;
    await target.put(line);
  }

  /** Waits for what was committed. @throws what commit threw */
  async settle(): Promise<void> {
    while (this.#flushing !== null) await this.#flushing;
    if (this.#broken !== null) throw this.#broken;
  }

  /**
   * Makes the files durable, and when nothing of the whole input is left, turns the journal into a receipt.
   * @param isWholeInput false when the input has more requests than this run was asked for
   */
  async finish(isWholeInput: boolean): Promise<void> {
    await this.settle();
    await this.#output.sync();
    await this.#errors?.sync();
    if (!isWholeInput || this.#done < this.requests || this.#beyond > 0) return;
    const receipt: Receipt = {
      requests: this.requests,
      failed: this.#failed,
      outputBytes: this.#output.bytes,
      errorsBytes: this.#errors?.bytes ?? null,
      ordered: this.#options.ordered,
    };
    const { output, header } = this.#options;
    const journal = await Journal.create(this.#disk, journalPath(output), header, receipt);
    await journal.close();
  }

  async close(): Promise<void> {
    while (this.#flushing !== null) await this.#flushing;
    await this.#journal.close();
    await this.#output.close();
    await this.#errors?.close();
  }
}
