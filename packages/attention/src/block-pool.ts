/**
 * Which blocks of a memory are held, and by how many. Blocks lie in frames (page-layout.ts), and a run of blocks that has a frame
 * for itself is read faster than lone ones: so frames that are free as a whole stay so as long as others have free blocks, and lone
 * blocks are taken from the fullest of those. It knows nothing of addresses or slots. A block that is given back while a kernel
 * may still touch it is free at once, but is taken last, and who takes it is told what to wait for: so accounts never depend on
 * timing.
 */

/** Of frames, as many as are left for whole runs before a run that is only begun gets a frame of its own. */
const KEPT_WHOLE = 1 / 8;
const NONE = -1;

export class BlockPool {
  readonly blocks: number;
  readonly frameBlocks: number;
  readonly #frames: number;
  readonly #holders: Uint32Array; // [blocks]
  /** A bit for each of a frame's blocks that is free and not touched. */
  readonly #free: Uint32Array; // [frames]
  /** Frames by how many such bits they have: lists, of which the latest goes first, so that memory is reused before more is touched. */
  readonly #first: Int32Array; // [frameBlocks + 1]
  readonly #next: Int32Array; // [frames]
  readonly #previous: Int32Array; // [frames]
  #usedFrames = 0; // the others were never touched, and are in no list
  #wholeFrames: number;
  #used = 0;
  /** Free blocks that are still touched, until when. */
  readonly #touched = new Map<number, Promise<void>>();

  /** @param blocks a multiple of frameBlocks @param frameBlocks up to 32 */
  constructor(blocks: number, frameBlocks = 1) {
    this.blocks = blocks;
    this.frameBlocks = frameBlocks;
    this.#frames = blocks / frameBlocks;
    this.#holders = new Uint32Array(blocks);
    this.#free = new Uint32Array(this.#frames).fill(2 ** frameBlocks - 1);
    this.#first = new Int32Array(frameBlocks + 1).fill(NONE);
    this.#next = new Int32Array(this.#frames);
    this.#previous = new Int32Array(this.#frames);
    this.#wholeFrames = this.#frames;
  }

  /** Blocks that somebody holds; one that several hold counts once. */
  get used(): number {
    return this.#used;
  }

  get free(): number {
    return this.blocks - this.#used;
  }

  /** Frames of which no block is held or touched. */
  get wholeFrames(): number {
    return this.#wholeFrames;
  }

  /** Whether nobody holds or touches it. */
  isFree(block: number): boolean {
    const index = block % this.frameBlocks;
    return (((this.#free[(block - index) / this.frameBlocks] ?? 0) >>> index) & 1) === 1;
  }

  holders(block: number): number {
    return this.#holders[block] ?? 0;
  }

  /** All blocks of a frame, for one holder. @returns the first of them; undefined where no frame is whole */
  takeFrame(): number | undefined {
    const frame = this.#wholeFrame();
    if (frame === undefined) return undefined;
    const first = frame * this.frameBlocks;
    this.#setFree(frame, 0);
    this.#holders.fill(1, first, first + this.frameBlocks);
    this.#used += this.frameBlocks;
    return first;
  }

  /**
   * For one holder, which is to get the blocks behind it one by one; they are not kept for it.
   * @returns block `index` of a frame that is whole; undefined where there are few
   */
  beginFrame(index: number): number | undefined {
    if (this.#wholeFrames <= this.#frames * KEPT_WHOLE) return undefined;
    const frame = this.#wholeFrame();
    return frame === undefined ? undefined : this.#claim(frame, index);
  }

  /** A certain block, for one holder. @returns whether it was free */
  take(block: number): boolean {
    if (!this.isFree(block)) return false;
    const index = block % this.frameBlocks;
    this.#claim((block - index) / this.frameBlocks, index);
    return true;
  }

  /** The block behind `block` in its frame, for one holder; undefined where it isn't free. */
  takeNext(block: number): number | undefined {
    const next = block + 1;
    return next % this.frameBlocks !== 0 && this.take(next) ? next : undefined;
  }

  /** For one holder; only while `free` is above 0. @param waits gets what must settle before the block may be written */
  takeLone(waits: Set<Promise<void>>): number {
    for (let free = 1; free < this.frameBlocks; free++) {
      const frame = this.#first[free] ?? NONE;
      // From the upper end: whoever began the frame grows from the lower one.
      if (frame !== NONE) return this.#claim(frame, 31 - Math.clz32(this.#free[frame] ?? 0));
    }
    const frame = this.#wholeFrame();
    if (frame !== undefined) return this.#claim(frame, this.frameBlocks - 1);
    for (const [block, until] of this.#touched) {
      this.#touched.delete(block);
      waits.add(until);
      this.#hold(block);
      return block;
    }
    throw new RangeError('no block is free: ask for `free` first');
  }

  /** For one holder more. */
  share(block: number): void {
    this.#holders[block] = this.holders(block) + 1;
  }

  /** By one of its holders. @param until when what still touches the block has settled; it never rejects */
  giveBack(block: number, until: Promise<void> | null = null): void {
    const holders = this.holders(block) - 1;
    this.#holders[block] = holders;
    if (holders > 0) return;
    this.#used--;
    if (until === null) {
      this.#release(block);
      return;
    }
    this.#touched.set(block, until);
    until.then(() => {
      if (this.#touched.get(block) !== until) return;
      this.#touched.delete(block);
      this.#release(block);
    });
  }

  #hold(block: number): void {
    this.#holders[block] = 1;
    this.#used++;
  }

  #claim(frame: number, index: number): number {
    const block = frame * this.frameBlocks + index;
    this.#setFree(frame, (this.#free[frame] ?? 0) & ~(1 << index));
    this.#hold(block);
    return block;
  }

  #release(block: number): void {
    const index = block % this.frameBlocks;
    const frame = (block - index) / this.frameBlocks;
    this.#setFree(frame, (this.#free[frame] ?? 0) | (1 << index));
  }

  #wholeFrame(): number | undefined {
    const again = this.#first[this.frameBlocks] ?? NONE;
    if (again !== NONE) return again;
    return this.#usedFrames < this.#frames ? this.#usedFrames : undefined;
  }

  /** Moves the frame to the list where it belongs then. */
  #setFree(frame: number, bits: number): void {
    const before = countBits(this.#free[frame] ?? 0);
    const now = countBits(bits);
    this.#free[frame] = bits;
    if (frame === this.#usedFrames) this.#usedFrames++;
    else this.#unlink(frame, before);
    this.#link(frame, now);
    this.#wholeFrames += Number(now === this.frameBlocks) - Number(before === this.frameBlocks);
  }

  #unlink(frame: number, list: number): void {
    const next = this.#next[frame] ?? NONE;
    const previous = this.#previous[frame] ?? NONE;
    if (next !== NONE) this.#previous[next] = previous;
    if (previous === NONE) this.#first[list] = next;
    else this.#next[previous] = next;
  }

  #link(frame: number, list: number): void {
    const next = this.#first[list] ?? NONE;
    this.#next[frame] = next;
    this.#previous[frame] = NONE;
    if (next !== NONE) this.#previous[next] = frame;
    this.#first[list] = frame;
  }
}

function countBits(bits: number): number {
  let count = 0;
  for (let rest = bits; rest !== 0; rest &= rest - 1) count++;
  return count;
}

/** One promise for all; null where there is none. */
export function allOf(promises: Iterable<Promise<void>>): Promise<void> | null {
  const all = [...promises];
  return all.length === 0 ? null : Promise.all(all).then(() => {});
}
