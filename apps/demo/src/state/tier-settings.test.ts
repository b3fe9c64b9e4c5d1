/** Settings that come from a form, and settings that come from another version's storage. */
import { expect, test } from 'vitest';
import type { TierSettings } from '../engine/protocol.ts';
import { checkTierSettings, restoreTierSettings, storeTierSettings, TIERS } from './tier-settings.ts';

test('what is stored comes back, without tokens and without a delay', () => {
  const settings: TierSettings = {
    ...TIERS,
    mode: 'one-tier',
    workers: 5,
    kvDtype: 'int8',
    inFlight: 4,
    microBatchRows: 17,
    latencyMs: 80,
    remotes: [{ url: 'wss://a.example:1', token: 'a-secret-of-16-characters' }],
  };
  const stored = storeTierSettings(settings);
  expect(stored).not.toContain('secret');
  expect(restoreTierSettings(TIERS, stored)).toEqual({
    ...settings,
    latencyMs: 0,
    remotes: [{ url: 'wss://a.example:1' }],
  });
});

test.each([
  ['null', null],
  ['no JSON', '{'],
  ['another type', '[1]'],
  ['wrong fields', '{"workers":-1,"mode":"three-tiers","kvBytes":"many","remotes":"x","inFlight":33,"dense":{}}'],
])('stored settings that are wrong (%s) leave what was', (_, json) => {
  expect(restoreTierSettings(TIERS, json)).toEqual(TIERS);
});

test('remotes from storage are bounded', () => {
  const remotes = Array.from({ length: 100 }, (_, i) => ({ url: `ws://h:${i}`, token: 'x' }));
  const restored = restoreTierSettings(TIERS, JSON.stringify({ remotes: [...remotes.slice(0, 3), 7, { url: 5 }] }));
  expect(restored.remotes).toEqual(remotes.slice(0, 3).map(({ url }) => ({ url })));
  expect(restoreTierSettings(TIERS, JSON.stringify({ remotes })).remotes).toHaveLength(16);
});

test.each([
  ['ws://127.0.0.1:7411', true],
  ['ws://[::1]:7411', true],
  ['ws://localhost:1', true],
  ['wss://host.example', true],
  ['ws://host.example:1', false],
  ['ws://127.0.0.1.example.org', false],
])('a page by https reaches %s: %s', (url, reached) => {
  const settings = { ...TIERS, remotes: [{ url: 'wss://a.example' }, { url }] };
  const faults = checkTierSettings(settings, true);
  if (reached) expect(faults).toEqual([]);
  else expect(faults).toMatchObject([{ field: 'remotes', index: 1, message: expect.stringMatching(/wss/) }]);
  expect(checkTierSettings(settings, false)).toEqual([]);
});
