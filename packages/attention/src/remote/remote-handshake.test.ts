/** Why an engine and a node don't come together, and that each is told. */
import { CapacityError, NodeLostError } from '@glinthawk/core';
import { memoryTransportPair } from '@glinthawk/wire';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { AttentionNode } from './attention-node.ts';
import { NaiveBackend } from './naive-backend.fixture.ts';
import { createNaive, geometry, hello, makeNode, memorySource } from './remote-rig.fixture.ts';
import { remoteSource } from './remote-source.node.ts';
import { RemoteSource, type RemoteSourceOptions } from './remote-source.ts';
import { type AttentionServer, type ServeOptions, serveAttention } from './serve.node.ts';

async function serve(options: Partial<ServeOptions> = {}): Promise<AttentionServer> {
  const server = await serveAttention({ host: '127.0.0.1', port: 0, createBackend: createNaive, ...options });
  onTestFinished(() => server.close());
  return server;
}

describe('a handshake is refused with the reason', () => {
  const connect = (node: AttentionNode, options: RemoteSourceOptions = {}) =>
    memorySource(node, options).connect(geometry, hello);

  it('wrong token', async () => {
    const { node, backends } = makeNode({ token: 'right' });
    await expect(connect(node, { token: 'wrong' })).rejects.toMatchObject({ code: 'WRONG_TOKEN' });
    await expect(connect(node)).rejects.toMatchObject({ code: 'TOKEN_REQUIRED' });
    expect(backends).toHaveLength(0);
    await (await connect(node, { token: 'right' })).close();
  });

  it('a node that does not know the token', async () => {
    const { node } = makeNode();
    await expect(connect(node, { token: 'mine' })).rejects.toMatchObject({ code: 'NODE_UNPROVEN' });
  });

  it('wrong model', async () => {
    const { node } = makeNode({ fingerprint: 'model-b' });
    await expect(connect(node)).rejects.toMatchObject({ code: 'WRONG_MODEL', message: /model-b.*model-a/ });
    expect(node.stats().refused).toBe(1);
  });

  it('a backend that cannot be made', async () => {
    const { node } = makeNode({
      createBackend: async () => {
        throw new CapacityError('NO_MEMORY', 'needed 8 GiB, there is 1 GiB');
      },
    });
    await expect(connect(node)).rejects.toMatchObject({ code: 'NO_MEMORY', name: 'ProtocolError', message: /8 GiB/ });
    expect(node.stats().session).toBe(null);
  });

  it.each([
    ['a block of 2^53 bytes', { blockBytes: 2 ** 53 - 1 }],
    ['2^32 blocks', { shards: new Array(4).fill({ blocks: 2 ** 32 - 1 }) }],
  ])('promises what no node has: %s', async (_name, change) => {
    const { node } = makeNode({
      createBackend: async (shape, { kvDtype, rowDtype }) => {
        const backend = new NaiveBackend(shape, kvDtype, { rowDtype });
        return Object.assign(backend, { capacity: { ...backend.capacity, ...change } });
      },
    });
    await expect(memorySource(node).connect(geometry, hello)).rejects.toMatchObject({ code: 'BAD_PROMISE' });
    await expect.poll(() => node.stats().connections).toBe(0);
  });

  it('busy with another engine, until that one leaves', async () => {
    const { node } = makeNode();
    const first = await connect(node);
    await expect(connect(node)).rejects.toMatchObject({ code: 'BUSY' });
    await first.close();
    await (await connect(node)).close();
  });

  it('is not busy with an engine whose good-bye is on its way', async () => {
    const { node } = makeNode();
    for (let i = 0; i < 20; i++) {
      const first = await connect(node);
      const second = connect(node); // its HELLO is there before the BYE
      const leaving = first.close();
      await (await second).close();
      await leaving;
    }
  });

  it('draining', async () => {
    const { node } = makeNode();
    await node.drain({ reason: 'maintenance' });
    await expect(connect(node)).rejects.toThrow(NodeLostError);
    await expect(connect(node)).rejects.toThrow(/maintenance/);
  });

  it('a node that accepts and says nothing', async () => {
    const source = new RemoteSource('mute', async () => memoryTransportPair()[0], { handshakeTimeoutMs: 30 });
    await expect(source.connect(geometry, hello)).rejects.toMatchObject({ code: 'NODE_LOST', message: /handshake/ });
  });

  it('aborted by the caller', async () => {
    const source = new RemoteSource('mute', async () => memoryTransportPair()[0]);
    const aborter = new AbortController();
    setTimeout(() => aborter.abort(), 10);
    await expect(source.connect(geometry, { ...hello, signal: aborter.signal })).rejects.toMatchObject({
      code: 'ABORTED',
    });
  });

  it('nobody listens', async () => {
    const server = await serve();
    const { url, webSocketUrl } = server.listener;
    await server.close();
    for (const address of [url, webSocketUrl]) {
      await expect(remoteSource(address).connect(geometry, hello)).rejects.toThrow(NodeLostError);
    }
  });
});
