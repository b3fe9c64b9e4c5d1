/**
 * Which blocks of a memory are held, and by how many: ids 0 to `blocks` - 1, the lowest free one first, so that memory is touched
 * no further up than it must be. It knows nothing of addresses or slots. A block that is given back while a kernel may still
 * touch it is free at once, but is taken last, and who takes it is told what to wait for: so accounts never depend on timing.
 * Neighbours in a slot get neighbours in a frame (page-layout.ts) as long as there are any: that is faster to read, nothing else.
 */
/** Where a block is to stand in a slot. */
export interface BlockPlace {
  /** Among the slot's blocks. */
  readonly index: number;
  /** The one before it. */
  readonly after: number | undefined;
}

export class BlockPool {
  readonly blocks: number;
  readonly #frameBlocks: number;
  readonly #holders: Uint32Array; // [blocks]
  readonly #free: Uint32Array; // a bit a block
  /** No word of #free below it has a bit set. */
  #firstWord = 0;
  #used = 0;
  /** Free blocks that are still touched, until when: not in #free. */
  readonly #touched = new Map<number, Promise<void>>();

  /** @param frameBlocks a power of two up to 32 */
  constructor(blocks: number, frameBlocks = 1) {
    this.blocks = blocks;
    this.#frameBlocks = frameBlocks;
    this.#holders = new Uint32Array(blocks);
    this.#free = new Uint32Array(Math.ceil(blocks / 32)).fill(0xffff_ffff);
    if (blocks % 32 !== 0) this.#free[this.#free.length - 1] = 2 ** (blocks % 32) - 1;
  }

  /** Blocks that somebody holds; one that several hold counts once. */
  get used(): number {
    return this.#used;
  }

  get free(): number {
    return this.blocks - this.#used;
  }

  holders(block: number): number {
    return this.#holders[block] ?? 0;
  }

  /**
   * For one holder; only while `free` is above 0.
   * @param waits gets what must settle before the block may be written
   * @param place where it would best be; it gets another one where that is taken
   */
  take(waits: Set<Promise<void>>, place?: BlockPlace): number {
    const block = (place && this.#fitting(place)) ?? this.#lowest() ?? this.#cooling(waits);
    if (block === undefined) throw new RangeError('no block is free: ask for `free` first');
    this.#holders[block] = 1;
    this.#used++;
    return block;
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
      this.#setFree(block);
      return;
    }
    this.#touched.set(block, until);
    until.then(() => {
      if (this.#touched.get(block) !== until) return;
      this.#touched.delete(block);
      this.#setFree(block);
    });
  }

  #setFree(block: number): void {
    const word = block >>> 5;
    this.#free[word] = (this.#free[word] ?? 0) | (1 << (block & 31));
    this.#firstWord = Math.min(this.#firstWord, word);
  }

  /** Of the same frame as the one before it; where a frame would begin, or that is taken, of a frame that is free as a whole. */
  #fitting({ index, after }: BlockPlace): number | undefined {
    const each = this.#frameBlocks;
    const place = index % each;
    if (place > 0 && after !== undefined && after % each === place - 1 && this.#claim(after + 1)) return after + 1;
    const frame = this.#freeFrame();
    if (frame === undefined) return undefined;
    this.#claim(frame + place);
    return frame + place;
  }

  #claim(block: number): boolean {
    const word = block >>> 5;
    const bits = this.#free[word] ?? 0;
    const bit = 1 << (block & 31);
    this.#free[word] = bits & ~bit;
    return (bits & bit) !== 0;
  }

  /** The lowest free frame's first block. Where none is left, this looks at a word for each 32 blocks. */
  #freeFrame(): number | undefined {
    const each = this.#frameBlocks;
    const all = 2 ** each - 1;
    for (let word = this.#firstWord; word < this.#free.length; word++) {
      const bits = this.#free[word] ?? 0;
      if (bits === 0) continue;
      for (let at = 0; at < 32; at += each) if (((bits >>> at) & all) === all) return 32 * word + at;
    }
    return undefined;
  }

  #lowest(): number | undefined {
    for (; this.#firstWord < this.#free.length; this.#firstWord++) {
      const word = this.#free[this.#firstWord] ?? 0;
      if (word === 0) continue;
      this.#free[this.#firstWord] = word & (word - 1);
      return 32 * this.#firstWord + 31 - Math.clz32(word & -word);
    }
    return undefined;
  }

  #cooling(waits: Set<Promise<void>>): number | undefined {
    for (const [block, until] of this.#touched) {
      this.#touched.delete(block);
      waits.add(until);
      return block;
    }
    return undefined;
  }
}

/** One promise for all; null where there is none. */
export function allOf(promises: Iterable<Promise<void>>): Promise<void> | null {
  const all = [...promises];
  return all.length === 0 ? null : Promise.all(all).then(() => {});
}
