/**
 * Where the blocks of a measurement's sequences lie. A new memory gives each run of blocks a frame of its own, and frames lie in
 * random order. In one that was full for long a share of the runs may lie *apart*: each of their blocks alone, anywhere.
 * *Rotated* runs lie in a frame, but from its second block on and the first one last, so that kernels take them block by
 * block though memory is read as always: what the pieces cost, as apart from where they lie.
 */

export interface Placement {
  /** Share of the runs whose blocks lie alone. */
  readonly apart: number;
  readonly rotated: boolean;
}

export const FRAMED: Placement = { apart: 0, rotated: false };

export function placementName({ apart, rotated }: Placement): string {
  return rotated ? 'rotated' : `${Math.round(100 * apart)} %`;
}

/** @returns of each run its blocks, as ids: frame * frameBlocks + index */
export function placeRuns(
  runs: number,
  frameBlocks: number,
  { apart, rotated }: Placement,
  random: () => number,
): readonly (readonly number[])[] {
  const indices = Array.from({ length: frameBlocks }, (_, i) => (rotated ? (i + 1) % frameBlocks : i));
  const framed = shuffled(runs, random).map((frame) => indices.map((i) => frame * frameBlocks + i));
  const lone = shuffled(runs, random).slice(0, Math.round(runs * apart));
  const loose = lone.flatMap((run) => framed[run] as number[]);
  const order = shuffled(loose.length, random).map((i) => loose[i] as number);
  for (const [i, run] of lone.entries()) framed[run] = order.slice(i * frameBlocks, (i + 1) * frameBlocks);
  return framed;
}

function shuffled(n: number, random: () => number): number[] {
  const order = Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j] as number, order[i] as number];
  }
  return order;
}
