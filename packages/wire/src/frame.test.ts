/** Frames survive any way of cutting the stream, and nothing else gets through. */
import { ProtocolError } from '@glinthawk/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  checkHeader,
  decodeHeader,
  encodeFrame,
  encodeHeader,
  type FrameHeader,
  frame,
  frameBytes,
  frameParts,
  MAGIC,
} from './frame.ts';
import { FrameReader } from './frame-reader.ts';
import { FRAME_RULES, FrameType, HEADER_DTYPES } from './frame-type.ts';
import { HEADER_BYTES, MAX_CONTROL_BYTES, MAX_LAYERS, MAX_PAYLOAD_BYTES, MAX_ROWS } from './limits.ts';
import { concatenate, joinSmall } from './transport.ts';

/** Any frame that the rules allow, with a payload of at most a few hundred bytes. */
const anyFrame = fc.constantFrom(...Object.values(FrameType)).chain((type) => {
  const rule = FRAME_RULES[type];
  const record = rule.rowRecordBytes ?? rule.recordBytes;
  return fc
    .record({
      id: rule.uses.includes('id') ? fc.maxSafeNat() : fc.constant(0),
      layer: rule.uses.includes('layer') ? fc.nat(MAX_LAYERS - 1) : fc.constant(0),
      aux: rule.uses.includes('aux') ? fc.nat(2 ** 32 - 1) : fc.constant(0),
      dtype: rule.uses.includes('dtype') ? fc.constantFrom('f32', 'f16', 'int8') : fc.constant('none'),
      flags: fc.constantFrom(0, rule.flags),
      count: fc.integer({ min: 1, max: 20 }),
      bytes: fc.uint8Array({ minLength: 0, maxLength: 600 }),
      second: fc.uint8Array({ minLength: 0, maxLength: 40 }),
    })
    .map(({ count, bytes, second, ...fields }) => {
      const rows = rule.maxRows > 0 ? count : 0;
      if (rule.maxPayloadBytes === 0) return frame(type, { ...fields, rows } as Partial<FrameHeader>);
      const sections = record === undefined ? [bytes, second] : [new Uint8Array(count * record).fill(7)];
      return frame(type, { ...fields, rows } as Partial<FrameHeader>, sections);
    });
});

function readAll(reader: FrameReader) {
  const frames = [];
  for (let next = reader.next(); next !== undefined; next = reader.next()) frames.push(next);
  return frames;
}

describe('frames', () => {
  it('are read as they were sent, however the stream is cut', () => {
    fc.assert(
      fc.property(
        fc.array(anyFrame, { minLength: 1, maxLength: 6 }),
        fc.infiniteStream(fc.integer({ min: 1, max: 300 })),
        (sent, cuts) => {
          const stream = concatenate(sent.map(encodeFrame));
          const reader = new FrameReader();
          const received = [];
          for (let at = 0; at < stream.length; ) {
            const chunk = stream.slice(at, at + (cuts.next().value ?? 1));
            at += chunk.length;
            reader.push(chunk);
            received.push(...readAll(reader));
          }
          expect(received.map((one) => one.header)).toEqual(sent.map((one) => one.header));
          received.forEach((one, i) => {
            const bytes = encodeFrame(sent[i] as (typeof sent)[0]);
            expect(one.payload).toEqual(bytes.subarray(HEADER_BYTES, HEADER_BYTES + one.header.payloadBytes));
            expect(one.payload.byteOffset % 4).toBe(0);
          });
          expect(reader.atBoundary).toBe(true);
          expect(reader.bufferedBytes).toBe(0);
        },
      ),
      { numRuns: 300 },
    );
  });

  it('have one encoding: what decodes encodes to the same bytes', () => {
    fc.assert(
      fc.property(anyFrame, ({ header }) => {
        const bytes = encodeHeader(header);
        expect(decodeHeader(bytes)).toEqual(header);
        expect(encodeHeader(decodeHeader(bytes))).toEqual(bytes);
      }),
    );
  });

  it('are padded to 16 bytes, as are their sections', () => {
    fc.assert(
      fc.property(anyFrame, (outgoing) => {
        const parts = frameParts(outgoing);
        let at = 0;
        for (const part of parts) {
          if (outgoing.sections.flat().includes(part)) expect(at % 16).toBe(0);
          at += part.length;
        }
        expect(at).toBe(frameBytes(outgoing.header));
        expect(at % 16).toBe(0);
      }),
    );
  });

  it('are viewed in place when a chunk holds them whole', () => {
    const chunk = encodeFrame(frame(FrameType.ATTEND, { rows: 1, dtype: 'f32' }, [new Uint8Array(64).fill(1)]));
    const reader = new FrameReader({
      allocate: () => {
        throw new Error('a copy was made');
      },
    });
    reader.push(chunk);
    expect(reader.next()?.payload.buffer).toBe(chunk.buffer);
  });

  it('may have sections of several pieces, which follow one another without gaps', () => {
    const pieces = [new Uint8Array(5).fill(1), new Uint8Array(0), new Uint8Array(6).fill(2)];
    const bytes = encodeFrame(frame(FrameType.ATTEND, { rows: 1, dtype: 'f32' }, [pieces, new Uint8Array(3).fill(3)]));
    expect([...bytes.subarray(HEADER_BYTES)]).toEqual([
      1,
      1,
      1,
      1,
      1,
      2,
      2,
      2,
      2,
      2,
      2,
      0,
      0,
      0,
      0,
      0,
      3,
      3,
      3,
      ...new Array(13).fill(0),
    ]);
    expect(decodeHeader(bytes).payloadBytes).toBe(19);
  });
});

describe('a payload', () => {
  const fields = { rows: 1, dtype: 'f32' } as const;

  it('is written straight to where accept says, in pieces of any size, shared memory too', () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(40), { minLength: 1, maxLength: 6 }).filter((sizes) => sizes.some((size) => size > 0)),
        fc.infiniteStream(fc.integer({ min: 1, max: 60 })),
        fc.boolean(),
        (sizes, cuts, shared) => {
          const bytes = sizes.reduce((sum, size) => sum + size, 0);
          const payload = crypto.getRandomValues(new Uint8Array(bytes));
          const stream = concatenate(
            [frame(FrameType.RESULT, fields, [payload]), frame(FrameType.PING, { id: 3 })].map(encodeFrame),
          );
          const all = new Uint8Array(shared ? new SharedArrayBuffer(bytes + 2) : new ArrayBuffer(bytes + 2)).fill(0xee);
          let end = 1;
          const pieces = sizes.map((size) => {
            end += size;
            return all.subarray(end - size, end);
          });
          const reader = new FrameReader({
            accept: ({ payloadBytes }) => (payloadBytes > 0 ? () => pieces : undefined),
            allocate: () => {
              throw new Error('a buffer was asked for');
            },
          });
          const received = [];
          for (let from = 0; from < stream.length; ) {
            const chunk = stream.slice(from, from + (cuts.next().value ?? 1));
            from += chunk.length;
            reader.push(chunk);
            received.push(...readAll(reader));
          }
          expect(received.map(({ header }) => header.type)).toEqual([FrameType.RESULT, FrameType.PING]);
          expect(received[0]?.payload).toHaveLength(0);
          expect([...all]).toEqual([0xee, ...payload, 0xee]); // and nothing beside it
          expect(reader.bytesPlaced).toBe(bytes);
          expect(reader.bufferedBytes).toBe(0);
        },
      ),
    );
  });

  it('is written to what the target is now: memory may have grown between two chunks', () => {
    let memory = new ArrayBuffer(64);
    const stream = encodeFrame(frame(FrameType.RESULT, fields, [new Uint8Array(64).fill(5)]));
    const reader = new FrameReader({ accept: () => () => [new Uint8Array(memory)] });
    reader.push(stream.slice(0, 60));
    expect(reader.next()).toBeUndefined();
    memory = memory.transfer();
    reader.push(stream.slice(60));
    expect(reader.next()?.header.payloadBytes).toBe(64);
    expect(new Uint8Array(memory).every((byte) => byte === 5)).toBe(true);
  });

  it('of another length than its target is refused before a byte is written', () => {
    const target = new Uint8Array(32);
    const reader = new FrameReader({ accept: () => () => [target] });
    reader.push(encodeFrame(frame(FrameType.RESULT, fields, [new Uint8Array(48).fill(1)])));
    expect(() => reader.next()).toThrow(/32 bytes for 48/);
    expect(target.every((byte) => byte === 0)).toBe(true);
  });

  it('may be thrown away as it comes', () => {
    const stream = [frame(FrameType.RESULT, fields, [new Uint8Array(1000).fill(1)]), frame(FrameType.PING)].map(
      encodeFrame,
    );
    const reader = new FrameReader({ accept: ({ type }) => (type === FrameType.RESULT ? 'drop' : undefined) });
    reader.push((stream[0] as Uint8Array).slice(0, 500));
    expect(reader.next()).toBeUndefined();
    expect(reader.bufferedBytes).toBe(0);
    reader.push(concatenate([(stream[0] as Uint8Array).slice(500), stream[1] as Uint8Array]));
    expect(readAll(reader).map(({ header }) => header.type)).toEqual([FrameType.RESULT, FrameType.PING]);
  });

  it('may have to wait, with all that is behind it, and is then asked for again', async () => {
    const gate = Promise.withResolvers<void>();
    let asked = 0;
    const reader = new FrameReader({ accept: () => (++asked === 1 ? gate.promise : undefined) });
    reader.push(
      concatenate([frame(FrameType.RESULT, fields, [new Uint8Array(16)]), frame(FrameType.PING)].map(encodeFrame)),
    );
    expect(reader.next()).toBeUndefined();
    expect(reader.next()).toBeUndefined();
    expect(asked).toBe(1);
    gate.resolve();
    await reader.held;
    expect(reader.held).toBeUndefined();
    expect(readAll(reader).map(({ header }) => header.type)).toEqual([FrameType.RESULT, FrameType.PING]);
    expect(asked).toBe(3);
  });
});

describe('a header is refused', () => {
  const good: FrameHeader = {
    type: FrameType.ATTEND,
    flags: 0,
    id: 5,
    layer: 1,
    dtype: 'f32',
    rows: 3,
    payloadBytes: 12,
    aux: 0,
  };
  const cases: [string, Partial<Record<keyof FrameHeader, unknown>>, string][] = [
    ['unknown type', { type: 0x7f }, 'UNKNOWN_FRAME'],
    ['unknown flags', { flags: 0x8000 }, 'BAD_HEADER'],
    ['flags of another type', { flags: 1 }, 'BAD_HEADER'],
    ['no dtype', { dtype: 'none' }, 'BAD_HEADER'],
    ['no rows', { rows: 0 }, 'BAD_HEADER'],
    ['too many rows', { rows: MAX_ROWS + 1 }, 'BAD_HEADER'],
    ['layer over the cap', { layer: MAX_LAYERS }, 'BAD_HEADER'],
    ['payload over the cap', { payloadBytes: MAX_PAYLOAD_BYTES + 1 }, 'BAD_HEADER'],
    ['aux where there is none', { aux: 1 }, 'BAD_HEADER'],
    ['a payload in a PING', { type: FrameType.PING, layer: 0, dtype: 'none', rows: 0 }, 'BAD_HEADER'],
    ['an id in a HELLO', { type: FrameType.HELLO, layer: 0, dtype: 'none', rows: 0 }, 'BAD_HEADER'],
    [
      'JSON over the cap',
      { type: FrameType.STATS, layer: 0, dtype: 'none', rows: 0, payloadBytes: MAX_CONTROL_BYTES + 1 },
      'BAD_HEADER',
    ],
    ['half a STEP entry', { type: FrameType.STEP, layer: 0, dtype: 'none', payloadBytes: 24 }, 'BAD_HEADER'],
    [
      'records that are not rows',
      { type: FrameType.OPEN, id: 0, layer: 0, dtype: 'none', payloadBytes: 32 },
      'BAD_HEADER',
    ],
  ];
  it.each(cases)('%s', (_name, change, code) => {
    expect(() => checkHeader(good)).not.toThrow();
    const header = { ...good, ...change } as FrameHeader;
    expect(() => checkHeader(header)).toThrow(expect.objectContaining({ code }));
    expect(() => decodeHeader(encodeHeader(header))).toThrow(expect.objectContaining({ code }));
  });

  const bytesCases: [string, number, number, string][] = [
    ['wrong magic', 0, 0x47, 'BAD_MAGIC'],
    ['wrong version', 4, 2, 'WRONG_VERSION'],
    ['id above 2^53', 14, 0x20, 'BAD_HEADER'],
    ['unknown dtype code', 18, HEADER_DTYPES.length, 'BAD_HEADER'],
    ['reserved byte', 19, 1, 'BAD_HEADER'],
  ];
  it.each(bytesCases)('%s', (_name, at, value, code) => {
    const bytes = encodeHeader(good);
    bytes[at] = value;
    expect(() => decodeHeader(bytes)).toThrow(expect.objectContaining({ code }));
  });

  it('when padding is not zero', () => {
    const bytes = encodeFrame(frame(FrameType.STATS, {}, [new TextEncoder().encode('{}')]));
    bytes[bytes.length - 1] = 1;
    const reader = new FrameReader();
    reader.push(bytes);
    expect(reader.next()?.header.type).toBe(FrameType.STATS);
    expect(() => reader.next()).toThrow(expect.objectContaining({ code: 'BAD_PADDING' }));
    expect(() => reader.next()).toThrow(ProtocolError); // and stays so
  });

  it('before its payload is allocated', () => {
    let asked = 0;
    const reader = new FrameReader({
      accept: () => {
        throw new ProtocolError('NO', 'refused');
      },
      allocate: (bytes) => {
        asked += bytes;
        return new Uint8Array(bytes);
      },
    });
    reader.push(encodeHeader({ ...good, payloadBytes: MAX_PAYLOAD_BYTES }));
    expect(() => reader.next()).toThrow(/refused/);
    expect(asked).toBe(0);
  });
});

it('the magic is no ASCII', () => {
  expect(MAGIC & 0xff).toBeGreaterThan(0x7f);
});

it('small parts are joined, long ones passed on, the order kept', () => {
  fc.assert(
    fc.property(
      fc.array(fc.uint8Array({ maxLength: 50 }), { minLength: 1 }),
      fc.integer({ min: 1, max: 64 }),
      (parts, limit) => {
        const joined = joinSmall(parts, limit);
        expect(concatenate(joined)).toEqual(concatenate(parts));
        for (const part of joined) if (part.length > limit) expect(parts).toContain(part);
      },
    ),
  );
});
