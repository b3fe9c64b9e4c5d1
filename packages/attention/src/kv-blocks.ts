/**
 * Which KV blocks a slot holds: the rule by which a node keeps them and by which the engine counts them, so that neither has to ask
 * the other. A block has `blockTokens` tokens of one layer group: layers with the same window, as many in each group. A slot
 * holds, in every group, the blocks of the tokens that its next row can still see.
 */
import type { AttentionGeometry } from '@glinthawk/core';

export interface LayerGroup {
  /** Indices of its layers, ascending. */
  readonly layers: readonly number[];
  /** How many latest tokens its layers see; 0 is all. */
  readonly window: number;
}

/** Groups of equal size, as large as the windows allow: one for a model whose layers are alike. */
export function layerGroups({ layers, windows }: Pick<AttentionGeometry, 'layers' | 'windows'>): readonly LayerGroup[] {
  const byWindow = new Map<number, number[]>();
  for (let layer = 0; layer < layers; layer++) {
    const window = windows[layer] ?? 0;
    const same = byWindow.get(window);
    if (same === undefined) byWindow.set(window, [layer]);
    else same.push(layer);
  }
  let size = 0;
  for (const { length } of byWindow.values()) size = greatestCommonDivisor(size, length);
  const groups: LayerGroup[] = [];
  for (const [window, all] of byWindow) {
    for (let at = 0; at < all.length; at += size) groups.push({ layers: all.slice(at, at + size), window });
  }
  return groups;
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

/** Blocks `from` to `to` - 1 of a slot in one group. */
export interface BlockRange {
  readonly from: number;
  readonly to: number;
}

/**
 * What a slot holds in a group whose layers see `window` tokens.
 * @param position of its next row, or of the earliest one in a step
 * @param tokens that are stored or about to be
 */
export function heldBlocks(window: number, blockTokens: number, position: number, tokens: number): BlockRange {
  const to = Math.ceil(tokens / blockTokens);
  const seen = window === 0 ? 0 : Math.max(0, position - window + 1);
  return { from: Math.min(to, Math.floor(seen / blockTokens)), to };
}

/** Blocks in all groups together. */
export function heldBlockCount(
  groups: readonly LayerGroup[],
  blockTokens: number,
  position: number,
  tokens: number,
): number {
  let count = 0;
  for (const { window } of groups) {
    const { from, to } = heldBlocks(window, blockTokens, position, tokens);
    count += to - from;
  }
  return count;
}
