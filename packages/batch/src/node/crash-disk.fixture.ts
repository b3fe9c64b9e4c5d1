/**
 * For tests: a disk in memory that crashes before its n-th change, half-way through it if it is a write, and then shows what
 * might have survived: everything (the process was killed), or what was synced and any part of the rest (the power went).
 */
import type { Disk, DiskFile } from './disk.ts';

export class Crash extends Error {}

interface Inode {
  current: Uint8Array;
  durable: Uint8Array;
}

export type Survival = 'process killed' | 'power lost';

export class CrashDisk implements Disk {
  #names: Map<string, Inode>;
  #durableNames: Map<string, Inode>;
  #left = Number.POSITIVE_INFINITY;
  #isDown = false;
  #random: (below: number) => number;
  changes = 0;
  openFiles = 0;

  constructor(seed: number, names = new Map<string, Inode>()) {
    let state = seed * 2654435761 + 1;
    this.#random = (below) => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      return (state >>> 8) % below;
    };
    this.#names = names;
    this.#durableNames = new Map(names);
  }

  /** The change before which it crashes, counted from now. */
  crashBefore(change: number): this {
    this.#left = change;
    return this;
  }

  get isDown(): boolean {
    return this.#isDown;
  }

  /** The machine after a restart. */
  survivor(kind: Survival, seed: number): CrashDisk {
    const names = new Map<string, Inode>();
    const surviving = kind === 'process killed' || this.#random(2) === 0 ? this.#names : this.#durableNames;
    for (const [path, inode] of surviving) {
      const bytes = kind === 'process killed' ? inode.current : this.#remains(inode);
      names.set(path, { current: bytes, durable: bytes });
    }
    return new CrashDisk(seed, names);
  }

  /** Unsynced changes may be there, not there, there in part, or there as zeros. */
  #remains({ current, durable }: Inode): Uint8Array {
    switch (this.#random(4)) {
      case 0:
        return durable;
      case 1:
        return current;
      case 2:
        return current.length <= durable.length
          ? current
          : current.slice(0, durable.length + this.#random(current.length - durable.length + 1));
      default: {
        if (current.length <= durable.length) return durable;
        const mixed = current.slice();
        const unsynced = current.length - durable.length;
        const from = durable.length + this.#random(unsynced);
        mixed.fill(0, from, from + 1 + this.#random(unsynced));
        return mixed;
      }
    }
  }

  text(path: string): string {
    return Buffer.from(this.#names.get(path)?.current ?? []).toString();
  }

  put(path: string, bytes: Uint8Array): void {
    this.#names.set(path, { current: bytes, durable: bytes });
  }

  bytes(path: string): Uint8Array {
    return this.#names.get(path)?.current ?? new Uint8Array(0);
  }

  has(path: string): boolean {
    return this.#names.has(path);
  }

  /** @returns how much of a change of `size` happens: all of it, or a part before the crash */
  #change(size = 0): number {
    if (this.#isDown) throw new Crash('the machine is down');
    this.changes++;
    if (this.#left-- > 0) return size;
    this.#isDown = true;
    return size === 0 ? 0 : this.#random(size + 1);
  }

  #stopIfDown(): void {
    if (this.#isDown) throw new Crash('the machine went down');
  }

  #file(inode: Inode): DiskFile {
    this.openFiles++;
    let isOpen = true;
    return {
      size: async () => inode.current.length,
      read: async (target, position) => {
        const part = inode.current.subarray(position, position + target.length);
        target.set(part);
        return part.length;
      },
      write: async (bytes, position) => {
        const written = this.#change(bytes.length);
        const next = new Uint8Array(Math.max(inode.current.length, position + written));
        next.set(inode.current);
        next.set(bytes.subarray(0, written), position);
        inode.current = next;
        this.#stopIfDown();
      },
      truncate: async (length) => {
        this.#change();
        this.#stopIfDown();
        inode.current = inode.current.slice(0, length);
      },
      sync: async () => {
        this.#change();
        this.#stopIfDown();
        inode.durable = inode.current;
      },
      close: async () => {
        if (isOpen) this.openFiles--;
        isOpen = false;
      },
    };
  }

  async open(path: string): Promise<DiskFile | null> {
    const inode = this.#names.get(path);
    return inode === undefined ? null : this.#file(inode);
  }

  async create(path: string): Promise<DiskFile> {
    this.#change();
    this.#stopIfDown();
    const inode = { current: new Uint8Array(0), durable: new Uint8Array(0) };
    this.#names.set(path, inode);
    return this.#file(inode);
  }

  async rename(from: string, to: string): Promise<void> {
    this.#change();
    this.#stopIfDown();
    const inode = this.#names.get(from);
    if (inode === undefined) throw new Error(`no file ${from}`);
    this.#names.delete(from);
    this.#names.set(to, inode);
  }

  async remove(path: string): Promise<void> {
    this.#change();
    this.#stopIfDown();
    this.#names.delete(path);
  }

  async syncFolder(): Promise<void> {
    this.#change();
    this.#stopIfDown();
    this.#durableNames = new Map(this.#names);
  }
}
