import { expect, test } from 'vitest';
import { InFlight } from './in-flight.ts';

/** A round trip of 20 ms beside 1 ms of dense time: many micro-batches are worth while. */
function settled(sequences: number, rows: number): number {
  const inFlight = new InFlight('auto');
  for (let round = 0; round < 64; round++) {
    for (let sample = 0; sample < 24; sample++) inFlight.addAttention(20);
    inFlight.adapt(() => sequences, rows, { denseMs: 1, attentionMs: 0.1 });
  }
  return inFlight.current;
}

test('small micro-batches are many: sequences that wait for one count', () => {
  expect(settled(32, 4)).toBe(8);
  expect(settled(32, 1)).toBeGreaterThan(16);
});

test('large micro-batches hold eight sequences before another one begins', () => {
  expect(settled(32, 256)).toBe(4);
  expect(settled(7, 256)).toBe(1);
});

test('what was told is kept', () => {
  const inFlight = new InFlight(3);
  for (let sample = 0; sample < 100; sample++) inFlight.addAttention(20);
  const nobodyAsks = () => expect.unreachable();
  expect(inFlight.adapt(nobodyAsks, 4, { denseMs: 1, attentionMs: 0.1 })).toBe(false);
  expect(inFlight.current).toBe(3);
});
