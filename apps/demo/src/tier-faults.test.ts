/** What is said of settings that can't be, to the visitor and by the engine's worker alike. */
import { silentLogger } from '@glinthawk/core';
import { expect, test } from 'vitest';
import { attentionPlaces } from './engine/attention-places.ts';
import type { TierSettings } from './engine/protocol.ts';
import { MAX_IN_FLIGHT, MAX_LATENCY_MS, MAX_REMOTES, MAX_WORKERS } from './limits.ts';
import { TIERS } from './state/tier-settings.ts';
import { tierFaults } from './tier-faults.ts';

const remotes = (count: number) => Array.from({ length: count }, (_, i) => ({ url: `ws://127.0.0.1:${7000 + i}` }));

test.each<[string, Partial<TierSettings>, readonly string[]]>([
  ['as they are', {}, []],
  ['all at their limits', { workers: MAX_WORKERS, remotes: remotes(MAX_REMOTES), inFlight: MAX_IN_FLIGHT }, []],
  ['nowhere', { workers: 0 }, ['workers']],
  ['remote only', { workers: 0, remotes: remotes(1) }, []],
  ['too many workers', { workers: MAX_WORKERS + 1 }, ['workers']],
  ['too many remotes', { remotes: remotes(MAX_REMOTES + 1) }, ['remotes']],
  ['a remote twice', { remotes: [...remotes(1), { url: ' ws://127.0.0.1:7000/ ' }] }, ['remotes']],
  ['no KV', { kvBytes: Number.NaN }, ['kvBytes']],
  ['too much in flight', { inFlight: MAX_IN_FLIGHT + 1 }, ['inFlight']],
  ['no rows', { microBatchRows: 0 }, ['microBatchRows']],
  ['a long way', { latencyMs: MAX_LATENCY_MS + 1 }, ['latencyMs']],
  ['one tier has no places', { mode: 'one-tier', workers: 0, remotes: [{ url: '?' }] }, []],
])('%s', (_, change, fields) => {
  const settings = { ...TIERS, ...change };
  expect(tierFaults(settings).map(({ field }) => field)).toEqual(fields);
  const open = () => attentionPlaces(settings, { sharedMemory: true, logger: silentLogger });
  if (fields.length > 0) expect(open).toThrow(expect.objectContaining({ code: 'INVALID_TIERS' }));
  else expect(open).not.toThrow();
});

test.each([
  ['', /needed/],
  ['tcp://h:1', /ws:\/\//],
  ['h:1', /ws:\/\//],
  ['ws://user:pass@h:1', /own field/],
])('the address %o', (url, said) => {
  expect(tierFaults({ ...TIERS, remotes: [{ url }] })[0]?.message).toMatch(said);
});
