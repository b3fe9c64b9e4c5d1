/**
 * Who waits for KV, and who gets it next. Oldest first: what lost its KV is older than what was never placed, and so stands in front.
 * One that waits for something which others don't need (a node that is away, a prefix that is being computed) holds nobody up.
 */
import type { GlinthawkError } from '@glinthawk/core';
import type { AttentionTier } from '../attention-tier.ts';
import type { Sequence } from '../sequence.ts';
import type { KvPlaces } from './kv-places.ts';

/** Sequences in front of another that may wait for what is being computed; more of them are not looked at. */
const MOST_AWAITING = 128;

export interface AdmissionOptions {
  readonly tier: AttentionTier;
  readonly places: KvPlaces;
  /** Takes a sequence's KV from it, at once or when its step ends. */
  readonly dismiss: (sequence: Sequence) => void;
  /** A request that can't go on. */
  readonly fail: (sequence: Sequence, error: GlinthawkError) => void;
}

export class Admission {
  readonly #options: AdmissionOptions;
  readonly #waiting: Sequence[] = [];

  constructor(options: AdmissionOptions) {
    this.#options = options;
  }

  get waiting(): readonly Sequence[] {
    return this.#waiting;
  }

  /** Of those that wait, the ones that the nodes that are there can't take, not even all together, and their greatest length. */
  get stranded(): { readonly sequences: number; readonly tokens: number } {
    const { places } = this.#options;
    const stranded = this.#waiting.filter((sequence) => sequence.length > places.mostTokensOf(sequence));
    return { sequences: stranded.length, tokens: Math.max(0, ...stranded.map(({ length }) => length)) };
  }

  /** Of those that wait, the ones (`most` are looked at) for which there is KV: they wait for room in a micro-batch. */
  placeable(most: number): number {
    return this.#options.places.countPlaceable(
      this.#waiting.filter(({ paused }) => !paused),
      most,
    );
  }

  add(sequence: Sequence): void {
    let at = this.#waiting.length;
    while (at > 0 && (this.#waiting[at - 1] as Sequence).arrival > sequence.arrival) at--;
    this.#waiting.splice(at, 0, sequence);
    sequence.job.waiting++;
  }

  remove(sequence: Sequence): void {
    const at = this.#waiting.indexOf(sequence);
    if (at < 0) return;
    this.#waiting.splice(at, 1);
    sequence.job.waiting--;
  }

  /** Places the oldest whose job keeps up, and that waits for nothing of its own; null when there is none, or no room for it. */
  next(): Sequence | null {
    const { tier, places, fail } = this.#options;
    const waitsForNode = new Set<Sequence>();
    const waitsForPrefix = new Set<Sequence>();
    for (;;) {
      const sequence = this.#waiting.find(
        (each) => !each.paused && !waitsForNode.has(each) && !waitsForPrefix.has(each),
      );
      if (sequence === undefined || tier.connected.length === 0) return null;
      const plan = places.plan(sequence);
      if (plan === 'full') {
        if (this.#evictPaused(sequence) || this.#dropUseless()) continue;
        return null;
      }
      if (plan === 'coming') {
        if (waitsForPrefix.add(sequence).size === MOST_AWAITING) return null;
        continue;
      }
      if (plan === 'never' && tier.awaitsRoomFor(sequence.length)) {
        waitsForNode.add(sequence);
        continue;
      }
      if (plan === 'never') {
        fail(sequence, places.noRoom(sequence));
        continue;
      }
      if (!places.place(sequence, plan)) continue;
      this.remove(sequence);
      sequence.job.changed();
      return sequence;
    }
  }

  /** Where nobody runs nobody gives anything back: what is kept can only be in the way. @returns whether there was anything */
  #dropUseless(): boolean {
    const { connected } = this.#options.tier;
    if (connected.some(({ residents }) => residents > 0)) return false;
    return connected.map((node) => node.dropCached()).some((dropped) => dropped);
  }

  /**
   * Makes room for a sequence by taking KV from jobs whose consumers don't keep up: two calls of generate() that wait for each
   * other's consumer must not wait for ever. False when that would not suffice, or the room comes when a step ends.
   */
  #evictPaused(sequence: Sequence): boolean {
    const { places, dismiss } = this.#options;
    const plan = places.plan(sequence, ({ paused, leaving }) => paused || leaving);
    if (typeof plan === 'string') return false;
    const residents = new Set<Sequence>();
    for (const { shard } of plan) for (const { owner } of shard.residents) if (owner !== null) residents.add(owner);
    // One at a time, as it takes no more than are needed.
    if ([...residents].some(({ leaving }) => leaving)) return false;
    const [victim] = [...residents].filter(({ paused }) => paused).sort((a, b) => b.arrival - a.arrival);
    if (victim === undefined) return false;
    dismiss(victim);
    return !victim.leaving;
  }
}
