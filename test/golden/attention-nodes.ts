/** Real attention nodes for tests: in this process, behind loopback TCP and WebSocket, each with one worker. */
import { type AttentionSource, createLocalAttention, localAttentionSource } from '@glinthawk/attention';
import { type AttentionServer, remoteSource, serveAttention } from '@glinthawk/attention/node';
import { expect } from 'vitest';

export interface Nodes {
  readonly sources: readonly AttentionSource[];
  /** Closes the servers, and throws unless every session and its memory are gone. */
  close(): Promise<void>;
}

const KV_BYTES = 64 * 2 ** 20;

export function localNodes(workers: number, memoryBytes = KV_BYTES): Nodes {
  return { sources: [localAttentionSource({ workers, memoryBytes })], close: async () => {} };
}

export async function remoteNodes(scheme: 'tcp' | 'ws', count: number): Promise<Nodes> {
  const servers: AttentionServer[] = [];
  const token = 'a token of the tests';
  for (let i = 0; i < count; i++) {
    servers.push(
      await serveAttention({
        host: '127.0.0.1',
        port: 0,
        token,
        createBackend: (geometry, options) =>
          createLocalAttention(geometry, { ...options, workers: 1, memoryBytes: KV_BYTES }),
      }),
    );
  }
  return {
    sources: servers.map(({ listener }) => remoteSource(`${scheme}://127.0.0.1:${listener.port}`, { token })),
    async close() {
      for (const { node, listener, close } of servers) {
        await close();
        expect(node.stats()).toMatchObject({
          connections: 0,
          session: null,
          openSlots: 0,
          usedBlocks: 0,
          allocatedBytes: 0,
        });
        expect(listener.openSockets).toBe(0);
      }
    },
  };
}
