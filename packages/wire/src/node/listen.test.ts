/** One port for TCP and WebSocket, plain and under TLS; strangers are turned away and every socket is closed. */
import { connect, createServer, type Socket } from 'node:net';
import { InputError, NodeLostError } from '@glinthawk/core';
import { afterEach, describe, expect, it } from 'vitest';
import { WebSocket as WsClient } from 'ws';
import { pingFrame } from '../control.ts';
import { encodeFrame } from '../frame.ts';
import { FrameType } from '../frame-type.ts';
import { MAX_WEBSOCKET_MESSAGE_BYTES } from '../limits.ts';
import type { Transport } from '../transport.ts';
import { connectWebSocket } from '../websocket-transport.ts';
import { type Listener, type ListenOptions, listen } from './listen.ts';
import { selfSignedCertificate } from './self-signed.fixture.ts';
import { connectTcp } from './tcp-transport.ts';

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** A port that sends everything back. */
async function echo(options: Partial<ListenOptions> = {}): Promise<{ listener: Listener; accepted: Transport[] }> {
  const accepted: Transport[] = [];
  const listener = await listen({
    host: '127.0.0.1',
    port: 0,
    ...options,
    onTransport: async (transport) => {
      accepted.push(transport);
      try {
        for await (const chunk of transport) await transport.send([chunk]);
      } catch {
        // the client left while an answer was on its way
      }
      await transport.close();
    },
  });
  cleanups.push(() => listener.close());
  return { listener, accepted };
}

async function readBytes(transport: Transport, count: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(count);
  let at = 0;
  for await (const chunk of transport) {
    bytes.set(chunk, at);
    at += chunk.byteLength;
    if (at === count) break;
  }
  return bytes;
}

/** Begins with a frame's magic, so that the port takes it for frames. */
function message(bytes: number): Uint8Array {
  const all = new Uint8Array(bytes).map((_, i) => i * 31);
  all.set(encodeFrame(pingFrame(1)));
  return all;
}

async function expectEcho(transport: Transport, bytes: number): Promise<void> {
  const sent = message(bytes);
  const back = readBytes(transport, bytes);
  await transport.send([sent.subarray(0, 5), sent.subarray(5, 1000), sent.subarray(1000)]);
  expect(Buffer.compare(await back, sent)).toBe(0);
  expect(transport.bytesSent).toBe(bytes);
  expect(transport.bytesReceived).toBe(bytes);
}

describe('one port', () => {
  it('serves TCP and WebSocket, and closes to nothing', async () => {
    const { listener, accepted } = await echo();
    const tcp = await connectTcp(listener);
    await expectEcho(tcp, 3_000_000);
    const webSocket = await connectWebSocket(listener.webSocketUrl);
    await expectEcho(webSocket, 3_000_000);
    expect(listener.openSockets).toBe(2);
    expect(accepted.map((transport) => transport.name.split(':')[0])).toEqual(['tcp', 'ws']);
    await Promise.all([tcp.close(), webSocket.close()]);
    expect(await tcp.closed).toBe(undefined);
    for (const transport of accepted) expect(await transport.closed).toBe(undefined);
    await listener.close();
    expect(listener.openSockets).toBe(0);
  });

  it('serves both under TLS, to those who trust it', async () => {
    const tls = selfSignedCertificate();
    const { listener } = await echo({ tls });
    expect(listener.url).toMatch(/^tls:/);
    const trusting = await connectTcp(listener, { tls: { ca: tls.cert } });
    await expectEcho(trusting, 300_000);
    await trusting.close();
    await expect(connectTcp(listener, { tls: {} })).rejects.toThrow(NodeLostError);
    await expect(connectTcp(listener, { tls: { ca: tls.cert, servername: 'elsewhere.test' } })).rejects.toThrow(
      /elsewhere/,
    );
    const secure = new WsClient(listener.webSocketUrl, { ca: tls.cert });
    await new Promise((resolve) => secure.once('open', resolve));
    const answer = new Promise((resolve) => secure.once('message', resolve));
    secure.send(message(64));
    expect(await answer).toEqual(Buffer.from(message(64)));
    secure.close();
  });

  it('passes views of shared memory', async () => {
    const { listener } = await echo();
    const tls = selfSignedCertificate();
    const secure = await echo({ tls });
    const shared = new Uint8Array(new SharedArrayBuffer(100_000));
    shared.set(message(100_000));
    const transports = [
      await connectTcp(listener),
      await connectTcp(secure.listener, { tls: { ca: tls.cert } }),
      await connectWebSocket(listener.webSocketUrl),
    ];
    for (const transport of transports) {
      const back = readBytes(transport, shared.length);
      await transport.send([shared]);
      expect(Buffer.compare(await back, message(100_000))).toBe(0);
      await transport.close();
    }
  });

  it('tells HTTP clients what it is', async () => {
    const { listener } = await echo();
    const response = await fetch(`http://127.0.0.1:${listener.port}/`);
    expect(response.status).toBe(426);
    expect(await response.text()).toMatch(/WebSocket/);
  });

  it('leaves HTTP to whoever answers it: slow answers and a kept connection, but no slow request', async () => {
    const { listener } = await echo({
      peekTimeoutMs: 100,
      onRequest: (request, response) => {
        const answer = () => response.end(`${request.url}\n`);
        if (request.url === '/slow') setTimeout(answer, 250);
        else answer();
      },
    });
    const socket = connect(listener.port, '127.0.0.1');
    let heard = '';
    socket.setEncoding('latin1').on('data', (text: string) => {
      heard += text;
    });
    const closed = new Promise((resolve) => socket.once('close', resolve));
    const ask = (path: string) => socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`);
    ask('/first');
    await expect.poll(() => heard).toContain('/first\n');
    ask('/slow'); // longer than any silence may last
    await expect.poll(() => heard).toContain('/slow\n');
    for (let i = 0; i < 30; i++) ask(`/${i}`);
    await expect.poll(() => heard).toContain('/29\n');
    const drip = setInterval(() => socket.write('G'), 20);
    const begun = performance.now();
    await closed;
    clearInterval(drip);
    expect(performance.now() - begun).toBeLessThan(1_000);
    await expect.poll(() => listener.openSockets).toBe(0);
    const webSocket = await connectWebSocket(listener.webSocketUrl);
    await expectEcho(webSocket, 100_000);
    await webSocket.close();
  });

  it('answers few at a time: of those that never read, the oldest goes', async () => {
    const { listener } = await echo({ onRequest: (_request, response) => void response.write('and so on') });
    const sockets = Array.from({ length: 100 }, () => connect(listener.port, '127.0.0.1'));
    for (const socket of sockets) {
      socket.on('error', () => {});
      socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
      await new Promise((resolve) => socket.once('connect', resolve));
    }
    await expect.poll(() => listener.openSockets).toBe(64);
    for (const socket of sockets) socket.destroy();
  });

  it('turns away pages of origins that were not allowed', async () => {
    const warnings: unknown[] = [];
    const warn = (_message: string, fields?: Readonly<Record<string, unknown>>) => void warnings.push(fields?.origin);
    const logger = { debug: () => {}, info: () => {}, warn };
    const { listener, accepted } = await echo({ origins: ['https://example.org'], logger });
    const open = (origin: string | undefined) =>
      new Promise<string>((resolve) => {
        const socket = new WsClient(listener.webSocketUrl, origin === undefined ? {} : { origin });
        cleanups.push(() => socket.terminate());
        socket.once('open', () => resolve('open'));
        socket.once('error', (error) => resolve(error.message));
      });
    expect(await open('https://example.org')).toBe('open');
    expect(await open(undefined)).toBe('open');
    expect(await open('https://evil.test')).toMatch(/403/);
    expect(await open(`http://127.0.0.1:${listener.port}`)).toMatch(/403/);
    expect(await open('null')).toMatch(/403/);
    expect(accepted).toHaveLength(2);
    // A page that tries again and again is told of once, and as many pages as there may be fill no screen.
    for (let i = 0; i < 3; i++) await open('https://evil.test');
    expect(warnings).toEqual(['https://evil.test', `http://127.0.0.1:${listener.port}`, 'null']);
    for (let i = 0; i < 100; i++) await open(`https://evil${i}.test`);
    expect(warnings).toHaveLength(64);
  });

  it('drops what speaks neither, and what says nothing', async () => {
    const { listener, accepted } = await echo({ peekTimeoutMs: 30 });
    const ends = (first: Uint8Array | undefined) =>
      new Promise<void>((resolve) => {
        const socket = connect(listener.port, '127.0.0.1', () => first && socket.write(first));
        socket.on('error', () => {});
        socket.on('close', () => resolve());
      });
    await ends(new Uint8Array([0x16, 3, 1, 0])); // TLS at a plain port
    await ends(new Uint8Array(100));
    await ends(undefined);
    expect(accepted).toHaveLength(0);
    await expect.poll(() => listener.openSockets).toBe(0);
  });

  it('drops half an HTTP request, and half a TLS handshake, however slowly they go on', async () => {
    for (const tls of [undefined, selfSignedCertificate()]) {
      const { listener, accepted } = await echo({ peekTimeoutMs: 60, ...(tls && { tls }) });
      const socket = connect(listener.port, '127.0.0.1');
      socket.on('error', () => {});
      socket.write(tls ? new Uint8Array([0x16, 3, 1, 2, 0, 1]) : 'GET / HTTP/1.1\r\nX: ');
      const drip = setInterval(() => socket.write(tls ? new Uint8Array(1) : 'x'), 20);
      const begun = performance.now();
      await new Promise((resolve) => socket.once('close', resolve));
      clearInterval(drip);
      expect(performance.now() - begun).toBeLessThan(1_000);
      await expect.poll(() => listener.openSockets).toBe(0);
      expect(accepted).toHaveLength(0);
    }
  });

  it('counts what is in a TLS handshake, and closes it with the rest', async () => {
    const { listener } = await echo({ tls: selfSignedCertificate() });
    const socket = connect(listener.port, '127.0.0.1');
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.on('error', () => {});
    await expect.poll(() => listener.openSockets).toBe(1);
    await listener.close();
    await closed;
    expect(listener.openSockets).toBe(0);
  });

  it('leaves connections alone that became a transport in time', async () => {
    const { listener } = await echo({ peekTimeoutMs: 50 });
    const tcp = await connectTcp(listener);
    const webSocket = await connectWebSocket(listener.webSocketUrl);
    const secure = await echo({ peekTimeoutMs: 50, tls: selfSignedCertificate() });
    const trusting = await connectTcp(secure.listener, { tls: { rejectUnauthorized: false } as object });
    await tcp.send([message(64)]);
    await trusting.send([message(64)]);
    await new Promise((resolve) => setTimeout(resolve, 120));
    expect([listener.openSockets, secure.listener.openSockets]).toEqual([2, 1]);
    await Promise.all([tcp.close(), webSocket.close(), trusting.close()]);
  });

  it('takes no longer WebSocket message than 1 MiB, and no text', async () => {
    const { listener, accepted } = await echo();
    for (const data of [new Uint8Array(MAX_WEBSOCKET_MESSAGE_BYTES + 1), 'text']) {
      const socket = new WsClient(listener.webSocketUrl);
      const closed = new Promise<number>((resolve) => socket.once('close', resolve));
      socket.once('open', () => socket.send(data));
      socket.on('error', () => {});
      expect([1006, 1009]).toContain(await closed);
    }
    for (const transport of accepted) expect(await transport.closed).toBeInstanceOf(Error);
    for (const transport of accepted) expect(transport.bytesReceived).toBe(0);
  });

  it('refuses to listen beyond this machine without a token, or where it cannot', async () => {
    await expect(echo({ host: '0.0.0.0' })).rejects.toMatchObject({ code: 'LISTEN_WITHOUT_TOKEN' });
    const { listener } = await echo();
    await expect(echo({ port: listener.port })).rejects.toThrow(InputError);
  });

  it('does not lose the last frame that was sent before the close', async () => {
    const last = encodeFrame(pingFrame(9));
    const listener = await listen({
      host: '127.0.0.1',
      port: 0,
      onTransport: async (transport) => {
        await transport.send([last]);
        await transport.close(); // over bytes that nobody read
      },
    });
    cleanups.push(() => listener.close());
    for (let i = 0; i < 20; i++) {
      const transport = await connectTcp(listener);
      const back = readBytes(transport, last.length);
      await transport.send([message(200_000)]).catch(() => {});
      expect((await back)[5]).toBe(FrameType.PING);
      await transport.close();
    }
  });
});

it('connecting gives up in time, and when told to', async () => {
  // A port that takes the connection and never shakes hands: TLS and WebSocket wait for an answer.
  const held = new Set<Socket>();
  const mute = createServer((socket) => void held.add(socket.on('error', () => {})));
  await new Promise<void>((resolve) => mute.listen(0, '127.0.0.1', resolve));
  cleanups.push(() => {
    for (const socket of held) socket.destroy();
    mute.close();
  });
  const { port } = mute.address() as { port: number };
  await expect(connectTcp({ host: '127.0.0.1', port }, { tls: {}, timeoutMs: 30 })).rejects.toThrow(/30 ms/);
  await expect(connectWebSocket(`ws://127.0.0.1:${port}`, { timeoutMs: 30 })).rejects.toThrow(/30 ms/);
  const aborter = new AbortController();
  setTimeout(() => aborter.abort(), 10);
  await expect(connectWebSocket(`ws://127.0.0.1:${port}`, { signal: aborter.signal })).rejects.toThrow(/aborted/);
});
