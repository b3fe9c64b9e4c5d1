/** Progress of a download of several files as the page is told it: a few times a second, with a speed over the last seconds. */
import type { DownloadProgress } from './store-api.ts';

const REPORT_MS = 200;
const WINDOW_MS = 5_000;

export class ProgressMeter {
  readonly #report: (progress: DownloadProgress) => void;
  #file = '';
  #bytesBefore = 0;
  #bytesInFile = 0;
  #bytesTotal = 0;
  #retrying: string | null = null;
  #note: string | null = null;
  #reportedAt = 0;
  /** (time, bytes done) of the last seconds, oldest first. */
  #samples: { readonly at: number; readonly bytes: number }[] = [];

  constructor(report: (progress: DownloadProgress) => void) {
    this.#report = report;
  }

  /** Of a download, or of the same one anew. */
  start(bytesTotal: number): void {
    this.#bytesTotal = bytesTotal;
    this.#bytesBefore = 0;
    this.#bytesInFile = 0;
    this.#samples = [];
  }

  file(name: string): void {
    this.#bytesBefore += this.#bytesInFile;
    this.#bytesInFile = 0;
    this.#file = name;
  }

  bytes(inFile: number): void {
    this.#bytesInFile = inFile;
    const now = performance.now();
    if (now - this.#reportedAt >= REPORT_MS) this.#send(now);
  }

  retrying(reason: string | null): void {
    this.#retrying = reason;
    this.#send(performance.now());
  }

  note(note: string): void {
    this.#note = note;
    this.#send(performance.now());
  }

  end(): void {
    this.#send(performance.now());
  }

  #send(now: number): void {
    this.#reportedAt = now;
    const bytesDone = this.#bytesBefore + this.#bytesInFile;
    if ((this.#samples.at(-1)?.bytes ?? 0) > bytesDone) this.#samples = [];
    this.#samples.push({ at: now, bytes: bytesDone });
    this.#samples = this.#samples.filter(({ at }) => now - at <= WINDOW_MS);
    const [first] = this.#samples;
    const seconds = first === undefined ? 0 : (now - first.at) / 1000;
    this.#report({
      file: this.#file,
      bytesDone,
      bytesTotal: this.#bytesTotal,
      bytesPerSecond: first === undefined || seconds === 0 ? 0 : (bytesDone - first.bytes) / seconds,
      retrying: this.#retrying,
      note: this.#note,
    });
  }
}
