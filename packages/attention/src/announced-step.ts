/**
 * A step of LocalAttention: its entries by memory, where its rows lie, and how far it is. Here is no word about slots; who may take
 * what, LocalAttention decides.
 */
import type { GlinthawkError } from '@glinthawk/core';
import type { StepEntry } from './backend.ts';
import type { Shard } from './shard.ts';
import type { SlotBlocks } from './slot-blocks.ts';
import { type KernelEntry, type StepConfig, type StepLayout, stageStep } from './step-layout.ts';

/** The neighbouring entries of a step that are in one shard. */
export interface StepPart {
  readonly shard: Shard;
  readonly entries: readonly KernelEntry[];
  readonly firstRow: number;
  readonly rows: number;
  readonly staging: number; // address
  readonly layout: StepLayout;
}

export interface AnnouncedStep {
  readonly id: number;
  readonly rows: number;
  readonly parts: readonly StepPart[];
  /** Why its attends fail; null when it is good. */
  readonly failure: GlinthawkError | null;
  /** What its first attend waits for. */
  readonly waits: Set<Promise<void>>;
  /** Bytes of KV that an attend of a layer of each group reads. */
  readonly readBytes: readonly number[];
  readonly appendedTokens: number;
  layersRun: number;
  running: boolean;
  retired: boolean;
  /** A later step that names one of its slots; after that it runs no layer. */
  supersededBy: number | null;
  /** Entries whose slots were freed while it ran. */
  readonly dying: { readonly part: StepPart; readonly entry: number }[];
  /** Settles with the attend under way; made when somebody asks. */
  settled: PromiseWithResolvers<void> | null;
}

type NewStep = Pick<AnnouncedStep, 'id' | 'rows' | 'parts' | 'failure' | 'readBytes' | 'appendedTokens'>;

export function newStep(step: NewStep & { readonly waits?: Set<Promise<void>> }): AnnouncedStep {
  const waits = step.waits ?? new Set();
  return { ...step, waits, layersRun: 0, running: false, retired: false, supersededBy: null, dying: [], settled: null };
}

export function unstage(parts: readonly StepPart[]): void {
  for (const { shard, staging, layout } of parts) shard.heap.unstage(staging, layout.bytes);
}

interface SlotPlace {
  readonly shard: Shard;
  readonly blocks: SlotBlocks;
}

/**
 * Splits entries by shard and gives each part its staging.
 * @param places of the entries, in their order
 * @throws CapacityError, with nothing taken
 */
export function stageParts(
  config: StepConfig,
  workers: number,
  entries: readonly StepEntry[],
  places: readonly SlotPlace[],
): StepPart[] {
  const parts: StepPart[] = [];
  let firstRow = 0;
  try {
    for (let from = 0; from < places.length; ) {
      const { shard } = places[from] as SlotPlace;
      const own: KernelEntry[] = [];
      let rows = 0;
      for (; places[from]?.shard === shard; from++) {
        const { position, count, visit = false } = entries[from] as StepEntry;
        const { tables, tokens } = (places[from] as SlotPlace).blocks;
        own.push({ tables, position, count, stored: visit ? tokens : position + count, visit });
        rows += count;
      }
      const { address: staging, layout } = stageStep(shard.heap, config, own, workers);
      parts.push({ shard, entries: own, firstRow, rows, staging, layout });
      firstRow += rows;
    }
  } catch (error) {
    unstage(parts);
    throw error;
  }
  return parts;
}

/** Tokens that a layer with this window reads; what an entry's rows see together counts once. */
export function tokensRead(parts: readonly StepPart[], window: number): number {
  let tokens = 0;
  for (const { entries } of parts) {
    for (const { position, count, stored } of entries) {
      const first = window === 0 ? 0 : Math.max(0, position + 1 - window);
      tokens += Math.max(0, Math.min(position + count, stored) - first);
    }
  }
  return tokens;
}
