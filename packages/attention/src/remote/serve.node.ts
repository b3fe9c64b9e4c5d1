/** An attention node on a port, for TCP and WebSocket both. */
import { type Listener, type ListenOptions, listen } from '@glinthawk/wire/node';
import { AttentionNode, type AttentionNodeOptions } from './attention-node.ts';

export interface ServeOptions
  extends Omit<AttentionNodeOptions, 'listens'>,
    Omit<ListenOptions, 'onTransport' | 'token' | 'logger'> {}

export interface AttentionServer {
  readonly node: AttentionNode;
  readonly listener: Listener;
  /** As AttentionNode.drain, then stops listening. */
  drain(options?: Parameters<AttentionNode['drain']>[0]): Promise<void>;
  close(): Promise<void>;
}

/** @throws InputError when the address can't be had, or is reachable from other machines and there is no token */
export async function serveAttention(options: ServeOptions): Promise<AttentionServer> {
  const node = new AttentionNode({ ...options, listens: true });
  const listener = await listen({ ...options, onTransport: (transport) => void node.accept(transport) });
  return {
    node,
    listener,
    async drain(how) {
      await node.drain(how);
      await listener.close();
    },
    async close() {
      await node.close();
      await listener.close();
    },
  };
}
