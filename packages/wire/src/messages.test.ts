/** Every message family: encode and decode are inverse, and each frame in docs/protocol.md is one of ours, byte for byte. */
import { readFileSync } from 'node:fs';
import {
  type AttentionGeometry,
  CapacityError,
  encodeRows,
  GlinthawkError,
  type KvDtype,
  NodeLostError,
  ProtocolError,
} from '@glinthawk/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { attendFrame, qkvBytes, resultFrame, resultLayout } from './attend-frames.ts';
import { authFrame, authProof, decodeAuth, equalBytes, randomNonce } from './auth.ts';
import {
  byeFrame,
  decodeReason,
  decodeStats,
  drainFrame,
  type NodeStats,
  pingFrame,
  pongFrame,
  statsFrame,
} from './control.ts';
import { decodeError, errorFrame, fromErrorMessage, toErrorMessage } from './error-frame.ts';
import { encodeFrame, type Frame, type OutgoingFrame } from './frame.ts';
import { FrameReader } from './frame-reader.ts';
import { type FrameName, FrameType } from './frame-type.ts';
import {
  checkPromise,
  decodeHello,
  decodeWelcome,
  type Hello,
  helloFrame,
  maxRowsPerFrame,
  type Welcome,
  welcomeFrame,
} from './hello.ts';
import { bytesToHex, encodeJson, hexToBytes } from './json-payload.ts';
import { MAX_CONTROL_BYTES, MAX_SLOTS } from './limits.ts';
import { checkListenAllowed, isLoopback } from './listen-policy.ts';
import { bytesOf, decodeFork, decodeFree, decodeOpen, forkFrame, freeFrame, openFrame } from './slot-frames.ts';
import { decodeStep, retireFrame, stepFrame } from './step-frames.ts';

function received(outgoing: OutgoingFrame): Frame {
  const reader = new FrameReader();
  reader.push(encodeFrame(outgoing));
  return reader.next() as Frame;
}

const geometry: AttentionGeometry = {
  layers: 2,
  kvHeads: 1,
  groupSize: 2,
  headDim: 2,
  softmaxScale: 0.5,
  windows: [0, 4096],
  maxContextTokens: 8192,
};

const hello: Hello = {
  protocolVersion: 2,
  clientId: '7a9d',
  nonce: new Uint8Array(32).map((_, i) => i),
  fingerprint: 'sha256:0123',
  geometry,
  kvDtype: 'f16',
  wireDtype: 'f32',
};

const welcome: Welcome = {
  protocolVersion: 2,
  node: 'attention',
  wireDtype: 'f32',
  blockTokens: 32,
  blockBytes: 1024,
  shardBlocks: [4000, 4000],
  workers: 16,
  limits: { maxSlots: 1048576, maxSteps: 256, maxStepRows: 65536 },
  proof: null,
};

const stats: NodeStats = {
  usedBlocks: 2,
  openSlots: 2,
  busyMs: 12.5,
  allocatedBytes: 131072000,
  kvBytesRead: 1e12,
  appendedTokens: 40,
  forkedTokens: 64,
  pendingAttends: 1,
  tensorBytesReceived: 4096,
  bytesCopied: 4096,
  tensorBytesSent: 2048,
};

const slot = (index: number, generation: number) => ({ index, generation });
const nodeNonce = new Uint8Array(32).map((_, i) => 0xff - i);
const token = 'correct horse battery';
const helloPayload = helloFrame(hello).sections[0] as Uint8Array;

describe('messages survive the way', () => {
  it('HELLO and WELCOME', () => {
    expect(decodeHello(received(helloFrame(hello)).payload)).toEqual(hello);
    expect(decodeWelcome(received(welcomeFrame(welcome)).payload)).toEqual(welcome);
    const proven = { ...welcome, proof: randomNonce() };
    expect(decodeWelcome(received(welcomeFrame(proven)).payload)).toEqual(proven);
  });

  it('a WELCOME that promises what no node has is refused', () => {
    const { layers, kvHeads, headDim } = geometry;
    const promised = (change: Partial<Welcome>, kvDtype: KvDtype = 'f16') => {
      const bare = { blockTokens: 16, blockBytes: 16 * (layers / 2) * kvHeads * headDim * 4, shardBlocks: [64, 0] };
      return () => checkPromise({ ...welcome, ...bare, ...change }, { geometry, kvDtype });
    };
    expect(promised({})).not.toThrow();
    expect(promised({}, 'f32')).toThrow(/WELCOME: a KV block of 16 tokens takes/);
    expect(promised({ blockBytes: 2 ** 53 - 1 })).toThrow(/a KV block of/);
    expect(promised({ shardBlocks: [64, 2 ** 32 - 1] })).toThrow(/a shard of 4294967295 blocks/);
    expect(promised({ shardBlocks: [] })).not.toThrow();
    // Layers with a window and layers without are in groups, each with blocks of its own.
    expect(promised({ blockBytes: 16 * layers * kvHeads * headDim * 2 * 8 + 1 })).toThrow(/takes 128 to 1024 bytes/);
  });

  it('HELLO of the deepest model that the caps allow', () => {
    const windows = new Array<number>(4096).fill(131072);
    const deep = { ...hello, geometry: { ...geometry, layers: 4096, windows } };
    expect(decodeHello(received(helloFrame(deep)).payload)).toEqual(deep);
  });

  it('OPEN, FREE, FORK, STEP', () => {
    const anySlot = fc.record({ index: fc.nat(MAX_SLOTS - 1), generation: fc.nat(2 ** 32 - 1) });
    const shard = fc.nat(1023);
    const many = <T>(one: fc.Arbitrary<T>) => fc.array(one, { minLength: 1, maxLength: 30 });
    fc.assert(
      fc.property(
        many(fc.record({ slot: anySlot, shard })),
        many(fc.record({ parent: anySlot, child: anySlot, tokens: fc.nat(2 ** 30) })),
        many(
          fc.record(
            {
              slot: anySlot,
              position: fc.nat(2 ** 20),
              count: fc.integer({ min: 1, max: 2000 }),
              visit: fc.constant(true),
            },
            { requiredKeys: ['slot', 'position', 'count'] },
          ),
        ),
        fc.maxSafeNat(),
        (opens, forks, entries, id) => {
          expect(decodeOpen(received(openFrame(opens)))).toEqual(opens);
          expect(decodeFree(received(freeFrame(opens.map((open) => open.slot))))).toEqual(
            opens.map((open) => open.slot),
          );
          expect(decodeFork(received(forkFrame(forks)))).toEqual(forks);
          expect(decodeStep(received(stepFrame({ id, entries })))).toEqual({ id, entries });
        },
      ),
    );
  });

  it('STATS, DRAIN, BYE', () => {
    expect(decodeStats(received(statsFrame(4, stats)).payload)).toEqual(stats);
    expect(decodeReason('DRAIN', received(drainFrame('soon')).payload)).toBe('soon');
    expect(decodeReason('BYE', received(byeFrame('done')).payload)).toBe('done');
  });

  it('errors keep their class, code and hint', () => {
    const error = new CapacityError('KV_FULL', 'no block', { hint: 'free some' });
    const there = fromErrorMessage(decodeError(received(errorFrame(toErrorMessage(error))).payload), 'tcp://n:1');
    expect(there).toBeInstanceOf(CapacityError);
    expect(there).toMatchObject({ code: 'KV_FULL', hint: 'free some', message: 'tcp://n:1: no block' });
    expect(fromErrorMessage(toErrorMessage(new NodeLostError('w', 'died')), 'n')).toBeInstanceOf(NodeLostError);
    const bug = fromErrorMessage(toErrorMessage(new TypeError('x is not a function')), 'n');
    expect(bug).toBeInstanceOf(GlinthawkError);
    expect(bug.code).toBe('INTERNAL');
    expect(toErrorMessage(new Error('x'.repeat(1e6))).message.length).toBeLessThanOrEqual(4096);
  });

  it('rows of int8 lie with their scales', () => {
    expect(qkvBytes(geometry, 3, 'int8')).toBe(3 * (8 + 4 * 4));
    expect(resultLayout(geometry, 3, 'int8', true)).toEqual({ outputBytes: 36, logSumExpOffset: 48, payloadBytes: 72 });
  });

  it('RESULT has the log-sum-exp on a 16-byte boundary', () => {
    const layout = resultLayout(geometry, 3, 'f16', true); // o: 3 · 4 halves = 24 bytes
    expect(layout).toEqual({ outputBytes: 24, logSumExpOffset: 32, payloadBytes: 32 + 3 * 2 * 4 });
    const fields = { id: 1, layer: 0, rows: 3, dtype: 'f16' as const, busyMicros: 7 };
    const { header, payload } = received(resultFrame(fields, new Uint8Array(24).fill(1), new Uint8Array(24).fill(2)));
    expect(header).toMatchObject({ payloadBytes: layout.payloadBytes, aux: 7 });
    expect(payload[32]).toBe(2);
  });
});

describe('a message is refused', () => {
  const json = (change: object) =>
    encodeJson('HELLO', { ...JSON.parse(new TextDecoder().decode(helloPayload)), ...change });
  it.each([
    ['another protocol version', { protocolVersion: 1 }, 'WRONG_VERSION'],
    ['a short nonce', { nonce: '00' }, 'BAD_FIELD'],
    ['an unknown KV dtype', { kvDtype: 'f64' }, 'BAD_FIELD'],
    ['bf16 on the wire', { wireDtype: 'bf16' }, 'BAD_FIELD'],
    ['an odd head_dim', { geometry: { ...geometry, headDim: 3 } }, 'BAD_FIELD'],
    ['no geometry', { geometry: null }, 'BAD_FIELD'],
    ['too few windows', { geometry: { ...geometry, windows: [0] } }, 'BAD_FIELD'],
    ['a million layers', { geometry: { ...geometry, layers: 1e6 } }, 'BAD_FIELD'],
    ['a fractional head', { geometry: { ...geometry, kvHeads: 1.5 } }, 'BAD_FIELD'],
    [
      'rows wider than a frame',
      { geometry: { ...geometry, kvHeads: 1024, groupSize: 1024, headDim: 1024 } },
      'BAD_FIELD',
    ],
    ['a scale that is no number', { geometry: { ...geometry, softmaxScale: '1' } }, 'BAD_FIELD'],
  ])('HELLO with %s', (_name, change, code) => {
    expect(() => decodeHello(json(change))).toThrow(expect.objectContaining({ code }));
  });

  it('that is no JSON, or no object, or no UTF-8', () => {
    for (const text of ['', '{', '[]', '3', 'null', `${'['.repeat(60_000)}`]) {
      expect(() => decodeHello(new TextEncoder().encode(text))).toThrow(expect.objectContaining({ code: 'BAD_JSON' }));
    }
    expect(() => decodeHello(new Uint8Array([0xff, 0xfe]))).toThrow(ProtocolError);
  });

  it('that is too long to send', () => {
    expect(() => byeFrame('x'.repeat(MAX_CONTROL_BYTES))).toThrow(/cap/);
  });

  it('STEP with an unknown flag', () => {
    const frame = received(stepFrame({ id: 1, entries: [{ slot: slot(0, 1), position: 0, count: 2 }] }));
    const payload = frame.payload.slice();
    payload[16] = 2;
    expect(() => decodeStep({ ...frame, payload })).toThrow(expect.objectContaining({ code: 'BAD_FIELD' }));
    payload[16] = 1;
    expect(decodeStep({ ...frame, payload }).entries[0]?.visit).toBe(true);
  });

  it('STATS with a count that is none', () => {
    expect(() => decodeStats(encodeJson('STATS', { ...stats, kvBytesRead: -1 }))).toThrow(/kvBytesRead/);
    expect(() => decodeStats(encodeJson('STATS', { ...stats, bytesCopied: undefined }))).toThrow(/bytesCopied/);
  });

  it('STEP whose rows are not its entries, or that has an empty one', () => {
    const frame = received(stepFrame({ id: 1, entries: [{ slot: slot(0, 1), position: 0, count: 2 }] }));
    expect(() => decodeStep({ ...frame, header: { ...frame.header, rows: 3 } })).toThrow(/2/);
    const empty = new Uint8Array(20);
    expect(() => decodeStep({ header: { ...frame.header, rows: 1 }, payload: empty })).toThrow(/without rows/);
  });
});

it('the rows of a frame fit its cap, both ways', () => {
  const dims = fc.integer({ min: 1, max: 256 });
  fc.assert(
    fc.property(dims, dims, dims, fc.constantFrom('f32', 'f16', 'int8'), (kvHeads, groupSize, headDim, dtype) => {
      const shape = { ...geometry, kvHeads, groupSize, headDim };
      const rows = maxRowsPerFrame(shape, dtype);
      if (rows === 0) return;
      expect(resultLayout(shape, rows, dtype, true).payloadBytes).toBeLessThanOrEqual(256 * 1024 * 1024);
    }),
  );
});

describe('the token', () => {
  it('is proven by what WebCrypto computes, which not every page has', async () => {
    const { subtle } = crypto;
    const key = await subtle.importKey('raw', Buffer.from(token), { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
    const hash = new Uint8Array(await subtle.digest('SHA-256', new Uint8Array(helloPayload)));
    const message = Buffer.concat([Buffer.from('glinthawk-auth-1 node\0'), hash, nodeNonce]);
    const expected = new Uint8Array(await subtle.sign('HMAC', key, message));
    expect(authProof(token, 'node', helloPayload, nodeNonce)).toEqual(expected);
  });

  it('is proven for one role, one HELLO and one nonce only', () => {
    const proof = authProof(token, 'engine', helloPayload, nodeNonce);
    expect(proof).toHaveLength(32);
    const others = [
      authProof('wrong', 'engine', helloPayload, nodeNonce),
      authProof(token, 'node', helloPayload, nodeNonce),
      authProof(token, 'engine', helloPayload.slice(1), nodeNonce),
      authProof(token, 'engine', helloPayload, randomNonce()),
    ];
    for (const other of others) expect(equalBytes(proof, other)).toBe(false);
    expect(equalBytes(proof, authProof(token, 'engine', helloPayload, nodeNonce))).toBe(true);
    expect(equalBytes(proof, proof.slice(1))).toBe(false);
    expect(decodeAuth(received(authFrame({ kind: 'proof', proof })).payload)).toEqual({ kind: 'proof', proof });
  });

  it('is required beyond this machine', () => {
    for (const host of ['127.0.0.1', '127.8.8.8', 'localhost', '::1', '[::1]']) {
      expect(isLoopback(host)).toBe(true);
      expect(() => checkListenAllowed({ host })).not.toThrow();
    }
    for (const host of ['0.0.0.0', '::', '', '10.0.0.1', 'example.org', '127.0.0.1.example.org']) {
      expect(isLoopback(host)).toBe(false);
      expect(() => checkListenAllowed({ host })).toThrow(expect.objectContaining({ code: 'LISTEN_WITHOUT_TOKEN' }));
      expect(() => checkListenAllowed({ host, token: 'short' })).toThrow(/5 characters/);
      expect(() => checkListenAllowed({ host, token: '0123456789abcdef' })).not.toThrow();
    }
    expect(() => checkListenAllowed({ host: '127.0.0.1', token: '' })).toThrow(/empty/);
  });
});

/** One frame of every type; docs/protocol.md shows each under the same name. */
function documented(): Record<
  FrameName | 'AUTH answer' | 'ERROR of one ATTEND' | 'STATS request' | 'ATTEND in int8',
  OutgoingFrame
> {
  const floats = (...values: number[]) => bytesOf(new Float32Array(values));
  const proof = authProof(token, 'engine', helloPayload, nodeNonce);
  const int8Row = new Uint8Array(qkvBytes(geometry, 1, 'int8'));
  encodeRows('int8', 4, 2, new Float32Array([127, -64, 2, 1, 0.5, -0.5, 0, 0]), int8Row);
  const full = { code: 'KV_FULL', kind: 'capacity', message: 'no KV block is free' } as const;
  return {
    HELLO: helloFrame(hello),
    AUTH: authFrame({ kind: 'challenge', nonce: nodeNonce }),
    'AUTH answer': authFrame({ kind: 'proof', proof }),
    WELCOME: welcomeFrame({ ...welcome, proof: authProof(token, 'node', helloPayload, nodeNonce) }),
    ERROR: errorFrame({ code: 'BUSY', kind: 'protocol', message: 'this node serves another engine' }),
    'ERROR of one ATTEND': errorFrame(full, { id: 7, layer: 1 }),
    PING: pingFrame(3),
    PONG: pongFrame(3),
    'STATS request': statsFrame(1),
    STATS: statsFrame(1, stats),
    DRAIN: drainFrame('maintenance'),
    BYE: byeFrame('done'),
    OPEN: openFrame([
      { slot: slot(0, 1), shard: 0 },
      { slot: slot(5, 2), shard: 1 },
    ]),
    FREE: freeFrame([slot(0, 1)]),
    FORK: forkFrame([{ parent: slot(5, 2), child: slot(6, 1), tokens: 64 }]),
    STEP: stepFrame({
      id: 7,
      entries: [
        { slot: slot(0, 1), position: 0, count: 2 },
        { slot: slot(5, 2), position: 99, count: 1, visit: true },
      ],
    }),
    ATTEND: attendFrame(
      { id: 7, layer: 1, rows: 1, dtype: 'f32', wantsLogSumExp: true },
      floats(1, 2, 3, 4, 5, 6, 7, 8),
    ),
    RESULT: resultFrame(
      { id: 7, layer: 1, rows: 1, dtype: 'f32', busyMicros: 250 },
      floats(0.5, -0.5, 0.25, -0.25),
      floats(1.5, -1.5),
    ),
    RETIRE: retireFrame(7),
    'ATTEND in int8': attendFrame({ id: 7, layer: 1, rows: 1, dtype: 'int8', wantsLogSumExp: false }, int8Row),
  };
}

describe('docs/protocol.md', async () => {
  const page = readFileSync(new URL('../../../docs/protocol.md', import.meta.url), 'utf8');
  const dumps = new Map<string, string>();
  for (const [, name, dump] of page.matchAll(/^#### (.+)\n(?:(?!^####)[\s\S])*?```hex\n([^`]*)```/gm)) {
    const bytes = (dump as string).split('\n').map((line) => line.slice(6, 6 + 48).replaceAll(' ', ''));
    dumps.set(name as string, bytes.join(''));
  }
  const frames = documented();

  it.each(Object.entries(frames))('shows %s as it is', (name, outgoing) => {
    const bytes = encodeFrame(outgoing);
    expect(dumps.get(name), `expected in docs/protocol.md:\n\n${hexDump(bytes)}\n`).toBe(bytesToHex(bytes));
    const reader = new FrameReader();
    reader.push(hexToBytes(dumps.get(name) as string));
    expect(reader.next()?.header).toEqual(outgoing.header);
  });

  it('shows every type of frame, and nothing else', () => {
    expect([...dumps.keys()].sort()).toEqual(Object.keys(frames).sort());
    for (const name of Object.keys(FrameType)) expect(dumps.has(name)).toBe(true);
  });
});

function hexDump(bytes: Uint8Array): string {
  const lines: string[] = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const line = [...bytes.subarray(at, at + 16)];
    const hex = line.map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
    const text = line.map((byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : '.')).join('');
    lines.push(`${at.toString(16).padStart(4, '0')}  ${hex.padEnd(47)}  ${text}`);
  }
  return lines.join('\n');
}
