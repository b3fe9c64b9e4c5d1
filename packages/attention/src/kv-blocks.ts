/**
 * Which KV blocks a slot holds: the rule by which a node keeps them and by which the engine counts them, so that neither has to ask
 * the other. A block has `blockTokens` tokens of one layer group: layers with the same window, as many in each group. A slot
 * holds, in every group, the blocks of the tokens that its next row can still see.
 */
import { type LayerGroup, layerGroups } from '@glinthawk/core';

export { type LayerGroup, layerGroups };

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
