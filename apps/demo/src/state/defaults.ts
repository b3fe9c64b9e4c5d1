/**
 * Settings before anybody chose: they follow what the page proposes (a browser's cores, a model's own defaults) until a visitor
 * changes them, and are the visitor's from then on. Keeps no history and stores nothing.
 */
import { type Signal, signal } from '@preact/signals';
import type { Capabilities, ModelChoice, TierSettings } from '../engine/protocol.ts';
import { suggestSettings } from '../engine/suggest.ts';
import { TIERS } from './tier-settings.ts';

export interface Followed<T> {
  readonly value: Signal<T>;
  /** Has no effect once somebody else has set the signal. */
  propose(value: T): void;
}

/** @param chosen the visitor's from the beginning, as on a later visit */
export function followed<T>(initial: T, chosen = false): Followed<T> {
  const value = signal(initial);
  let proposed: { readonly value: T } | null = chosen ? null : { value: initial };
  return {
    value,
    propose(next) {
      if (proposed === null || value.value !== proposed.value) {
        proposed = null;
        return;
      }
      proposed = { value: next };
      value.value = next;
    },
  };
}

/** What suits this browser; the example gets KV memory of its own size, so that its blocks can be seen filling. */
export function proposedTiers(capabilities: Capabilities | null, choice: ModelChoice['kind'] | null): TierSettings {
  const suited = capabilities === null ? TIERS : suggestSettings(capabilities, null);
  return choice === 'example' ? { ...suited, kvBytes: TIERS.kvBytes } : suited;
}
