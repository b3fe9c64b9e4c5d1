/**
 * Sizes of pages, frames and blocks. A page holds K and V of `pageTokens` tokens for one layer and KV head, as kernels/layout.h
 * describes; a frame is the pages of all heads and of the layers of one group (kv-blocks.ts). Slots hold blocks: `blockTokens` of a
 * frame's tokens in all of its pages. So memory is given out in small units, and what one slot fills is read in long runs.
 */
import { type AttentionGeometry, InputError, type KvDtype, UnsupportedError } from '@glinthawk/core';
import { layerGroups } from './kv-blocks.ts';

export const MAX_HEAD_DIM = 512; // MAX_DIM in kernels/layout.h
export const MAX_BLOCK_TOKENS = 512;
const LEAST_BLOCK_TOKENS = 16;
const FRAME_ALIGNMENT = 64;
/** Half a block of each sequence is empty on average: of a context of 1,024 tokens 1.5 %. */
export const DEFAULT_BLOCK_TOKENS = 32;

/** RUN_TOKENS in kernels/tile.h. Four streams of 32 KiB (128 tokens of f16) reach 85 % of reading in order, of 8 KiB a half. */
const PAGE_TOKENS = 256;
/** A memory of fewer frames has shorter pages: each slot begins with a frame of its own. */
const FRAMES_WANTED = 16;
/**
 * Keeps pages of the same layer and head in different frames, which are read together, out of the same cache sets: an odd number of
 * cache lines. Worth it where frames are large.
 */
const FRAME_PADDING = 320;
const PADDED_FROM_BYTES = 64 << 10;

export const KV_DTYPES: readonly KvDtype[] = ['f32', 'f16', 'bf16', 'int8'];
/** Kernels count tokens in 32 bits with a sign. */
const MOST_WINDOW_TOKENS = 2 ** 30;
export const ELEMENT_BYTES: Readonly<Record<KvDtype, number>> = { f32: 4, f16: 2, bf16: 2, int8: 1 };

export interface PageLayout {
  readonly blockTokens: number;
  /** headDim padded with zeros to a multiple of 8. */
  readonly paddedDim: number;
  readonly pageTokens: number;
  /** Bytes from a page to its V and to its scales. */
  readonly valueOffset: number;
  readonly scaleOffset: number;
  readonly pageBytes: number;
  readonly frameBlocks: number;
  readonly frameBytes: number;
  /** What a block has of its frame. */
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
  for (const window of windows) {
    requireWhole('window', window, 0);
    if (window > MOST_WINDOW_TOKENS) {
      throw new UnsupportedError(
        'ATTENTION_GEOMETRY',
        `a window has at most ${MOST_WINDOW_TOKENS} tokens, found ${window}; 0 is none`,
      );
    }
  }
}

/**
 * @param memoryBytes of one memory; short of it, pages are shorter
 * @throws InputError for a blockTokens that the kernels can't take
 */
export function pageLayout(
  geometry: AttentionGeometry,
  kvDtype: KvDtype,
  blockTokens: number,
  memoryBytes = Number.POSITIVE_INFINITY,
): PageLayout {
  if (!Number.isInteger(Math.log2(blockTokens)) || blockTokens < LEAST_BLOCK_TOKENS || blockTokens > MAX_BLOCK_TOKENS) {
    throw new InputError(
      'ATTENTION_BLOCK_TOKENS',
      `blockTokens must be a power of two from ${LEAST_BLOCK_TOKENS} to ${MAX_BLOCK_TOKENS}, found ${blockTokens}`,
    );
  }
  const paddedDim = Math.ceil(geometry.headDim / 8) * 8;
  const pages = (layerGroups(geometry)[0]?.layers.length ?? 0) * geometry.kvHeads;
  const tokenBytes = 2 * paddedDim * ELEMENT_BYTES[kvDtype] + (kvDtype === 'int8' ? 2 * 4 : 0);
  let pageTokens = Math.max(PAGE_TOKENS, blockTokens);
  while (pageTokens > blockTokens && pages * tokenBytes * pageTokens * FRAMES_WANTED > memoryBytes) pageTokens /= 2;
  const valueOffset = pageTokens * paddedDim * ELEMENT_BYTES[kvDtype];
  const pageBytes = pageTokens * tokenBytes; // a multiple of 64, as 16 tokens of 8 dimensions are
  const frameBlocks = pageTokens / blockTokens;
  const frameBytes = pages * pageBytes + (pages * pageBytes >= PADDED_FROM_BYTES ? FRAME_PADDING : 0);
  const blockBytes = frameBytes / frameBlocks;
  return {
    blockTokens,
    paddedDim,
    pageTokens,
    valueOffset,
    scaleOffset: 2 * valueOffset,
    pageBytes,
    frameBlocks,
    frameBytes,
    blockBytes,
  };
}

/** Copies all that a block holds. Blocks are given as the kernels have them, WasmHeap.block. */
export function copyBlock(memory: Uint8Array, layout: PageLayout, source: number, target: number): void {
  eachPiece(layout, source, target, (from, to, bytes) => memory.copyWithin(to, from, from + bytes));
}

/** Exchanges all that two blocks hold. */
export function swapBlocks(memory: Uint8Array, layout: PageLayout, one: number, other: number): void {
  eachPiece(layout, one, other, (a, b, bytes) => {
    const kept = memory.slice(a, a + bytes);
    memory.copyWithin(a, b, b + bytes);
    memory.set(kept, b);
  });
}

/** Where both blocks have the same tokens of an array. */
function eachPiece(
  layout: PageLayout,
  source: number,
  target: number,
  visit: (from: number, to: number, bytes: number) => void,
): void {
  const { blockTokens, pageTokens, pageBytes, valueOffset, scaleOffset, frameBytes, paddedDim } = layout;
  const elementBytes = valueOffset / pageTokens / paddedDim;
  const [from, to] = [placeOfBlock(source), placeOfBlock(target)];
  const pages = Math.floor(frameBytes / pageBytes);
  for (let page = 0; page < pages; page++) {
    /** Of an array of the page that has `tokenBytes` of each of the page's tokens. */
    const piece = (at: number, tokenBytes: number) => {
      const bytes = blockTokens * tokenBytes;
      const start = page * pageBytes + at;
      visit(from.frame + start + from.index * bytes, to.frame + start + to.index * bytes, bytes);
    };
    piece(0, paddedDim * elementBytes);
    for (let d = 0; d < paddedDim; d += 8) piece(valueOffset + d * pageTokens * elementBytes, 8 * elementBytes);
    for (let at = scaleOffset; at < pageBytes; at += 4 * pageTokens) piece(at, 4);
  }
}

/** A block is its frame's address, a multiple of FRAME_ALIGNMENT, plus its index in the frame: place_of in kernels/layout.h. */
function placeOfBlock(block: number): { readonly frame: number; readonly index: number } {
  return { frame: block - (block % FRAME_ALIGNMENT), index: block % FRAME_ALIGNMENT };
}
