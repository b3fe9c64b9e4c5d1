/**
 * The write-ahead journal of a job: a header that says what the job is, then one checksummed record a finished request, in
 * order of completion. Text, a record a line. Whatever is behind the first damaged record was never reported as done, and is
 * cut off. A finished job's journal shrinks to a receipt.
 *
 *     glinthawk-journal 1 <crc> {header}
 *     r <crc> <ordinal> {result line}
 *     e <crc> <ordinal> {error line}
 *     d <crc> 0 {receipt}
 */
import { crc32 } from 'node:zlib';
import { InputError } from '@glinthawk/core';
import type { Disk, DiskFile } from './disk.ts';

const MAGIC = 'glinthawk-journal';
const VERSION = 1;
/** A header is a few hundred bytes of hashes and settings. */
const MAX_HEADER_BYTES = 1 << 16;
const READ_BYTES = 1 << 20;
const LINE_FEED = 0x0a;

export interface JobHeader {
  readonly input: { readonly name: string; readonly sha256: string };
  readonly model: { readonly name: string; readonly fingerprint: string };
  /** Whatever else changes results, by the flag's name. */
  readonly settings: Readonly<Record<string, string>>;
}

export interface Receipt {
  readonly requests: number;
  readonly failed: number;
  /** Sizes of the finished files; `errors` null when there is no separate one. */
  readonly outputBytes: number;
  readonly errorsBytes: number | null;
  /** Whether the lines stand in the input's order. */
  readonly ordered: boolean;
}

export type RecordKind = 'result' | 'error';

export interface JournalRecord {
  readonly kind: RecordKind;
  readonly ordinal: number;
  /** Where the result's line stands in the journal, line end included. */
  readonly position: number;
  readonly length: number;
}

const LETTERS: Readonly<Record<RecordKind, string>> = { result: 'r', error: 'e' };

function checksum(text: string): string {
  return crc32(text).toString(16).padStart(8, '0');
}

function record(letter: string, ordinal: number, text: string): string {
  return `${letter} ${checksum(`${letter}${ordinal} ${text}`)} ${ordinal} ${text}\n`;
}

/** The bytes of a record, and where in them the result's line starts. */
export function encodeRecord(
  kind: RecordKind,
  ordinal: number,
  text: string,
): { readonly bytes: Uint8Array; readonly textAt: number } {
  const bytes = Buffer.from(record(LETTERS[kind], ordinal, text));
  return { bytes, textAt: bytes.length - Buffer.byteLength(text) - 1 };
}

interface Scanned extends JournalRecord {
  readonly end: number;
}

export class Journal {
  readonly header: JobHeader;
  readonly path: string;
  readonly #file: DiskFile;
  #end: number;
  #receipt: Receipt | null = null;

  private constructor(path: string, file: DiskFile, header: JobHeader, end: number) {
    this.path = path;
    this.#file = file;
    this.header = header;
    this.#end = end;
  }

  /** @returns null when there is none @throws InputError when the file is something else, or newer */
  static async open(disk: Disk, path: string): Promise<Journal | null> {
    const file = await disk.open(path);
    if (file === null) return null;
    try {
      const start = new Uint8Array(MAX_HEADER_BYTES);
      const read = await file.read(start, 0);
      const end = start.subarray(0, read).indexOf(LINE_FEED);
      const header = end < 0 ? null : parseHeader(path, Buffer.from(start.subarray(0, end)).toString());
      if (header === null) {
        throw new InputError('NOT_A_JOURNAL', `${path} is not a journal of Glinthawk's, or its first line is damaged`, {
          hint: 'move it away, or begin anew with --restart',
        });
      }
      return new Journal(path, file, header, end + 1);
    } catch (thrown) {
      await file.close();
      throw thrown;
    }
  }

  /** Replaces any journal there is, at once: a crash leaves the old one or the new one, whole. */
  static async create(disk: Disk, path: string, header: JobHeader, receipt?: Receipt): Promise<Journal> {
    const draft = `${path}.new`;
    const file = await disk.create(draft);
    try {
      const json = JSON.stringify(header);
      const first = Buffer.from(`${MAGIC} ${VERSION} ${checksum(json)} ${json}\n`);
      const bytes =
        receipt === undefined ? first : Buffer.concat([first, Buffer.from(record('d', 0, JSON.stringify(receipt)))]);
      await file.write(bytes, 0);
      await file.sync();
      await disk.rename(draft, path);
      await disk.syncFolder(path);
      return new Journal(path, file, header, bytes.length);
    } catch (thrown) {
      await file.close();
      throw thrown;
    }
  }

  /** What a finished job left; known after records() has run. */
  get receipt(): Receipt | null {
    return this.#receipt;
  }

  /** All whole records after the header; then cuts off what is damaged behind them. Run once, before the first append. */
  async *records(): AsyncGenerator<JournalRecord> {
    for await (const scanned of this.#scan()) {
      this.#end = scanned.end;
      yield scanned;
    }
    if ((await this.#file.size()) > this.#end) {
      await this.#file.truncate(this.#end);
      await this.#file.sync();
    }
  }

  async *#scan(): AsyncGenerator<Scanned> {
    let at = this.#end;
    let held = Buffer.alloc(0); // the bytes from `at` on that are read already
    for (;;) {
      let start = 0;
      for (;;) {
        const end = held.indexOf(LINE_FEED, start);
        if (end < 0) break;
        const parsed = this.#parse(held.subarray(start, end), at);
        if (parsed === null) return;
        at += end + 1 - start;
        start = end + 1;
        if (parsed !== 'receipt') yield { ...parsed, end: at };
        else this.#end = at;
      }
      const rest = held.subarray(start);
      const next = Buffer.alloc(Math.max(READ_BYTES, rest.length));
      const read = await this.#file.read(next, at + rest.length);
      if (read === 0) return;
      held = Buffer.concat([rest, next.subarray(0, read)]);
    }
  }

  #parse(line: Buffer, at: number): JournalRecord | 'receipt' | null {
    const match = /^([red]) ([0-9a-f]{8}) (\d{1,15}) /.exec(line.subarray(0, 40).toString('latin1'));
    if (match === null) return null;
    const [prefix, letter, crc, digits] = match as unknown as [string, string, string, string];
    const text = line.subarray(prefix.length);
    if (crc32(text, crc32(`${letter}${digits} `)) !== Number.parseInt(crc, 16)) return null;
    if (letter === 'd') {
      this.#receipt = JSON.parse(text.toString()) as Receipt;
      return 'receipt';
    }
    return {
      kind: letter === 'e' ? 'error' : 'result',
      ordinal: Number(digits),
      position: at + prefix.length,
      length: text.length + 1,
    };
  }

  /** Writes encoded records and makes them durable. @returns where the first one starts */
  async append(bytes: Uint8Array): Promise<number> {
    const at = this.#end;
    await this.#file.write(bytes, at);
    await this.#file.sync();
    this.#end = at + bytes.length;
    return at;
  }

  async readText(position: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    await this.#file.read(bytes, position);
    return bytes;
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

function parseHeader(path: string, line: string): JobHeader | null {
  const match = /^glinthawk-journal (\d+) ([0-9a-f]{8}) (.*)$/.exec(line);
  if (match === null) return null;
  const [, version, crc, json] = match as unknown as [string, string, string, string];
  if (Number(version) !== VERSION) {
    throw new InputError('JOURNAL_VERSION', `${path} has format ${version}, this version reads ${VERSION}`, {
      hint: 'finish the job with the version that began it, or begin anew with --restart',
    });
  }
  return checksum(json) === crc ? (JSON.parse(json) as JobHeader) : null;
}
