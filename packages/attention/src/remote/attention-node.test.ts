/** A node facing an engine that doesn't keep to the protocol: it says what was wrong, drops it, and serves the next. */
import { type AttentionGeometry, qkvRowFloats } from '@glinthawk/core';
import {
  attendFrame,
  authFrame,
  byeFrame,
  Connection,
  decodeError,
  decodeWelcome,
  drainFrame,
  type ErrorMessage,
  encodeFrame,
  type ForkRecord,
  FrameType,
  forkFrame,
  frame,
  freeFrame,
  type Hello,
  helloFrame,
  memoryTransportPair,
  type OutgoingFrame,
  openFrame,
  outputBytes,
  pingFrame,
  qkvBytes,
  randomNonce,
  resultFrame,
  retireFrame,
  statsFrame,
  stepFrame,
} from '@glinthawk/wire';
import { afterEach, describe, expect, it } from 'vitest';
import { AttentionNode, type AttentionNodeOptions } from './attention-node.ts';
import { NaiveBackend } from './naive-backend.fixture.ts';

const geometry: AttentionGeometry = {
  layers: 2,
  kvHeads: 1,
  groupSize: 2,
  headDim: 4,
  softmaxScale: 0.5,
  windows: [0, 0],
  maxContextTokens: 64,
};
const hello: Hello = {
  protocolVersion: 2,
  clientId: 'raw',
  nonce: randomNonce(),
  fingerprint: 'm',
  geometry,
  kvDtype: 'f32',
  wireDtype: 'f32',
};
const slot = { index: 0, generation: 1 };
const entries = [{ slot, position: 0, count: 2 }];
const qkv = new Uint8Array(2 * qkvRowFloats(geometry) * 4);

const nodes: AttentionNode[] = [];
afterEach(async () => {
  for (const node of nodes.splice(0)) {
    await node.close();
    expect(node.stats()).toMatchObject({ connections: 0, session: null, allocatedBytes: 0 });
  }
});

function makeNode(options: Partial<AttentionNodeOptions> = {}): AttentionNode {
  const createBackend: AttentionNodeOptions['createBackend'] = async (shape, { kvDtype, rowDtype }) =>
    new NaiveBackend(shape, kvDtype, { shards: 2, rowDtype });
  const node = new AttentionNode({ createBackend, ...options });
  nodes.push(node);
  return node;
}

function dial(node: AttentionNode): Connection {
  const [ours, theirs] = memoryTransportPair();
  node.accept(theirs);
  const connection = new Connection(ours);
  connection.acceptAll(() => undefined);
  return connection;
}

async function welcomed(node: AttentionNode): Promise<Connection> {
  const connection = dial(node);
  connection.send(helloFrame(hello));
  const reply = await connection.receive();
  expect(decodeWelcome(reply.payload)).toMatchObject({ shardBlocks: [64, 64], proof: null });
  return connection;
}

/** What the node says of `frames`; the connection must be over after that. */
async function refusal(connection: Connection, ...frames: OutgoingFrame[]): Promise<ErrorMessage> {
  for (const one of frames) connection.send(one);
  for (;;) {
    const { header, payload } = await connection.receive();
    if (header.type !== FrameType.ERROR) continue;
    await expect(connection.receive()).rejects.toMatchObject({ code: 'CONNECTION_CLOSED' });
    await connection.close();
    return decodeError(payload);
  }
}

describe('before the session', () => {
  it.each<[string, OutgoingFrame, string]>([
    ['another protocol version', helloFrame({ ...hello, protocolVersion: 1 }), 'WRONG_VERSION'],
    ['something else than HELLO', statsFrame(1), 'UNEXPECTED_FRAME'],
    ['no JSON', frame(FrameType.HELLO, {}, [new Uint8Array(10)]), 'BAD_JSON'],
    ['a step at once', stepFrame({ id: 1, entries }), 'UNEXPECTED_FRAME'],
    [
      'a long frame',
      attendFrame({ id: 1, layer: 0, rows: 1, dtype: 'f32', wantsLogSumExp: false }, new Uint8Array(70_000)),
      'FRAME_TOO_LONG',
    ],
  ])('%s', async (_name, outgoing, code) => {
    expect(await refusal(dial(makeNode()), outgoing)).toMatchObject({ code, kind: 'protocol' });
  });

  it('another frame version', async () => {
    const node = makeNode();
    const [ours, theirs] = memoryTransportPair();
    node.accept(theirs);
    const bytes = encodeFrame(helloFrame(hello));
    bytes[4] = 2;
    await ours.send([bytes]);
    expect(await refusal(new Connection(ours))).toMatchObject({ code: 'WRONG_VERSION', message: /version 2/ });
  });

  it('a proof of nothing', async () => {
    const node = makeNode({ token: 'secret' });
    const connection = dial(node);
    const proof = authFrame({ kind: 'proof', proof: new Uint8Array(32) });
    expect(await refusal(connection, helloFrame(hello), proof)).toMatchObject({ code: 'WRONG_TOKEN' });
    expect(await refusal(dial(node), proof)).toMatchObject({ code: 'UNEXPECTED_FRAME' });
  });

  it('a replayed proof', async () => {
    const { authProof, decodeAuth } = await import('@glinthawk/wire');
    const node = makeNode({ token: 'secret' });
    const greeting = helloFrame(hello);
    const first = dial(node);
    first.send(greeting);
    const challenge = decodeAuth((await first.receive()).payload);
    if (challenge.kind !== 'challenge') throw new Error('no challenge');
    const proof = authProof('secret', 'engine', greeting.sections[0] as Uint8Array, challenge.nonce);
    const answer = authFrame({ kind: 'proof', proof });
    first.send(answer);
    expect((await first.receive()).header.type).toBe(FrameType.WELCOME);
    await first.close();
    expect(await refusal(dial(node), greeting, answer)).toMatchObject({ code: 'WRONG_TOKEN' });
  });

  it('silence', async () => {
    const node = makeNode({ handshakeTimeoutMs: 20 });
    expect(await refusal(dial(node))).toMatchObject({ code: 'HANDSHAKE_TIMEOUT' });
  });

  it('a crowd', async () => {
    const node = makeNode();
    const waiting = Array.from({ length: 32 }, () => dial(node));
    const engine = await welcomed(node);
    const [oldest] = waiting as [Connection];
    expect(await refusal(oldest)).toMatchObject({ code: 'TOO_MANY_CONNECTIONS', kind: 'lost' });
    await engine.close();
    await Promise.all(waiting.map((connection) => connection.close()));
    await expect.poll(() => node.stats().connections).toBe(0);
    await (await welcomed(node)).close();
  });
});

describe('in the session', () => {
  const attend = (change: Partial<Parameters<typeof attendFrame>[0]> = {}, section = qkv) =>
    attendFrame({ id: 1, layer: 0, rows: 2, dtype: 'f32', wantsLogSumExp: false, ...change }, section);
  const open = openFrame([{ slot, shard: 0 }]);
  const step = stepFrame({ id: 1, entries });
  const half = qkv.subarray(qkv.length / 2);
  const child = { index: 1, generation: 1 };
  const fork = (change: Partial<ForkRecord> = {}) => forkFrame([{ parent: slot, child, tokens: 0, ...change }]);

  it.each<[string, OutgoingFrame[], string]>([
    ['ATTEND of an unknown step', [open, step, attend({ id: 2 })], 'UNKNOWN_STEP'],
    ['ATTEND of a retired step', [open, step, retireFrame(1), attend()], 'UNKNOWN_STEP'],
    ['ATTEND with other rows', [open, step, attend({ rows: 1 }, half)], 'ROWS_MISMATCH'],
    ['ATTEND of a layer beyond', [open, step, attend({ layer: 2 })], 'BAD_LAYER'],
    ['ATTEND in another dtype', [open, step, attend({ dtype: 'f16' }, half)], 'BAD_DTYPE'],
    ['ATTEND of another length', [open, step, attend({}, half)], 'BAD_LENGTH'],
    ['ATTEND twice at once', [open, step, attend(), attend()], 'ATTEND_PENDING'],
    ['ATTEND of another layer meanwhile', [open, step, attend(), attend({ layer: 1 })], 'ATTEND_PENDING'],
    ['STEP again while its RESULT is to come', [open, step, attend(), retireFrame(1), step], 'STEP_EXISTS'],
    ['STEP of an unknown slot', [step], 'UNKNOWN_SLOT'],
    ['STEP of a freed slot', [open, freeFrame([slot]), step], 'UNKNOWN_SLOT'],
    [
      'STEP of an old generation',
      [open, stepFrame({ id: 1, entries: [{ slot: { index: 0, generation: 0 }, position: 0, count: 1 }] })],
      'WRONG_GENERATION',
    ],
    ['STEP beyond the context', [open, stepFrame({ id: 1, entries: [{ slot, position: 60, count: 5 }] })], 'BAD_STEP'],
    ['STEP twice', [open, step, step], 'STEP_EXISTS'],
    ['OPEN twice', [open, openFrame([{ slot: { index: 0, generation: 2 }, shard: 0 }])], 'SLOT_IN_USE'],
    ['OPEN in an old generation', [open, freeFrame([slot]), open], 'WRONG_GENERATION'],
    ['OPEN on a shard beyond', [openFrame([{ slot, shard: 2 }])], 'BAD_SHARD'],
    ['FORK of an unknown slot', [fork()], 'UNKNOWN_SLOT'],
    ['FORK of an old generation', [open, fork({ parent: { index: 0, generation: 0 } })], 'WRONG_GENERATION'],
    ['FORK to a slot that is open', [open, fork({ child: { index: 0, generation: 2 } })], 'SLOT_IN_USE'],
    ['FORK to an old generation', [open, fork(), freeFrame([child]), fork()], 'WRONG_GENERATION'],
    ['FORK of more than the context', [open, fork({ tokens: 65 })], 'BAD_FIELD'],
    [
      'RESULT',
      [resultFrame({ id: 1, layer: 0, rows: 1, dtype: 'f32', busyMicros: 0 }, new Uint8Array(32))],
      'UNEXPECTED_FRAME',
    ],
    ['HELLO again', [helloFrame(hello)], 'UNEXPECTED_FRAME'],
    ['DRAIN', [drainFrame('x')], 'UNEXPECTED_FRAME'],
  ])('%s', async (_name, frames, code) => {
    const node = makeNode();
    expect(await refusal(await welcomed(node), ...frames)).toMatchObject({ code, kind: 'protocol' });
    await (await welcomed(node)).end(byeFrame('it still serves'));
  });

  it('too many steps, or rows', async () => {
    const node = makeNode({ limits: { maxSteps: 2, maxStepRows: 10, maxSlots: 4 } });
    const one = (id: number) => stepFrame({ id, entries: [{ slot, position: 0, count: 1 }] });
    expect(await refusal(await welcomed(node), open, one(1), one(2), one(3))).toMatchObject({ code: 'TOO_MANY_STEPS' });
    const long = stepFrame({ id: 1, entries: [{ slot, position: 0, count: 11 }] });
    expect(await refusal(await welcomed(node), open, long)).toMatchObject({ code: 'TOO_MANY_ROWS' });
    const far = openFrame([{ slot: { index: 4, generation: 1 }, shard: 0 }]);
    expect(await refusal(await welcomed(node), far)).toMatchObject({ code: 'BAD_SLOT' });
  });
});

it('WELCOME grants no more than the backend has room for', async () => {
  const limits = { maxSlots: 5, maxSteps: 7, maxStepRows: 9 };
  const node = makeNode({
    limits: { maxSteps: 3 },
    createBackend: async (shape, { kvDtype }) => Object.assign(new NaiveBackend(shape, kvDtype), { limits }),
  });
  const connection = dial(node);
  connection.send(helloFrame(hello));
  expect(decodeWelcome((await connection.receive()).payload).limits).toEqual({ ...limits, maxSteps: 3 });
  await connection.close();
});

it('a backend that fails to close leaves the place free for the next engine', async () => {
  const node = makeNode({
    createBackend: async (shape, { kvDtype }) =>
      Object.assign(new NaiveBackend(shape, kvDtype, { shards: 2 }), {
        close: () => Promise.reject(new Error('it did not stop')),
      }),
  });
  for (let i = 0; i < 2; i++) {
    await (await welcomed(node)).end(byeFrame('done'));
    await expect.poll(() => node.stats().session).toBe(null);
  }
});

/** xorshift32 */
function generator(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

it.each(['f32', 'f16', 'int8'] as const)(
  '400 sessions with mutated frames (rows of %s): each ends, and the node still serves',
  async (dtype) => {
    const random = generator(12345);
    const node = makeNode({ handshakeTimeoutMs: 1_000 });
    const rows = new Uint8Array(qkvBytes(geometry, 2, dtype)).fill(1);
    const attend = (layer: number, wantsLogSumExp = false) =>
      attendFrame({ id: 1, layer, rows: 2, dtype, wantsLogSumExp }, rows);
    const child = { index: 1, generation: 1 };
    const good = [
      openFrame([{ slot, shard: 0 }]),
      stepFrame({ id: 1, entries }),
      attend(0),
      pingFrame(1),
      forkFrame([{ parent: slot, child, tokens: 1 }]),
      statsFrame(2),
      attend(1, true),
      retireFrame(1),
      stepFrame({
        id: 1,
        entries: [
          { slot, position: 2, count: 1, visit: true },
          { slot: child, position: 1, count: 1 },
        ],
      }),
      attend(0, true),
      resultFrame({ id: 1, layer: 0, rows: 2, dtype, busyMicros: 0 }, new Uint8Array(outputBytes(geometry, 2, dtype))),
      retireFrame(1),
      freeFrame([slot, child]),
      byeFrame('done'),
    ].map(encodeFrame);
    const greeting = encodeFrame(helloFrame({ ...hello, wireDtype: dtype }));
    for (let i = 0; i < 400; i++) {
      const [ours, theirs] = memoryTransportPair();
      node.accept(theirs);
      const reading = (async () => {
        for await (const _chunk of ours);
      })();
      const parts = good.filter(() => random(6) > 0).map((bytes) => new Uint8Array(bytes));
      for (let n = random(3); n >= 0; n--) {
        const part = parts[random(parts.length)];
        if (part !== undefined) part[random(part.length)] = random(256);
      }
      await ours.send([greeting, ...parts]);
      await ours.close();
      await reading;
      while (node.stats().connections > 0) await new Promise((resolve) => setImmediate(resolve));
    }
    expect(node.stats()).toMatchObject({ session: null, allocatedBytes: 0 });
    await (await welcomed(node)).close();
  },
);
