/**
 * One file from its server into an open SyncFile, hashed while it flows. Goes on where a cut connection left off, and only with the
 * same file: the strong ETag (or the checksum that the hub tells) must agree, else FileChangedError, and nothing is mixed. Memory is
 * bounded by the browser's own read-ahead: a chunk is on its way to disk before the next is asked for.
 */
import { AbortedError, ModelFormatError } from '@glinthawk/core';
import { createSHA256 } from 'hash-wasm';
import { formatBytes } from '../state/format.ts';
import { checkHead, HEAD_BYTES, refusePage } from './file-checks.ts';
import { contentLength, contentRange, type RequestOptions, request, strongEtag } from './http.ts';
import { NetworkError } from './network-error.ts';
import type { RemoteFile } from './store-api.ts';
import { guarded, type SyncFile, writeAll } from './sync-file.ts';

export interface DownloadTiming {
  /** Before the first retry; doubled for each further one. */
  readonly retryDelayMs: number;
  /** A connection that brings nothing for so long is given up. */
  readonly stallMs: number;
}

export const DEFAULT_TIMING: DownloadTiming = { retryDelayMs: 500, stallMs: 45_000 };
/** In a row that brought nothing: 0.5 + 1 + 2 + 4 + 8 + 16 s. */
const MAX_FAILURES = 6;
const MAX_DELAY_MS = 30_000;
const HASH_PIECE_BYTES = 2 ** 20;
const HASH_BREATH_BYTES = 32 * 2 ** 20;

export interface FileEvents {
  /** Bytes of the file that are here. */
  readonly onBytes: (bytes: number) => void;
  readonly onRetry: (reason: string | null) => void;
  readonly onNote: (note: string) => void;
  /** The server's validator, once it is known; kept for the next visit. */
  readonly onEtag: (etag: string) => Promise<void>;
}

export interface FileDownloadOptions extends RequestOptions, DownloadTiming, FileEvents {}

/** The server has another file now, of other size or validator. */
export class FileChangedError extends Error {
  readonly file: string;

  constructor(file: string, found: string) {
    super(`${file} changed on the server: ${found}`);
    this.file = file;
  }
}

/**
 * @param file what it should be; bytes that `target` already holds are taken to be its beginning
 * @returns SHA-256, hex
 * @throws NetworkError when retrying doesn't help, ModelFormatError, FileChangedError, AbortedError, StorageFullError
 */
export async function downloadFile(file: RemoteFile, target: SyncFile, options: FileDownloadOptions): Promise<string> {
  const transfer = new Transfer(file, target, options, await createSHA256());
  await transfer.hashWhatIsHere();
  let failures = 0;
  while (!transfer.complete) {
    const before = transfer.at;
    try {
      await transfer.once();
    } catch (thrown) {
      if (!(thrown instanceof NetworkError) || !thrown.transient) throw thrown;
      failures = transfer.at > before ? 1 : failures + 1;
      if (failures > MAX_FAILURES) throw thrown;
      const delay = Math.max(
        Math.min(options.retryDelayMs * 2 ** (failures - 1), MAX_DELAY_MS),
        thrown.retryAfterMs ?? 0,
      );
      options.onRetry(`${thrown.message}; trying again in ${formatSeconds(delay)} (${failures} of ${MAX_FAILURES})`);
      await pause(delay, options.signal);
      options.onRetry(null);
    }
  }
  guarded(() => target.flush());
  const sha256 = transfer.digest();
  if (file.sha256 !== null && sha256 !== file.sha256) {
    target.truncate(0);
    throw new ModelFormatError(
      'MODEL_CHECKSUM',
      `${file.name} arrived damaged: its SHA-256 is ${sha256}, expected ${file.sha256}`,
      { hint: 'What arrived was thrown away; download it again.' },
    );
  }
  return sha256;
}

class Transfer {
  /** Bytes that are written and hashed. */
  at = 0;
  readonly #file: RemoteFile;
  readonly #target: SyncFile;
  readonly #options: FileDownloadOptions;
  readonly #hasher: Awaited<ReturnType<typeof createSHA256>>;
  #etag: string | null;

  constructor(
    file: RemoteFile,
    target: SyncFile,
    options: FileDownloadOptions,
    hasher: Awaited<ReturnType<typeof createSHA256>>,
  ) {
    this.#file = file;
    this.#target = target;
    this.#options = options;
    this.#hasher = hasher;
    this.#etag = file.etag;
  }

  get complete(): boolean {
    return this.at === this.#file.bytes;
  }

  digest(): string {
    return this.#hasher.digest();
  }

  /** Reading again what an earlier visit wrote costs a second a few hundred megabytes, and trusts nothing but the disk. */
  async hashWhatIsHere(): Promise<void> {
    const size = this.#target.getSize();
    if (size > this.#file.bytes) this.#target.truncate(0);
    const here = this.#target.getSize();
    this.#hasher.init();
    const piece = new Uint8Array(Math.min(HASH_PIECE_BYTES, here));
    while (this.at < here) {
      const read = this.#target.read(piece, { at: this.at });
      if (!(read > 0 && read <= piece.byteLength)) break;
      this.#hasher.update(piece.subarray(0, read));
      this.at += read;
      if (this.at % HASH_BREATH_BYTES < read) await pause(0, this.#options.signal);
      this.#options.onBytes(this.at);
    }
  }

  /** One request, to its end. @throws NetworkError transient where the next one may bring more */
  async once(): Promise<void> {
    const { signal, stallMs, access } = this.#options;
    const stall = new AbortController();
    let timer = setTimeout(() => stall.abort(), stallMs);
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => stall.abort(), stallMs);
    };
    try {
      const response = await this.#ask({ access, signal: AbortSignal.any([signal, stall.signal]) });
      alive();
      await this.#receive(response, alive);
    } catch (thrown) {
      if (signal.aborted) throw new AbortedError('the download was stopped');
      if (stall.signal.aborted) {
        throw new NetworkError('NETWORK_STALLED', `${this.#host} sent nothing for ${formatSeconds(stallMs)}`, {
          transient: true,
        });
      }
      throw thrown;
    } finally {
      clearTimeout(timer);
    }
  }

  get #host(): string {
    return new URL(this.#file.url).host;
  }

  async #ask(request_: RequestOptions): Promise<Response> {
    const { url, name, sha256, bytes } = this.#file;
    if (this.at > 0 && this.#etag === null && sha256 === null) {
      this.#startAnew(`${this.#host} gives ${name} no strong ETag, so the part that was here could not be continued`);
    }
    const headers: Record<string, string> = { Range: `bytes=${this.at}-` };
    // Elsewhere the header would need the server's leave (a CORS preflight), which few give. The answer's ETag is compared anyway.
    const sameOrigin = new URL(url).origin === globalThis.location.origin;
    if (this.at > 0 && this.#etag !== null && sameOrigin) headers['If-Range'] = this.#etag;
    let response: Response;
    try {
      response = await request(url, headers, request_);
    } catch (thrown) {
      if (thrown instanceof NetworkError && thrown.status === 416)
        throw new FileChangedError(name, `it ends before byte ${this.at}`);
      throw thrown;
    }
    try {
      await this.#checkAnswer(response, bytes);
    } catch (thrown) {
      await response.body?.cancel().catch(() => {});
      throw thrown;
    }
    return response;
  }

  /** That it is the same file, from `at` on; goes back to the beginning where the server begins there. */
  async #checkAnswer(response: Response, bytes: number): Promise<void> {
    const { name, sha256 } = this.#file;
    const etag = strongEtag(response);
    if (etag !== null && this.#etag !== null && etag !== this.#etag)
      throw new FileChangedError(name, 'its ETag is another');
    const length = contentLength(response);
    if (response.status === 206) {
      const range = contentRange(response);
      const found = range?.total ?? (length === null ? null : this.at + length);
      if (found !== null && found !== bytes)
        throw new FileChangedError(name, `it has ${found} bytes, no longer ${bytes}`);
      if (range !== null && range.start !== this.at) {
        throw new NetworkError(
          'NETWORK_RANGE',
          `${this.#host} sent ${name} from byte ${range.start}, asked for ${this.at}`,
        );
      }
      if (this.at > 0 && etag === null && sha256 === null) {
        this.#startAnew(`${this.#host} didn't say whether ${name} is still the same file`);
        throw new NetworkError('NETWORK_NO_ETAG', `${this.#host} sent ${name} without its ETag`, { transient: true });
      }
    } else {
      if (length !== null && length !== bytes)
        throw new FileChangedError(name, `it has ${length} bytes, no longer ${bytes}`);
      if (this.at > 0)
        this.#startAnew(`${this.#host} can't continue a download (it ignores Range), so ${name} started anew`);
    }
    if (etag !== null && this.#etag === null) {
      this.#etag = etag;
      await this.#options.onEtag(etag);
    }
  }

  #startAnew(note: string): void {
    this.at = 0;
    this.#target.truncate(0);
    this.#hasher.init();
    this.#options.onBytes(0);
    this.#options.onNote(note);
  }

  async #receive(response: Response, alive: () => void): Promise<void> {
    const { name, bytes } = this.#file;
    const reader = response.body?.getReader();
    /** The file's first bytes until there are enough to tell what it is; nothing is written before. */
    let head = new Uint8Array(0);
    try {
      while (reader !== undefined) {
        const { done, value } = await read(reader, this.#host);
        if (done) break;
        alive();
        let chunk = value;
        if (this.at === 0) {
          head = joined(head, value);
          if (head.byteLength < Math.min(HEAD_BYTES, bytes)) continue;
          refusePage(name, response.headers.get('content-type'), head);
          checkHead(name, head, bytes);
          chunk = head;
        }
        if (this.at + chunk.byteLength > bytes) throw new FileChangedError(name, `it has more than ${bytes} bytes`);
        writeAll(this.#target, chunk, this.at);
        this.#hasher.update(chunk);
        this.at += chunk.byteLength;
        this.#options.onBytes(this.at);
      }
      // Shorter than announced and than any head: it may still tell what went wrong.
      if (this.at === 0 && head.byteLength > 0) refusePage(name, response.headers.get('content-type'), head);
    } finally {
      await reader?.cancel().catch(() => {});
    }
    if (this.at < bytes) {
      throw new NetworkError(
        'NETWORK_TRUNCATED',
        `${this.#host} sent ${name} only to byte ${this.at + (this.at === 0 ? head.byteLength : 0)} of ${bytes} (${formatBytes(bytes)})`,
        {
          transient: true,
          hint: 'The file is incomplete on the server, or the connection keeps breaking; what is here stays, and downloading again goes on from there.',
        },
      );
    }
  }
}

async function read(reader: ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>, host: string) {
  try {
    return await reader.read();
  } catch (cause) {
    throw new NetworkError('NETWORK_CUT', `the connection to ${host} was cut`, {
      cause,
      transient: true,
      hint: 'What is here stays; downloading again goes on from there.',
    });
  }
}

function joined(a: Uint8Array<ArrayBuffer>, b: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  if (a.byteLength === 0) return b;
  const both = new Uint8Array(a.byteLength + b.byteLength);
  both.set(a);
  both.set(b, a.byteLength);
  return both;
}

function formatSeconds(ms: number): string {
  return `${ms < 9_950 ? Number((ms / 1000).toFixed(1)) : Math.round(ms / 1000)} s`;
}

/** @throws AbortedError */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(new AbortedError('the download was stopped'));
    };
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', stop);
      resolve();
    }, ms);
    if (signal.aborted) stop();
    else signal.addEventListener('abort', stop, { once: true });
  });
}
