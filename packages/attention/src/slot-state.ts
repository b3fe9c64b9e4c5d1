/** A slot of LocalAttention: what it holds, which step has it, and what is asked of it before it is forked or written. */
import { InputError } from '@glinthawk/core';
import type { AnnouncedStep, StepPart } from './announced-step.ts';
import type { Slot, StepEntry } from './backend.ts';
import type { Shard } from './shard.ts';
import type { SlotBlocks } from './slot-blocks.ts';

export interface SlotState {
  readonly slot: Slot;
  readonly shard: Shard;
  readonly blocks: SlotBlocks;
  /** Where the latest step that names it has it. */
  place: { readonly step: AnnouncedStep; readonly part: StepPart; readonly entry: number } | null;
  /** Copies from or to its blocks that wait for what still writes there. */
  readonly copies: Set<Promise<void>>;
}

/** Whether the slot's latest step stores tokens before position `tokens`. */
export function writesBelow({ place }: SlotState, tokens: number): boolean {
  const entry = place?.part.entries[place.entry];
  return entry !== undefined && !entry.visit && entry.position < tokens;
}

/** What may still touch the slot's blocks and tables. */
export function busyWith({ place, copies }: SlotState): Promise<void>[] {
  const busy = [...copies];
  if (place === null) return busy;
  const { step } = place;
  if (!step.running) return [...busy, ...step.waits];
  step.settled ??= Promise.withResolvers();
  return [...busy, step.settled.promise];
}

/** @throws InputError unless the first `tokens` tokens may be forked */
export function requireForkable(state: SlotState, tokens: number, layers: number): void {
  const { slot, blocks, place } = state;
  const { index } = slot;
  if (!Number.isSafeInteger(tokens) || tokens < 0 || tokens > blocks.tokens) {
    throw new InputError('ATTENTION_FORK', `slot ${index} holds ${blocks.tokens} tokens: ${tokens} can't be forked`);
  }
  if (!blocks.holds(tokens, tokens)) {
    throw new InputError('ATTENTION_FORK', `slot ${index} gave back tokens that ${tokens} forked ones would see`);
  }
  if (place === null || place.step.retired || place.step.layersRun === layers) return;
  if (!writesBelow(state, tokens)) return;
  throw new InputError(
    'ATTENTION_FORK',
    `slot ${index}: step ${place.step.id} has yet to store some of ${tokens} tokens: fork them after its last layer`,
  );
}

/** @throws InputError unless the slot may have this entry in its next step */
export function requireEntry(state: SlotState, entry: StepEntry, maxContextTokens: number): void {
  const { position, count, visit = false } = entry;
  const { slot, blocks } = state;
  const { index } = slot;
  if (!Number.isInteger(position) || position < 0 || !Number.isInteger(count) || count < 1) {
    throw new InputError('ATTENTION_STEP', `slot ${index}: ${count} tokens at position ${position} is no run of rows`);
  }
  if (visit ? position < blocks.tokens - 1 : position > blocks.tokens) {
    throw new InputError(
      'ATTENTION_GAP',
      `slot ${index} holds ${blocks.tokens} tokens: ${visit ? 'a visit is at its last or later' : `the next position is ${blocks.tokens}`}, found ${position}`,
    );
  }
  if (position + count > maxContextTokens) {
    throw new InputError(
      'ATTENTION_CONTEXT',
      `slot ${index} would hold ${position + count} tokens: the longest context is ${maxContextTokens}`,
    );
  }
  if (!blocks.holds(position, blocks.tokens)) {
    throw new InputError('ATTENTION_GAP', `slot ${index} gave back tokens that a row at ${position} sees`);
  }
  if (!visit && blocks.sharesFrom(position)) {
    throw new InputError(
      'ATTENTION_SHARED',
      `slot ${index} shares its block at ${position} with a fork: nobody writes it`,
    );
  }
}
