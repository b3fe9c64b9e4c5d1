/**
 * Sizes of pages and blocks. A page holds K and V of `blockTokens` tokens for one layer and KV head, contiguous, as kernels/layout.h
 * describes; a block is a slot's pages of all heads and of the layers of one group (kv-blocks.ts) for those tokens.
 */
import { type AttentionGeometry, InputError, type KvDtype, UnsupportedError } from '@glinthawk/core';
import { layerGroups } from './kv-blocks.ts';

export const MAX_HEAD_DIM = 512; // MAX_DIM in kernels/layout.h
export const MAX_BLOCK_TOKENS = 512; // MAX_BLOCK_TOKENS in kernels/layout.h
const BLOCK_TOKENS_UNIT = 16;
/** Half a block of each sequence is empty on average: of a context of 1,024 tokens 1.5 %. */
export const DEFAULT_BLOCK_TOKENS = 32;

/** Random pages of 64 KiB, four at a time, reach 95 % of the sequential read; 16 KiB ones a third of it. */
const PAGE_BYTES_WANTED = 64 << 10;
/** On average half a block of each sequence is empty: at most a thirty-second of the longest context. */
const BLOCKS_PER_CONTEXT = 16;
/** A shard with fewer blocks than this can't be shared by several sequences. */
const BLOCKS_WANTED = 64;
/**
 * Keeps pages of the same layer and head in different blocks, which are read together, out of the same cache sets: an odd number of
 * cache lines. Worth it where blocks are large.
 */
const BLOCK_PADDING = 320;
const PADDED_FROM_BYTES = 64 << 10;

export const KV_DTYPES: readonly KvDtype[] = ['f32', 'f16', 'bf16', 'int8'];
export const ELEMENT_BYTES: Readonly<Record<KvDtype, number>> = { f32: 4, f16: 2, bf16: 2, int8: 1 };

export interface PageLayout {
  readonly blockTokens: number;
  /** headDim padded with zeros to a multiple of 8. */
  readonly paddedDim: number;
  readonly valueOffset: number;
  readonly scaleOffset: number;
  readonly pageBytes: number;
  readonly blockBytes: number;
}

function requireWhole(name: string, value: number, least: number): void {
  if (!Number.isSafeInteger(value) || value < least) {
    throw new InputError('ATTENTION_GEOMETRY', `${name} must be a whole number of at least ${least}, found ${value}`);
  }
}

/** @throws InputError, UnsupportedError */
export function validateGeometry(geometry: AttentionGeometry): void {
  const { layers, kvHeads, groupSize, headDim, softmaxScale, windows, maxContextTokens } = geometry;
  requireWhole('layers', layers, 1);
  requireWhole('kvHeads', kvHeads, 1);
  requireWhole('groupSize', groupSize, 1);
  requireWhole('headDim', headDim, 2);
  requireWhole('maxContextTokens', maxContextTokens, 1);
  if (headDim % 2 !== 0 || headDim > MAX_HEAD_DIM) {
    throw new UnsupportedError(
      'ATTENTION_GEOMETRY',
      `headDim must be even and at most ${MAX_HEAD_DIM}, found ${headDim}`,
    );
  }
  if (!Number.isFinite(softmaxScale) || softmaxScale <= 0) {
    throw new InputError('ATTENTION_GEOMETRY', `softmaxScale must be positive, found ${softmaxScale}`);
  }
  if (windows.length !== layers) {
    throw new InputError(
      'ATTENTION_GEOMETRY',
      `windows must have one entry per layer (${layers}), found ${windows.length}`,
    );
  }
  for (const window of windows) requireWhole('window', window, 0);
}

/** @throws InputError for a blockTokens that the kernels can't take */
export function pageLayout(geometry: AttentionGeometry, kvDtype: KvDtype, blockTokens: number): PageLayout {
  if (blockTokens % BLOCK_TOKENS_UNIT !== 0 || blockTokens < BLOCK_TOKENS_UNIT || blockTokens > MAX_BLOCK_TOKENS) {
    throw new InputError(
      'ATTENTION_BLOCK_TOKENS',
      `blockTokens must be a multiple of ${BLOCK_TOKENS_UNIT} up to ${MAX_BLOCK_TOKENS}, found ${blockTokens}`,
    );
  }
  const paddedDim = Math.ceil(geometry.headDim / 8) * 8;
  const valueOffset = blockTokens * paddedDim * ELEMENT_BYTES[kvDtype];
  const scaleOffset = 2 * valueOffset;
  const usedBytes = scaleOffset + (kvDtype === 'int8' ? 2 * 4 * blockTokens : 0);
  const pageBytes = Math.ceil(usedBytes / 64) * 64;
  const pages = (layerGroups(geometry)[0]?.layers.length ?? 0) * geometry.kvHeads;
  const blockBytes = pages * pageBytes + (pages * pageBytes >= PADDED_FROM_BYTES ? BLOCK_PADDING : 0);
  return { blockTokens, paddedDim, valueOffset, scaleOffset, pageBytes, blockBytes };
}

/** The largest power of two that gives pages of the wanted size without wasting a short context or a small memory. */
export function defaultBlockTokens(geometry: AttentionGeometry, kvDtype: KvDtype, shardBytes: number): number {
  const tokenBytes = 2 * geometry.headDim * ELEMENT_BYTES[kvDtype];
  const wanted = Math.min(PAGE_BYTES_WANTED / tokenBytes, geometry.maxContextTokens / BLOCKS_PER_CONTEXT, 256);
  let tokens = 2 ** Math.floor(Math.log2(Math.max(wanted, BLOCK_TOKENS_UNIT)));
  while (tokens > BLOCK_TOKENS_UNIT && pageLayout(geometry, kvDtype, tokens).blockBytes * BLOCKS_WANTED > shardBytes) {
    tokens /= 2;
  }
  return tokens;
}
