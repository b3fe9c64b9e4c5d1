/** What a token of context costs in memory: by the dtype alone, and really, with all that paging adds. */
import type { AttentionGeometry, KvDtype } from '@glinthawk/core';
import { layerGroups } from './kv-blocks.ts';
import { DEFAULT_BLOCK_TOKENS, ELEMENT_BYTES, pageLayout } from './page-layout.ts';
import { roundUp } from './wasm-heap.ts';

/** Of one token in one layer: K and V of all heads, and in int8 their scales. @param dim headDim, or what it is padded to */
export function kvRowBytes({ kvHeads }: AttentionGeometry, kvDtype: KvDtype, dim: number): number {
  return 2 * kvHeads * (dim * ELEMENT_BYTES[kvDtype] + (kvDtype === 'int8' ? 4 : 0));
}

/** Of a slot's block tables: u32 [groups][tableBlocks], addresses. */
export function slotTableBytes(groups: number, tableBlocks: number): number {
  return roundUp(4 * groups * tableBlocks);
}

export interface KvTokenBytes {
  /** Keys, values and scales of what its layers' windows let a token's successors see. */
  readonly theoretical: number;
  /** With padding of pages, a last block that is half full (where a window slides, a first one too), and block tables. */
  readonly real: number;
}

/** Bytes for each of a sequence's `contextTokens` tokens, on average over where its last block ends. @throws InputError */
export function kvTokenBytes(
  geometry: AttentionGeometry,
  kvDtype: KvDtype,
  contextTokens: number,
  blockTokens: number = DEFAULT_BLOCK_TOKENS,
): KvTokenBytes {
  const { blockBytes } = pageLayout(geometry, kvDtype, blockTokens);
  const groups = layerGroups(geometry);
  const rowBytes = kvRowBytes(geometry, kvDtype, geometry.headDim);
  let theoretical = 0;
  let real = slotTableBytes(groups.length, Math.ceil(geometry.maxContextTokens / blockTokens));
  for (const { layers, window } of groups) {
    const slides = window !== 0 && window < contextTokens;
    const seen = slides ? window : contextTokens;
    theoretical += seen * layers.length * rowBytes;
    real += ((seen + (blockTokens - 1) * (slides ? 1 : 0.5)) / blockTokens) * blockBytes;
  }
  return { theoretical: theoretical / contextTokens, real: real / contextTokens };
}
