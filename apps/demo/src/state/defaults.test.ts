/** What is proposed, and until when it is followed. */
import { expect, test } from 'vitest';
import { followed, proposedTiers } from './defaults.ts';
import { CAPABILITIES } from './state.fixture.ts';
import { TIERS } from './tier-settings.ts';

test('proposals are followed until somebody sets the value, and never again', () => {
  const setting = followed(1);
  setting.propose(2);
  expect(setting.value.value).toBe(2);
  setting.value.value = 7;
  setting.propose(3);
  expect(setting.value.value).toBe(7);
  setting.value.value = 2;
  setting.propose(4);
  expect(setting.value.value).toBe(2);
});

test('what was chosen on an earlier visit is not proposed over', () => {
  const setting = followed(1, true);
  setting.propose(2);
  expect(setting.value.value).toBe(1);
});

test('a model after the example gets the memory that suits the browser again', () => {
  const example = proposedTiers(CAPABILITIES, 'example');
  expect(example.kvBytes).toBe(TIERS.kvBytes);
  expect(proposedTiers(CAPABILITIES, 'stored').kvBytes).toBeGreaterThan(example.kvBytes);
  expect(proposedTiers(null, 'files')).toEqual(TIERS);
});
