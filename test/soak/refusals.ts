/** What a backend must refuse, with nothing changed; of a local one, as a node ends the connection of who breaks the rules. */
import type { AttentionBackend, Slot } from '@glinthawk/attention';
import { InputError, outputRowFloats, qkvRowFloats } from '@glinthawk/core';
import type { ModelSlot } from './cache-model.ts';

export function refuseTakenSlot(backend: AttentionBackend, slot: ModelSlot): void {
  expectRefusal('a taken slot', () => backend.open(idOf(slot), slot.shard));
}

export function refuseLongFork(backend: AttentionBackend, child: Slot, parent: ModelSlot): void {
  const tokens = parent.tokens.length + 1;
  expectRefusal('a fork of more than there is', () => backend.fork(child, idOf(parent), tokens));
}

export function refuseUnknownShard(backend: AttentionBackend, slot: Slot): void {
  expectRefusal('a shard that is not there', () => backend.open(slot, backend.capacity.shards.length));
}

/** Rows behind a gap. */
export async function refuseGap(backend: AttentionBackend, slot: ModelSlot, step: number): Promise<void> {
  backend.announce({ id: step, entries: [{ slot: idOf(slot), position: slot.tokens.length + 1, count: 1 }] });
  const qkv = new Float32Array(qkvRowFloats(backend.geometry));
  try {
    await backend.attend(step, 0, qkv, new Float32Array(outputRowFloats(backend.geometry)));
  } catch (error) {
    if (error instanceof InputError) return;
    throw error;
  } finally {
    backend.retire(step);
  }
  throw new Error(`step ${step}: a row of slot ${slot.index}.${slot.generation} beyond a gap ran`);
}

export function idOf({ index, generation }: Slot): Slot {
  return { index, generation };
}

function expectRefusal(what: string, act: () => void): void {
  try {
    act();
  } catch (error) {
    if (error instanceof InputError) return;
    throw error;
  }
  throw new Error(`${what} was not refused`);
}
