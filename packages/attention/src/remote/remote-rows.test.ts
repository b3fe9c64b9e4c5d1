/** Rows on their way: f32 without a copy, f16 and int8 through a buffer that is given back; what isn't rows is refused. */
import { type AttentionGeometry, decodeRows, encodeRows, outputRowFloats, qkvRowFloats } from '@glinthawk/core';
import { bytesOf, frameParts, HEADER_BYTES, resultLayout } from '@glinthawk/wire';
import { describe, expect, it } from 'vitest';
import { RemoteRows } from './remote-rows.ts';

const geometry: AttentionGeometry = {
  layers: 1,
  kvHeads: 1,
  groupSize: 3,
  headDim: 2,
  softmaxScale: 1,
  windows: [0],
  maxContextTokens: 8,
};
const step = { id: 1, layer: 0, rows: 3 };
const qkv = Float32Array.from({ length: 3 * qkvRowFloats(geometry) }, (_, i) => Math.sin(i));

describe.each(['f32', 'f16', 'int8'] as const)('rows of %s', (dtype) => {
  it('leave as the reference has them', async () => {
    const rows = await RemoteRows.create(geometry, dtype);
    const { frame, onSent } = rows.sent(step, qkv, false);
    const [, section] = frameParts(frame) as [Uint8Array, Uint8Array];
    const expected = new Uint8Array(frame.header.payloadBytes);
    encodeRows(dtype, 5, 2, qkv, expected);
    expect([...section]).toEqual([...expected]);
    expect(section.buffer === qkv.buffer).toBe(dtype === 'f32');
    expect(frame.header.payloadBytes).toBe(section.byteLength);
    expect(frame.header.rows).toBe(3);
    onSent?.();
    rows.close();
    expect(rows.allocatedBytes).toBe(0);
  });

  it('come to where they belong, and nowhere else, and not before all have', async () => {
    const rows = await RemoteRows.create(geometry, dtype);
    const floats = 3 * outputRowFloats(geometry);
    const output = new Float32Array(floats + 1).fill(9);
    const sums = new Float32Array(3 * 3 + 1).fill(9);
    const awaited = rows.awaited(3, output, sums);
    const layout = resultLayout(geometry, 3, dtype, true);
    expect(awaited).toMatchObject({ rows: 3, hasSums: true, payloadBytes: layout.payloadBytes });
    const sent = Float32Array.from({ length: floats }, (_, i) => Math.cos(i));
    const payload = new Uint8Array(layout.payloadBytes);
    encodeRows(dtype, 3, 2, sent, payload.subarray(0, layout.outputBytes));
    const sentSums = Float32Array.from({ length: 9 }, (_, i) => i);
    payload.set(bytesOf(sentSums), layout.logSumExpOffset);
    let at = 0;
    for (const piece of awaited.target()) {
      piece.set(payload.subarray(at, at + piece.byteLength));
      at += piece.byteLength;
    }
    expect(at).toBe(layout.payloadBytes);
    if (dtype !== 'f32') expect(output.every((value) => value === 9)).toBe(true);
    awaited.arrived();
    const expected = new Float32Array(floats);
    decodeRows(dtype, 3, 2, payload.subarray(0, layout.outputBytes), expected);
    expect([...output]).toEqual([...expected, 9]);
    expect([...sums]).toEqual([...sentSums, 9]);
    rows.close();
    expect(rows.allocatedBytes).toBe(0);
  });

  it('are refused where the gap before the log-sum-exps is not zero', async () => {
    const rows = await RemoteRows.create(geometry, dtype);
    const { outputBytes, logSumExpOffset } = resultLayout(geometry, 3, dtype, true);
    expect(logSumExpOffset).toBeGreaterThan(outputBytes);
    const awaited = rows.awaited(3, new Float32Array(3 * outputRowFloats(geometry)), new Float32Array(9));
    awaited.target()[1]?.fill(1);
    expect(() => awaited.arrived()).toThrow(expect.objectContaining({ code: 'BAD_PADDING' }));
    rows.close();
  });
});

it('a frame of rows is its header, the rows and nothing else', async () => {
  const rows = await RemoteRows.create(geometry, 'f32');
  const [header, section] = frameParts(rows.sent(step, qkv, true).frame) as [Uint8Array, Uint8Array];
  expect([header.byteLength, section.byteLength]).toEqual([HEADER_BYTES, qkv.byteLength]);
  rows.close();
});
