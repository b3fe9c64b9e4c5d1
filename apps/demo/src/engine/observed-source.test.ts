/** The decorator adds its latency, counts bytes, and notes times that the recorder joins with the engine's spans. */
import type { AttentionBackend, AttentionSource } from '@glinthawk/attention';
import { type AttentionGeometry, NodeLostError } from '@glinthawk/core';
import { afterEach, describe, expect, it } from 'vitest';
import { Delays } from './delay.ts';
import { ObservedSource } from './observed-source.ts';
import { SPAN_FIELDS, SpanField, SpanKind } from './span.ts';
import { SpanRecorder } from './span-recorder.ts';

const geometry = {} as AttentionGeometry;
const how = { kvDtype: 'f16', fingerprint: 'f' } as const;
const qkv = new Float32Array(12);
const output = new Float32Array(4);

/** Takes `workMs` for an attend, one after the other. */
function slowSource(workMs: number, fails = false): AttentionSource {
  let working = Promise.resolve();
  const backend = {
    name: 'slow',
    capacity: { blockTokens: 16, blockBytes: 64, shards: [{ blocks: 4 }], workers: 1 },
    lost: new Promise(() => {}),
    attend: () => {
      working = working.then(async () => {
        if (workMs > 0) await new Promise((resolve) => setTimeout(resolve, workMs));
        if (fails) throw new NodeLostError('slow', 'gone');
      });
      return working;
    },
    retire: () => {},
    stats: () => ({ roundTripMs: 0 }),
    close: async () => {},
  } as unknown as AttentionBackend;
  return { name: 'slow', connect: async () => backend };
}

const delays = new Delays();
afterEach(() => delays.close());

// Timings of a few milliseconds, on a machine that may be busy: retried.
describe('latency', { retry: 3 }, () => {
  it('of 0 sets no timer', async () => {
    const source = new ObservedSource(slowSource(0), { ms: 0 }, delays);
    const backend = await source.connect(geometry, how);
    let turned = false;
    setTimeout(() => {
      turned = true;
    });
    await backend.attend(1, 0, qkv, output);
    expect(turned).toBe(false);
  });

  it.each([2, 5, 25])('of %d ms takes about that long, again and again, also from within timers', async (ms) => {
    const source = new ObservedSource(slowSource(0), { ms }, delays);
    const backend = await source.connect(geometry, how);
    const rounds = 20;
    const began = performance.now();
    for (let i = 0; i < rounds; i++) await backend.attend(1, 0, qkv, output);
    const each = (performance.now() - began) / rounds;
    expect(each).toBeGreaterThan(ms - 0.8);
    expect(each).toBeLessThan(ms + 3); // a busy machine
  });

  it('changes while running', async () => {
    const latency = { ms: 60 };
    const source = new ObservedSource(slowSource(0), latency, delays);
    const backend = await source.connect(geometry, how);
    latency.ms = 0;
    const began = performance.now();
    await backend.attend(1, 0, qkv, output);
    expect(performance.now() - began).toBeLessThan(30);
  });

  it('a failure comes at once, without the way back', async () => {
    const source = new ObservedSource(slowSource(0, true), { ms: 200 }, delays);
    const backend = await source.connect(geometry, how);
    const began = performance.now();
    await expect(backend.attend(1, 0, qkv, output)).rejects.toThrow('gone');
    expect(performance.now() - began).toBeLessThan(180);
  });
});

it('counts the bytes of both directions, over connections', async () => {
  const source = new ObservedSource(slowSource(0), { ms: 0 }, delays);
  for (let i = 0; i < 2; i++) await (await source.connect(geometry, how)).attend(i, 0, qkv, output);
  expect([source.bytesOut, source.bytesIn]).toEqual([96, 32]);
  expect(source.capacity?.blockTokens).toBe(16);
});

it('tells how the first attempt to connect went', async () => {
  const inner: AttentionSource = {
    name: 'away',
    connect: () => Promise.reject(new NodeLostError('away', 'not there')),
  };
  const source = new ObservedSource(inner, { ms: 0 }, delays);
  await expect(source.connect(geometry, how)).rejects.toThrow('not there');
  await expect(source.firstAttempt).rejects.toThrow('not there');
});

describe('spans', { retry: 3 }, () => {
  const span = { microBatch: 3, layer: 1, node: 0, rows: 2, kvTokens: 9 };
  const fieldsOf = (spans: Float64Array, index: number) => {
    const at = index * SPAN_FIELDS;
    return (name: keyof typeof SpanField) => spans[at + SpanField[name]] ?? Number.NaN;
  };

  it('join the engine with its node: two attends at once are worked on one after the other', async () => {
    const source = new ObservedSource(slowSource(20), { ms: 20 }, delays);
    const backend = await source.connect(geometry, how);
    const recorder = new SpanRecorder(4, [source.times]);
    const attend = async (stepId: number) => {
      const beganAtMs = performance.now();
      await backend.attend(stepId, 1, qkv, output);
      recorder.onAttention({ ...span, stepId, beganAtMs, endedAtMs: performance.now() });
    };
    await Promise.all([attend(1), attend(2)]);
    const { spans, dropped } = recorder.take();
    expect([spans.length, dropped]).toEqual([2 * SPAN_FIELDS, 0]);
    const first = fieldsOf(spans, 0);
    const second = fieldsOf(spans, 1);
    expect([first('kind'), first('microBatch'), first('layer'), first('rows')]).toEqual([SpanKind.attention, 3, 1, 2]);
    expect(first('bytes')).toBe(64);
    for (const field of [first, second]) {
      expect(field('began') - field('sent')).toBeGreaterThan(8);
      expect(field('back') - field('ended')).toBeGreaterThan(6);
    }
    expect(second('began')).toBeGreaterThanOrEqual(first('ended'));
    backend.retire(1);
    backend.retire(2);
    expect(source.times.size).toBe(0);
  });

  it('an attend whose node said nothing has the engine’s own times', () => {
    const source = new ObservedSource(slowSource(0), { ms: 0 }, delays);
    const recorder = new SpanRecorder(4, [source.times]);
    recorder.onAttention({ ...span, stepId: 7, beganAtMs: 10, endedAtMs: 20 });
    const field = fieldsOf(recorder.take().spans, 0);
    expect([field('sent'), field('began'), field('ended'), field('back')]).toEqual([10, 10, 20, 20]);
  });

  it('the head and full logits are head spans', () => {
    const recorder = new SpanRecorder(4, []);
    const dense = { microBatch: 0, stepId: 1, rows: 1, queuedAtMs: 1, beganAtMs: 2, endedAtMs: 3 };
    for (const layer of [0, 4, 5]) recorder.onDense({ ...dense, layer });
    const { spans } = recorder.take();
    const seen = [0, 1, 2].map((i) => [
      fieldsOf(spans, i)('kind'),
      fieldsOf(spans, i)('layer'),
      fieldsOf(spans, i)('node'),
    ]);
    expect(seen).toEqual([
      [SpanKind.layer, 0, -1],
      [SpanKind.head, 4, -1],
      [SpanKind.head, 4, -1],
    ]);
  });

  it('beyond the cap are counted, not kept, and the next sample begins anew', () => {
    const recorder = new SpanRecorder(4, [], 2);
    const dense = { microBatch: 0, stepId: 1, layer: 0, rows: 1, queuedAtMs: 1, beganAtMs: 2, endedAtMs: 3 };
    for (let i = 0; i < 5; i++) recorder.onDense(dense);
    const { spans, dropped } = recorder.take();
    expect([spans.length, dropped]).toEqual([2 * SPAN_FIELDS, 3]);
    expect(recorder.take()).toMatchObject({ spans: { length: 0 }, dropped: 0 });
  });
});
