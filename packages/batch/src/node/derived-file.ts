/**
 * An output file whose content follows from the journal. Opening one compares it with what it should hold, line by line, and
 * from the first difference on writes it again; after that it only grows. It needs no fsync before the job's end.
 */
import type { DiskFile } from './disk.ts';

export class DerivedFile {
  readonly #file: DiskFile;
  #size: number;
  #position = 0;

  private constructor(file: DiskFile, size: number) {
    this.#file = file;
    this.#size = size;
  }

  static async from(file: DiskFile): Promise<DerivedFile> {
    return new DerivedFile(file, await file.size());
  }

  get bytes(): number {
    return this.#position;
  }

  /** The next lines: kept where the file has them already, else written. */
  async put(lines: Uint8Array): Promise<void> {
    if (this.#size > this.#position) {
      const existing = new Uint8Array(lines.length);
      const read = await this.#file.read(existing, this.#position);
      if (read === lines.length && Buffer.compare(existing, lines) === 0) {
        this.#position += lines.length;
        return;
      }
      await this.trim();
    }
    await this.#file.write(lines, this.#position);
    this.#position += lines.length;
    this.#size = Math.max(this.#size, this.#position);
  }

  /** Cuts off what stands behind the lines put so far. */
  async trim(): Promise<void> {
    if (this.#size > this.#position) await this.#file.truncate(this.#position);
    this.#size = this.#position;
  }

  sync(): Promise<void> {
    return this.#file.sync();
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}
