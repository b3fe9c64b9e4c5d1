/** What Node says of its machine. */
import { expect, it } from 'vitest';
import { availableMemoryBytes, platform } from './platform.node.ts';

it("takes a container's limit for the machine's memory where it is smaller", () => {
  expect(availableMemoryBytes(64e9, 2e9)).toBe(2e9);
  expect(availableMemoryBytes(64e9, 0)).toBe(64e9);
  expect(availableMemoryBytes(64e9, 2 ** 64)).toBe(64e9);
  const limit = process.constrainedMemory();
  expect(platform.defaultMemoryBytes()).toBeLessThanOrEqual(limit > 0 ? limit / 4 : Number.POSITIVE_INFINITY);
});
