/**
 * Which part of the KV map shows which sequence. The page knows how many blocks each sequence has at a node, not which: so a
 * sequence is given free places as it grows and keeps them until it ends, which is what a block table does too. Counts are the
 * node's own; a block's place is the picture's.
 */
import type { NodeSample, Resident } from '../engine/protocol.ts';

/** CSS pixels: the map of one node is not higher, so that a phone shows it whole. More blocks share cells. */
const MAX_HEIGHT = 176;
const SMALLEST_CELL = 7;

/** A power of two. */
export function blocksPerCell(blocks: number, width: number): number {
  const mostCells = Math.max(1, Math.floor(width / SMALLEST_CELL)) * Math.floor(MAX_HEIGHT / SMALLEST_CELL);
  let each = 1;
  while (blocks / each > mostCells) each *= 2;
  return each;
}

interface Held {
  /** From 1; stays with its sequence. */
  readonly number: number;
  /** In the order in which it got them. */
  readonly places: number[];
}

/** The blocks of one node, over time. */
export class KvPlaces {
  #owners = new Uint32Array(0);
  readonly #held = new Map<string, Held>();
  #numbered = 0;
  /** No free place lies before it. */
  #freeFrom = 0;

  /** By block: 0 is free, else the number of its sequence. */
  get owners(): Uint32Array {
    return this.#owners;
  }

  /** @param residents those of this node */
  update(node: NodeSample, residents: readonly Resident[]): void {
    if (node.blocks !== this.#owners.length) {
      this.#owners = new Uint32Array(node.blocks);
      this.#held.clear();
      this.#freeFrom = 0;
    }
    // One whose context lies in parts is there several times.
    const blocksOf = new Map<string, number>();
    for (const { id, blocks } of residents) blocksOf.set(id, (blocksOf.get(id) ?? 0) + blocks);
    for (const [id, { places }] of this.#held) {
      if (blocksOf.has(id)) continue;
      for (const place of places) this.#release(place);
      this.#held.delete(id);
    }
    for (const [id, blocks] of blocksOf) this.#resize(id, blocks);
  }

  #resize(id: string, blocks: number): void {
    let held = this.#held.get(id);
    if (held === undefined) {
      held = { number: ++this.#numbered, places: [] };
      this.#held.set(id, held);
    }
    const { places } = held;
    while (places.length > blocks) {
      const place = places.pop();
      if (place !== undefined) this.#release(place);
    }
    while (places.length < blocks) {
      while (this.#freeFrom < this.#owners.length && this.#owners[this.#freeFrom] !== 0) this.#freeFrom++;
      // Residents were counted a moment before the node was: they may be more than it has.
      if (this.#freeFrom >= this.#owners.length) return;
      this.#owners[this.#freeFrom] = held.number;
      places.push(this.#freeFrom);
    }
  }

  #release(place: number): void {
    this.#owners[place] = 0;
    this.#freeFrom = Math.min(this.#freeFrom, place);
  }
}

/** Columns and size of the cells, so that all fit a width and no more height than there should be; CSS pixels. */
export function cellGrid(
  cells: number,
  width: number,
): { readonly columns: number; readonly size: number; readonly height: number } {
  const sizes = [18, 13, 9, SMALLEST_CELL];
  const fits = (each: number) => Math.floor(width / each) * Math.floor(MAX_HEIGHT / each) >= cells;
  const size = sizes.find(fits) ?? SMALLEST_CELL;
  const columns = Math.max(1, Math.floor(width / size));
  return { columns, size, height: Math.max(1, Math.ceil(cells / columns)) * size };
}

/** Runs of blocks of one owner within a cell, free ones left out: from and to as parts of the cell. */
export function slicesOf(
  owners: Uint32Array,
  cell: number,
  each: number,
  visit: (owner: number, from: number, to: number) => void,
): void {
  const first = cell * each;
  const end = Math.min(owners.length, first + each);
  for (let at = first; at < end; ) {
    const owner = owners[at] ?? 0;
    let to = at + 1;
    while (to < end && owners[to] === owner) to++;
    if (owner !== 0) visit(owner, (at - first) / each, (to - first) / each);
    at = to;
  }
}
