/** Nodes that come to an engine: when they are let in, how many, and that none holds up another. */
import { type AttentionGeometry, NodeLostError } from '@glinthawk/core';
import { byeFrame, connectWebSocket, encodeFrame } from '@glinthawk/wire';
import { expect, it, onTestFinished } from 'vitest';
import type { AttentionBackend, AttentionSource } from '../backend.ts';
import { createInlineAttention } from '../inline.ts';
import { AttentionNode } from './attention-node.ts';
import { JoinListener, type JoinOptions } from './join.node.ts';
import { serveAttention } from './serve.node.ts';

const geometry: AttentionGeometry = {
  layers: 2,
  kvHeads: 1,
  groupSize: 2,
  headDim: 16,
  softmaxScale: 0.25,
  windows: [0, 0],
  maxContextTokens: 256,
};
const token = '0123456789abcdef';

/** As an engine: connects each source, and keeps the backend. */
function engine() {
  const backends: AttentionBackend[] = [];
  return {
    backends,
    async attach(source: AttentionSource) {
      backends.push(await source.connect(geometry, { kvDtype: 'f32', fingerprint: 'test' }));
      return backends.length - 1;
    },
  };
}

async function joins(options: Partial<JoinOptions> = {}): Promise<{ port: JoinListener; warnings: string[] }> {
  const warnings: string[] = [];
  const warn = (text: string, fields?: Readonly<Record<string, unknown>>) => {
    warnings.push(`${text}: ${fields?.reason}`);
  };
  const logger = { debug: () => {}, info: () => {}, warn };
  const port = await JoinListener.open({ host: '127.0.0.1', port: 0, token, logger, ...options });
  onTestFinished(() => port.close());
  return { port, warnings };
}

function node(): AttentionNode {
  const made = new AttentionNode({
    token,
    createBackend: (shape, options) => createInlineAttention(shape, { ...options, memoryBytes: 2 ** 22 }),
  });
  onTestFinished(() => made.close());
  return made;
}

it('a node works for the engine that it came to, and is gone when it goes', async () => {
  const { port } = await joins();
  const host = engine();
  port.admitTo(host);
  const lent = node();
  const ended = lent.accept(await connectWebSocket(port.listener.webSocketUrl));
  await expect.poll(() => port.joined).toBe(1);
  const [backend] = host.backends;
  expect(backend?.name).toMatch(/^ws:\/\/127\.0\.0\.1:\d+$/);
  const slot = { index: 0, generation: 1 };
  backend?.open(slot, 0);
  backend?.announce({ id: 1, entries: [{ slot, position: 0, count: 1 }] });
  const output = new Float32Array(32);
  await backend?.attend(1, 0, new Float32Array(64).fill(1), output);
  expect([...output]).toEqual(new Array(32).fill(1));
  await lent.close();
  expect(await ended).toBeInstanceOf(Error);
  expect(await backend?.lost).toBeInstanceOf(NodeLostError);
  await expect.poll(() => port.joined).toBe(0);
});

it('who comes before the engine, or beyond the bound, is told why and may come again', async () => {
  const { port } = await joins({ mostJoined: 1 });
  const come = async () => node().accept(await connectWebSocket(port.listener.webSocketUrl));
  const early = await come();
  expect(early).toBeInstanceOf(NodeLostError);
  expect(early?.message).toMatch(/not ready yet/);
  port.admitTo(engine());
  void come();
  await expect.poll(() => port.joined).toBe(1);
  expect((await come())?.message).toMatch(/as many as may join/);
});

it('however many come at once, no more get in than may', async () => {
  const { port } = await joins({ mostJoined: 2 });
  const host = engine();
  port.admitTo(host);
  const come = async () => node().accept(await connectWebSocket(port.listener.webSocketUrl));
  const ends = Array.from({ length: 6 }, come);
  await expect.poll(() => port.joined).toBe(2);
  let gone = 0;
  for (const end of ends) void end.then(() => gone++);
  await expect.poll(() => gone).toBe(4);
  expect(host.backends).toHaveLength(2);
  expect((await come())?.message).toMatch(/as many as may join/);
});

it('what fails is told once for each reason: one failure hides no other, nor can a stranger fill the screen', async () => {
  const { port, warnings } = await joins();
  port.admitTo(engine());
  for (const other of ['fedcba9876543210', 'fedcba9876543210', undefined, undefined]) {
    const made = new AttentionNode({
      ...(other !== undefined && { token: other }),
      createBackend: (shape, options) => createInlineAttention(shape, { ...options, memoryBytes: 2 ** 22 }),
    });
    await made.accept(await connectWebSocket(port.listener.webSocketUrl));
    await made.close();
  }
  await expect.poll(() => warnings.length).toBe(2);
  expect(warnings[0]).toMatch(/the token is not the one/);
  expect(warnings[1]).toMatch(/does not know the token/);
  for (let i = 0; i < 40; i++) {
    const transport = await connectWebSocket(port.listener.webSocketUrl);
    await transport.send([encodeFrame(byeFrame(`reason ${i}\nwarning: a line of my own`))]);
    await transport.closed;
  }
  await expect.poll(() => warnings.length).toBe(8);
  expect(warnings.join('')).not.toMatch(/\n/);
});

it('of those that say nothing the oldest make room, and what fails is told once for an address', async () => {
  const { port, warnings } = await joins();
  port.admitTo(engine());
  const silent = [];
  for (let i = 0; i < 40; i++) silent.push(await connectWebSocket(port.listener.webSocketUrl));
  await Promise.all(silent.slice(0, 8).map(({ closed }) => closed));
  void node().accept(await connectWebSocket(port.listener.webSocketUrl));
  await expect.poll(() => port.joined).toBe(1);
  expect(warnings).toHaveLength(1);
  await Promise.all(silent.map((transport) => transport.close()));
});

it('a token that can be guessed is refused, on loopback too', async () => {
  await expect(joins({ token: 'short' })).rejects.toMatchObject({ code: 'SHORT_TOKEN' });
});

it('a node that listens is no way in: what an engine says to one that came is refused when it is relayed', async () => {
  const { port } = await joins();
  const host = engine();
  port.admitTo(host);
  const server = await serveAttention({
    host: '127.0.0.1',
    port: 0,
    token,
    createBackend: (shape, options) => createInlineAttention(shape, { ...options, memoryBytes: 2 ** 22 }),
  });
  onTestFinished(() => server.close());
  const [toEngine, toNode] = [
    await connectWebSocket(port.listener.webSocketUrl),
    await connectWebSocket(server.listener.webSocketUrl),
  ];
  const pump = async (from: typeof toEngine, to: typeof toEngine) => {
    try {
      for await (const chunk of from) await to.send([chunk]);
    } finally {
      await to.close();
    }
  };
  await Promise.allSettled([pump(toEngine, toNode), pump(toNode, toEngine)]);
  expect(host.backends).toHaveLength(0);
  expect(server.node.stats()).toMatchObject({ refused: 1, sessionsServed: 0 });
});
