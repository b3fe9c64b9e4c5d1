/**
 * Hostile bytes: 100,000 mutated streams through the reader and every decoder. Each ends in frames or in a ProtocolError; none
 * crashes, hangs, or makes the reader ask for more than the cap.
 */
import { type AttentionGeometry, ProtocolError } from '@glinthawk/core';
import { expect, it } from 'vitest';
import { attendFrame, resultFrame } from './attend-frames.ts';
import { authFrame, decodeAuth, randomNonce } from './auth.ts';
import { byeFrame, decodeReason, decodeStats, drainFrame, pingFrame, statsFrame } from './control.ts';
import { decodeError, errorFrame } from './error-frame.ts';
import { encodeFrame, type Frame } from './frame.ts';
import { FrameReader } from './frame-reader.ts';
import { FrameType } from './frame-type.ts';
import { decodeHello, decodeWelcome, helloFrame, welcomeFrame } from './hello.ts';
import { MAX_PAYLOAD_BYTES } from './limits.ts';
import { decodeFork, decodeFree, decodeOpen, forkFrame, freeFrame, openFrame } from './slot-frames.ts';
import { decodeStep, retireFrame, stepFrame } from './step-frames.ts';

const MUTATIONS = 100_000;
const geometry: AttentionGeometry = {
  layers: 2,
  kvHeads: 1,
  groupSize: 2,
  headDim: 4,
  softmaxScale: 0.5,
  windows: [0, 16],
  maxContextTokens: 64,
};
const slot = { index: 3, generation: 4 };
const limits = { maxSlots: 8, maxSteps: 8, maxStepRows: 8 };

const seeds = [
  helloFrame({
    protocolVersion: 2,
    clientId: 'x',
    nonce: randomNonce(),
    fingerprint: 'f',
    geometry,
    kvDtype: 'f16',
    wireDtype: 'f32',
  }),
  welcomeFrame({
    protocolVersion: 2,
    node: 'n',
    wireDtype: 'f32',
    blockTokens: 16,
    blockBytes: 4096,
    shardBlocks: [10, 10],
    workers: 2,
    limits,
    proof: randomNonce(),
  }),
  authFrame({ kind: 'challenge', nonce: randomNonce() }),
  errorFrame({ code: 'C', kind: 'capacity', message: 'm', hint: 'h' }, { id: 1, layer: 1 }),
  pingFrame(1),
  statsFrame(1, {
    usedBlocks: 1,
    openSlots: 1,
    busyMs: 1,
    allocatedBytes: 1,
    kvBytesRead: 1,
    appendedTokens: 1,
    forkedTokens: 1,
    pendingAttends: 1,
    tensorBytesReceived: 1,
    bytesCopied: 1,
    tensorBytesSent: 1,
  }),
  drainFrame('r'),
  byeFrame('r'),
  openFrame([{ slot, shard: 0 }]),
  freeFrame([slot]),
  forkFrame([{ parent: slot, child: { index: 4, generation: 1 }, tokens: 3 }]),
  stepFrame({
    id: 1,
    entries: [
      { slot, position: 0, count: 2 },
      { slot, position: 9, count: 1, visit: true },
    ],
  }),
  attendFrame({ id: 1, layer: 0, rows: 2, dtype: 'f32', wantsLogSumExp: true }, new Uint8Array(128)),
  attendFrame({ id: 1, layer: 0, rows: 2, dtype: 'int8', wantsLogSumExp: false }, new Uint8Array(64)),
  resultFrame({ id: 1, layer: 0, rows: 2, dtype: 'f32', busyMicros: 9 }, new Uint8Array(64), new Uint8Array(16)),
  retireFrame(1),
].map(encodeFrame);

function decode(frame: Frame): unknown {
  switch (frame.header.type) {
    case FrameType.HELLO:
      return decodeHello(frame.payload);
    case FrameType.WELCOME:
      return decodeWelcome(frame.payload);
    case FrameType.AUTH:
      return decodeAuth(frame.payload);
    case FrameType.ERROR:
      return decodeError(frame.payload);
    case FrameType.STATS:
      return decodeStats(frame.payload);
    case FrameType.DRAIN:
      return decodeReason('DRAIN', frame.payload);
    case FrameType.BYE:
      return decodeReason('BYE', frame.payload);
    case FrameType.OPEN:
      return decodeOpen(frame);
    case FrameType.FREE:
      return decodeFree(frame);
    case FrameType.FORK:
      return decodeFork(frame);
    case FrameType.STEP:
      return decodeStep(frame);
    case FrameType.PING:
    case FrameType.PONG:
    case FrameType.RETIRE:
    case FrameType.ATTEND:
    case FrameType.RESULT:
      return undefined;
    default:
      return frame.header.type satisfies never;
  }
}

/** xorshift32: the same mutations every time. */
function generator(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

const interesting = [0, 1, 0x7f, 0x80, 0xff];

it(`${MUTATIONS.toLocaleString('en')} mutated frames: no crash, no hang, no allocation beyond the cap`, () => {
  const random = generator(0x9e3779b9);
  let decoded = 0;
  let refused = 0;
  for (let i = 0; i < MUTATIONS; i++) {
    const seed = seeds[i % seeds.length] as Uint8Array;
    const bytes = new Uint8Array(seed);
    // A third of all streams are hurt in the header, where the lengths are; the others pass it and reach the decoders.
    const inHeader = bytes.length === 32 || random(3) === 0;
    for (let n = random(4); n >= 0; n--) {
      const at = inHeader ? random(32) : 32 + random(bytes.length - 32);
      bytes[at] = random(3) === 0 ? (interesting[random(interesting.length)] as number) : random(256);
    }
    const end = random(8) === 0 ? random(bytes.length + 1) : bytes.length;
    let largest = 0;
    const reader = new FrameReader({
      allocate: (size) => {
        largest = Math.max(largest, size);
        return new Uint8Array(Math.min(size, 4096)); // the claim counts; filling it would only take long
      },
    });
    const cut = random(end + 1);
    try {
      for (const chunk of [bytes.subarray(0, cut), bytes.subarray(cut, end)]) {
        reader.push(chunk);
        for (let frame = reader.next(); frame !== undefined; frame = reader.next()) {
          decode(frame);
          decoded++;
        }
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      refused++;
    }
    expect(largest).toBeLessThanOrEqual(MAX_PAYLOAD_BYTES);
    expect(reader.bufferedBytes).toBeLessThanOrEqual(seed.length);
  }
  // Both must happen often, or the mutations test nothing.
  expect(decoded).toBeGreaterThan(MUTATIONS / 10);
  expect(refused).toBeGreaterThan(MUTATIONS / 4);
});
