/**
 * Which cell of the KV map shows which sequence. The page knows how many blocks each sequence has at a node, not which: so a
 * sequence is given free cells as it grows and keeps them until it ends, which is what a block table does too. Counts are the
 * node's own; a cell's place is the picture's.
 */
import type { NodeSample, Resident } from '../engine/protocol.ts';

/** Of one node; more blocks share cells. */
export const MOST_CELLS = 960;

export interface KvCells {
  readonly blocksPerCell: number;
  /** By cell: 0 is free, else a number that stays with its sequence. */
  readonly owners: Uint32Array;
}

export function blocksPerCell(blocks: number, mostCells = MOST_CELLS): number {
  let each = 1;
  while (blocks / each > mostCells) each *= 2;
  return each;
}

/** The cells of one node, over time. */
export class KvCellMap {
  #cells: KvCells = { blocksPerCell: 1, owners: new Uint32Array(0) };
  /** By resident id: its number, and its cells in the order in which it got them. */
  readonly #held = new Map<string, { readonly number: number; readonly cells: number[] }>();
  #numbered = 0;
  #freeFrom = 0;

  get cells(): KvCells {
    return this.#cells;
  }

  /** @param residents those of this node */
  update(node: NodeSample, residents: readonly Resident[]): KvCells {
    const each = blocksPerCell(node.blocks);
    const count = Math.ceil(node.blocks / each);
    if (count !== this.#cells.owners.length || each !== this.#cells.blocksPerCell) {
      this.#cells = { blocksPerCell: each, owners: new Uint32Array(count) };
      this.#held.clear();
    }
    const here = new Map(residents.map((resident) => [resident.id, resident]));
    for (const [id, { cells }] of this.#held) {
      if (here.has(id)) continue;
      for (const cell of cells) this.#release(cell);
      this.#held.delete(id);
    }
    for (const resident of residents) this.#resize(resident, Math.max(1, Math.round(resident.blocks / each)));
    return this.#cells;
  }

  /** Who is in a cell; null when it is free. */
  ownerOf(cell: number): string | null {
    const number = this.#cells.owners[cell] ?? 0;
    if (number === 0) return null;
    for (const [id, held] of this.#held) if (held.number === number) return id;
    return null;
  }

  #resize(resident: Resident, wanted: number): void {
    let held = this.#held.get(resident.id);
    if (held === undefined) {
      held = { number: ++this.#numbered, cells: [] };
      this.#held.set(resident.id, held);
    }
    while (held.cells.length > wanted) {
      const cell = held.cells.pop();
      if (cell !== undefined) this.#release(cell);
    }
    const { owners } = this.#cells;
    while (held.cells.length < wanted) {
      while (this.#freeFrom < owners.length && owners[this.#freeFrom] !== 0) this.#freeFrom++;
      // Full: sequences of a part of a cell each took whole ones.
      if (this.#freeFrom >= owners.length) return;
      owners[this.#freeFrom] = held.number;
      held.cells.push(this.#freeFrom);
    }
  }

  #release(cell: number): void {
    this.#cells.owners[cell] = 0;
    this.#freeFrom = Math.min(this.#freeFrom, cell);
  }
}

/** Columns and size of the cells, so that all fit a width; CSS pixels. */
export function cellGrid(
  cells: number,
  width: number,
): { readonly columns: number; readonly size: number; readonly height: number } {
  const size = cells <= 64 ? 16 : cells <= 256 ? 12 : 9;
  const columns = Math.max(1, Math.floor(width / size));
  return { columns, size, height: Math.max(1, Math.ceil(cells / columns)) * size };
}
