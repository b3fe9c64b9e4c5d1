/** Frames over a connection: coalesced, kept alive, bounded before the handshake, and over after the first fault. */
import { describe, expect, it } from 'vitest';
import { Connection } from './connection.ts';
import { byeFrame, pingFrame, statsFrame } from './control.ts';
import { encodeFrame, encodeHeader, frame } from './frame.ts';
import { FrameType } from './frame-type.ts';
import { MAX_HANDSHAKE_FRAMES } from './limits.ts';
import { type MemoryFaults, memoryTransportPair } from './memory-transport.ts';
import { ConnectionClosedError, type Transport } from './transport.ts';

const attend = (bytes: number) => frame(FrameType.ATTEND, { rows: 1, dtype: 'f32' }, [new Uint8Array(bytes).fill(3)]);
const quick = { intervalMs: 15, timeoutMs: 80 };

function pair(faults?: [MemoryFaults, MemoryFaults], keepalive = {}) {
  const transports = memoryTransportPair(faults ? { faults } : {});
  return transports.map((transport) => new Connection(transport, keepalive)) as [Connection, Connection];
}

describe('a connection', () => {
  it('sends what was queued in one turn in one write, and calls back when it was sent', async () => {
    const [transport, peer] = memoryTransportPair();
    const writes: number[] = [];
    const send = transport.send.bind(transport);
    transport.send = (parts) => {
      writes.push(parts.length);
      return send(parts);
    };
    const [a, b] = [new Connection(transport), new Connection(peer)];
    const sent: string[] = [];
    a.send(statsFrame(1), () => sent.push('first'));
    a.send(attend(64), () => sent.push('second'));
    expect(a.backlogBytes).toBe(32 + 32 + 64);
    await a.drained();
    expect(writes).toEqual([3]);
    expect(sent).toEqual(['first', 'second']);
    expect(a.backlogBytes).toBe(0);
    b.acceptAll(() => undefined);
    expect((await b.receive()).header.type).toBe(FrameType.STATS);
    expect((await b.receive()).payload).toHaveLength(64);
    await Promise.all([a.close(), b.close()]);
  });

  it('cuts a long payload into several writes', async () => {
    const [a, b] = pair();
    b.acceptAll(() => undefined);
    a.send(attend(9_000_000));
    const { payload } = await b.receive();
    expect(payload.every((byte) => byte === 3)).toBe(true);
    await Promise.all([a.close(), b.close()]);
  });

  it('takes only short frames before the handshake is done', async () => {
    const [a, b] = pair();
    a.send(attend(100_000));
    await expect(b.receive()).rejects.toMatchObject({ code: 'FRAME_TOO_LONG' });
    await Promise.all([a.close(), b.close()]);
  });

  it('takes only so many frames before the handshake is done', async () => {
    const [raw, peer] = memoryTransportPair();
    const connection = new Connection(peer);
    await raw.send(Array.from({ length: MAX_HANDSHAKE_FRAMES + 1 }, (_, i) => encodeFrame(pingFrame(i))));
    await expect(connection.receive()).rejects.toMatchObject({ code: 'TOO_MANY_FRAMES' });
    await connection.close();
  });

  it('owes one PONG at most to a peer that sends PINGs and reads nothing', async () => {
    const [raw, peer] = memoryTransportPair({ faults: [{}, { windowBytes: 0 }] });
    const connection = new Connection(peer);
    connection.acceptAll(() => undefined);
    const received = connection.receive();
    const pings = Array.from({ length: 5_000 }, (_, i) => encodeFrame(pingFrame(i)));
    for (let i = 0; i < 5; i++) await raw.send(pings);
    await raw.send([encodeFrame(byeFrame('done'))]);
    expect((await received).header.type).toBe(FrameType.BYE);
    expect(connection.backlogBytes).toBeLessThanOrEqual(64);
    await Promise.all([connection.close(), raw.close()]);
  });

  it('drops a peer that sends and does not read, where it must', async () => {
    const [raw, peer] = memoryTransportPair({ faults: [{}, { windowBytes: 0 }] });
    const connection = new Connection(peer, { ...quick, peerMustRead: true });
    const sending = setInterval(() => void raw.send([encodeFrame(pingFrame(1))]).catch(() => {}), 10);
    await expect(connection.receive()).rejects.toThrow(/has read nothing for/);
    clearInterval(sending);
    await Promise.all([connection.close(), raw.close()]);
  });

  it('answers PING itself and measures the round trip', async () => {
    const [a, b] = pair([{ latencyMs: 5 }, { latencyMs: 5 }]);
    a.ping();
    a.send(byeFrame('now'));
    expect((await b.receive()).header.type).toBe(FrameType.BYE);
    b.send(byeFrame('too'));
    expect((await a.receive()).header.type).toBe(FrameType.BYE);
    expect(a.roundTripMs).toBeGreaterThan(8);
    await Promise.all([a.close(), b.close()]);
  });

  it('stays while both are idle', async () => {
    const [a, b] = pair(undefined, quick);
    const ends = Promise.allSettled([a.receive(), b.receive()]);
    await new Promise((resolve) => setTimeout(resolve, 200));
    a.send(byeFrame('still here'));
    await new Promise((resolve) => setTimeout(resolve, 5));
    await a.close();
    const [first, second] = await ends;
    expect(first).toMatchObject({ status: 'rejected', reason: expect.any(ConnectionClosedError) });
    expect(second).toMatchObject({ status: 'fulfilled', value: { header: { type: FrameType.BYE } } });
    await b.close();
  });

  it('notices a peer that fell silent while it reads', async () => {
    const [a, b] = pair([{}, { stallAfterBytes: 0 }], quick);
    void b.receive().catch(() => {});
    await expect(a.receive()).rejects.toMatchObject({ code: 'CONNECTION_CLOSED', message: /nothing was heard/ });
    await b.close();
  });

  it('notices a peer that takes nothing while it writes', async () => {
    const [ours, theirs] = memoryTransportPair({ faults: [{ windowBytes: 0 }, {}] });
    const [a, b] = [new Connection(ours, quick), new Connection(theirs)]; // b neither reads nor sends
    a.send(attend(100));
    await a.drained();
    await expect(a.receive()).rejects.toThrow(/nothing was heard/);
    await b.close();
  });

  it('does not blame the peer for its own pauses', async () => {
    const [a, b] = pair(undefined, quick);
    const bEnd = b.receive().catch(() => {});
    const received = a.receive();
    const until = performance.now() + 150;
    while (performance.now() < until); // this event loop stands still, and the peer's PINGs with it
    b.send(byeFrame('here'));
    expect((await received).header.type).toBe(FrameType.BYE);
    await Promise.all([a.close(), b.close(), bEnd]);
  });

  it('is over after a fault, whatever comes behind it', async () => {
    const [raw, peer] = memoryTransportPair();
    const connection = new Connection(peer);
    const bad = encodeHeader({ ...pingFrame(1).header, rows: 9 });
    await raw.send([bad, encodeFrame(byeFrame('x'))]);
    await expect(connection.receive()).rejects.toMatchObject({ code: 'BAD_HEADER' });
    await expect(connection.receive()).rejects.toMatchObject({ code: 'BAD_HEADER' });
    await connection.close();
    expect(connection.bufferedBytes).toBe(0);
  });

  it('says when it ended in the middle of a frame', async () => {
    const [raw, peer] = memoryTransportPair();
    const connection = new Connection(peer);
    await raw.send([encodeFrame(byeFrame('x')).subarray(0, 40)]);
    void raw.close();
    await expect(connection.receive()).rejects.toThrow(/middle of a frame/);
    await connection.close();
  });

  it('tells a dead peer from a live one', async () => {
    const [a, b] = pair();
    const [c, d] = pair([{}, { stallAfterBytes: 0 }]);
    const ends = [a, b, c, d].map((one) => one.receive().catch(() => {}));
    expect(await a.probe(100)).toBe(true);
    expect(await c.probe(30)).toBe(false);
    await Promise.all([a, b, c, d].map((one) => one.close()));
    expect(await a.probe(30)).toBe(false);
    await Promise.all(ends);
  });
});

it('an injected delay keeps the order', async () => {
  const { withLatency } = await import('./latency.ts');
  const [a, b] = memoryTransportPair({ faults: [{ chunkBytes: () => 7 }, {}] });
  const delayed: Transport = withLatency(b, 10);
  const begun = performance.now();
  await a.send([new Uint8Array(100).map((_, i) => i)]);
  await a.close();
  const bytes: number[] = [];
  for await (const chunk of delayed) bytes.push(...chunk);
  expect(bytes).toEqual(Array.from({ length: 100 }, (_, i) => i));
  expect(performance.now() - begun).toBeGreaterThan(8);
});
