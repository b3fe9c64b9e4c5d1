/** Where rows lie at a node: their one copy, that nothing is overwritten before it was sent, and what an engine may have under way. */
import { CapacityError, encodeRows, type RowDtype } from '@glinthawk/core';
import {
  attendFrame,
  Connection,
  decodeError,
  decodeWelcome,
  encodeFrame,
  type FrameHeader,
  FrameType,
  helloFrame,
  type MemoryFaults,
  memoryTransportPair,
  messagePortTransport,
  openFrame,
  type PortLike,
  PROTOCOL_VERSION,
  qkvBytes,
  randomNonce,
  retireFrame,
  stepFrame,
} from '@glinthawk/wire';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { AttentionNode } from './attention-node.ts';
import type { RemoteAttention } from './remote-attention.ts';
import {
  compare,
  createNaive,
  geometry,
  hello,
  makeNode,
  memorySource,
  outputFloats,
  qkvFloats,
  random,
  session,
  settled,
} from './remote-rig.fixture.ts';
import { remoteSource } from './remote-source.node.ts';
import { messagePortSource, type RemoteSource } from './remote-source.ts';
import { serveAttention } from './serve.node.ts';

const slot = { index: 0, generation: 1 };
const rowFloats = random(qkvFloats);

function row(dtype: RowDtype = 'f32'): Uint8Array {
  const bytes = new Uint8Array(qkvBytes(geometry, 1, dtype));
  encodeRows(dtype, geometry.kvHeads * (geometry.groupSize + 2), geometry.headDim, rowFloats, bytes);
  return bytes;
}

const step = (id: number) => stepFrame({ id, entries: [{ slot, position: 0, count: 1 }] });
const attend = (id: number, layer = 0, rows = row()) =>
  attendFrame({ id, layer, rows: 1, dtype: 'f32', wantsLogSumExp: false }, rows);

/** An engine that says what it likes. What the node sends arrives, but has not been sent as far as it knows, until `told` is resolved. */
async function raw(node: AttentionNode, shape = geometry) {
  const [ours, theirs] = memoryTransportPair();
  const told = Promise.withResolvers<void>();
  let isWelcomed = false;
  const send = theirs.send.bind(theirs);
  theirs.send = async (parts) => {
    await send(parts);
    if (isWelcomed) await Promise.race([told.promise, theirs.closed]);
  };
  void node.accept(theirs);
  const connection = new Connection(ours);
  onTestFinished(() => connection.close());
  connection.acceptAll(() => undefined);
  const asked = { protocolVersion: PROTOCOL_VERSION, clientId: 'raw', nonce: randomNonce() };
  connection.send(helloFrame({ ...asked, ...hello, geometry: shape, wireDtype: 'f32' }));
  const welcome = decodeWelcome((await connection.receive()).payload);
  isWelcomed = true;
  return { connection, transport: ours, welcome, told: told.resolve };
}

async function results(connection: Connection, count: number): Promise<{ header: FrameHeader; payload: Uint8Array }[]> {
  const all = [];
  while (all.length < count) {
    const { header, payload } = await connection.receive();
    if (header.type === FrameType.RESULT) all.push({ header, payload: payload.slice() });
  }
  return all;
}

const tick = () => new Promise<void>((resolve) => setTimeout(resolve, 5));

describe('rows are copied once', () => {
  async function through(source: RemoteSource, stats: () => ReturnType<AttentionNode['stats']>): Promise<number> {
    const remote = (await source.connect(geometry, hello)) as RemoteAttention;
    await compare(remote);
    const told = await remote.nodeStats();
    await remote.close();
    await settled(() => stats().connections === 0);
    const { tensorBytesReceived, tensorBytesSent, bytesCopied } = stats();
    expect({ tensorBytesReceived, tensorBytesSent, bytesCopied }).toEqual({
      tensorBytesReceived: told.tensorBytesReceived,
      tensorBytesSent: told.tensorBytesSent,
      bytesCopied: told.bytesCopied,
    });
    // compare() runs 5 + 16 + 27 rows of prefill, then 5 x 3 of decode, in each layer.
    const rows = (48 + 15) * geometry.layers;
    expect(tensorBytesReceived).toBe(rows * qkvFloats * 4);
    expect(tensorBytesSent).toBe(rows * outputFloats * 4);
    return bytesCopied / tensorBytesReceived;
  }

  it.each([
    ['url', 1],
    ['webSocketUrl', 2], // `ws` puts messages together first
  ] as const)('from a socket: %s', async (which, copies) => {
    const server = await serveAttention({ host: '127.0.0.1', port: 0, createBackend: createNaive });
    onTestFinished(() => server.close());
    expect(await through(remoteSource(server.listener[which]), () => server.node.stats())).toBe(copies);
  });

  it('from a MessagePort, and out of chunks of any size', async () => {
    const { node } = makeNode();
    const source = messagePortSource(() => {
      const { port1, port2 } = new MessageChannel();
      void node.accept(messagePortTransport(port1 as unknown as PortLike));
      return port2 as unknown as PortLike;
    });
    expect(await through(source, () => node.stats())).toBe(1);
    const other = makeNode().node;
    const faults: [MemoryFaults, MemoryFaults] = [{ chunkBytes: () => 37 }, {}];
    expect(await through(memorySource(other, { faults }), () => other.stats())).toBe(1);
  });
});

describe('a result lies where it was computed', () => {
  it('until it was sent: the next layer of its step waits, and the step ends only then', async () => {
    const { node, backends } = makeNode();
    const { connection, told } = await raw(node);
    connection.send(openFrame([{ slot, shard: 0 }]));
    connection.send(step(1));
    connection.send(attend(1));
    const found = await results(connection, 1);
    connection.send(attend(1, 2)); // an engine may be as fast as that
    connection.send(retireFrame(1));
    await tick();
    expect(backends[0]?.attends).toBe(1);
    told();
    found.push(...(await results(connection, 1)));
    await settled(() => backends[0]?.steps.size === 0);
    connection.send(step(1)); // its id is free again
    connection.send(attend(1, 1));
    found.push(...(await results(connection, 1)));
    expect(found.map(({ header }) => header.layer)).toEqual([0, 2, 1]);
    for (const { payload } of found) expect(payload).toEqual(found[0]?.payload); // of one token: its own value
  });

  it("and is nobody else's, though its step was retired", async () => {
    const { node, backends } = makeNode({ limits: { maxSteps: 1 } });
    const { connection, told } = await raw(node);
    connection.send(openFrame([{ slot, shard: 0 }]));
    for (const id of [1, 2, 3]) {
      connection.send(step(id));
      connection.send(attend(id));
      connection.send(retireFrame(id));
    }
    await settled(() => backends[0]?.attends === 1);
    await tick();
    expect([...(backends[0]?.steps.keys() ?? [])]).toEqual([1]); // no room for step 2 while that of 1 is in use
    told();
    expect((await results(connection, 3)).map(({ header }) => header.id)).toEqual([1, 2, 3]);
    await settled(() => backends[0]?.steps.size === 0);
  });

  it('and a connection that ends meanwhile holds nothing up', async () => {
    const { node, backends } = makeNode();
    const { connection, transport } = await raw(node);
    for (const one of [openFrame([{ slot, shard: 0 }]), step(1), attend(1), attend(1, 1)]) connection.send(one);
    await settled(() => backends[0]?.attends === 1);
    await tick();
    await transport.close(new Error('gone'));
    await settled(() => node.stats().connections === 0);
    expect(node.stats()).toMatchObject({ session: null, allocatedBytes: 0 });
  });
});

describe('rows that are not wanted', () => {
  it('of a step that found no room are thrown away as they come', async () => {
    const { node } = makeNode({
      createBackend: async (shape, options) => {
        const backend = await createNaive(shape, options);
        const staged = backend.staged.bind(backend);
        backend.staged = (id) => {
          if (id === 1) throw new CapacityError('ATTENTION_STAGING', 'no room to stage it');
          return staged(id);
        };
        return backend;
      },
    });
    const remote = (await memorySource(node).connect(geometry, hello)) as RemoteAttention;
    remote.open(slot, 0);
    for (const id of [1, 2]) remote.announce({ id, entries: [{ slot, position: 0, count: 1 }] });
    const output = new Float32Array(outputFloats);
    await expect(remote.attend(1, 0, rowFloats, output)).rejects.toMatchObject({ code: 'ATTENTION_STAGING' });
    await remote.attend(2, 0, rowFloats, output);
    const { tensorBytesReceived, bytesCopied } = await remote.nodeStats();
    expect([tensorBytesReceived, bytesCopied]).toEqual([2 * qkvFloats * 4, qkvFloats * 4]);
    await remote.close();
  });

  it('of which only a part has come are never attended to', async () => {
    const { node, backends } = makeNode();
    const { connection, transport } = await raw(node);
    connection.send(openFrame([{ slot, shard: 0 }]));
    connection.send(step(1));
    await connection.drained();
    await transport.send([encodeFrame(attend(1)).subarray(0, 100)]);
    await settled(() => node.stats().bytesReceived >= transport.bytesSent);
    await transport.close();
    await settled(() => node.stats().connections === 0);
    expect(backends[0]).toMatchObject({ attends: 0, closed: true });
    const next = await memorySource(node).connect(geometry, hello); // a backend of its own
    await compare(next);
    await next.close();
  });

  it('of a wrong length are refused before a byte of them is written', async () => {
    const { node, backends } = makeNode();
    const { connection } = await raw(node);
    connection.send(openFrame([{ slot, shard: 0 }]));
    connection.send(step(1));
    const bad = encodeFrame(attend(1));
    new DataView(bad.buffer).setUint32(24, bad.length - 32 - 16, true);
    await connection.drained();
    await connection.transport.send([bad]);
    for (;;) {
      const { header, payload } = await connection.receive();
      if (header.type !== FrameType.ERROR) continue;
      expect(decodeError(payload)).toMatchObject({ code: 'BAD_LENGTH' });
      break;
    }
    expect(backends[0]?.staged(1).qkv.every((piece) => piece.every((byte) => byte === 0))).toBe(true);
  });
});

describe('what an engine may have under way', () => {
  it('is what WELCOME said, and not a step or a row more', async () => {
    const limits = { maxSteps: 3, maxStepRows: 2, maxSlots: 2 };
    for (const [frames, code] of [
      [[step(1), step(2), step(3), step(4)], 'TOO_MANY_STEPS'],
      [[stepFrame({ id: 1, entries: [{ slot, position: 0, count: 3 }] })], 'TOO_MANY_ROWS'],
      [[openFrame([{ slot: { index: 2, generation: 1 }, shard: 0 }])], 'BAD_SLOT'],
      [[step(1), attend(1), attend(1, 1)], 'ATTEND_PENDING'],
    ] as const) {
      const { node } = makeNode({ limits }, { before: tick });
      const { connection, welcome, told } = await raw(node);
      told();
      expect(welcome.limits).toEqual(limits);
      for (const one of [openFrame([{ slot, shard: 0 }]), ...frames]) connection.send(one);
      const reply = await connection.receive();
      expect(decodeError(reply.payload)).toMatchObject({ code });
      await settled(() => node.stats().connections === 0);
    }
  });

  it('all of it at once is served', async () => {
    const {
      remote,
      slot: own,
      backends,
    } = await session({ limits: { maxSteps: 40, maxStepRows: 2 } }, { before: tick });
    const attends = Array.from({ length: 39 }, (_, i) => {
      remote.announce({ id: 2 + i, entries: [{ slot: own, position: 0, count: 1 }] });
      return remote.attend(2 + i, 0, rowFloats, new Float32Array(outputFloats));
    });
    await Promise.all(attends);
    expect(backends[0]?.attends).toBe(39);
  });

  it('does not pile up at a node that is flooded and not read: it stops reading', async () => {
    const wide = { ...geometry, layers: 1, windows: [0], kvHeads: 1, groupSize: 256, headDim: 1024 };
    const { node, backends } = makeNode();
    const { connection, transport } = await raw(node, wide);
    connection.send(openFrame([{ slot, shard: 0 }]));
    const rows = new Uint8Array(qkvBytes(wide, 1, 'f32'));
    // Each answer has 1 MiB; within the credit are 256 of them.
    for (let id = 0; id < 120; id++) {
      connection.send(step(id));
      connection.send(attend(id, 0, rows));
      connection.send(retireFrame(id));
    }
    let attends = -1;
    while (attends !== backends[0]?.attends) {
      attends = backends[0]?.attends ?? 0;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    expect(attends).toBeGreaterThan(0);
    expect(attends).toBeLessThan(70);
    await transport.close(new Error('enough'));
    await settled(() => node.stats().connections === 0);
    expect(node.stats().allocatedBytes).toBe(0);
  });
});
