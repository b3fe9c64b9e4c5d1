/**
 * Entry point of an attention worker that shares no memory with its engine, for pages that are not cross-origin isolated: an
 * attention node with one inline shard, reached by the MessagePort that comes as the first message. One session, then it ends.
 */
import { AttentionNode, createInlineAttention } from '@glinthawk/attention';
import { messagePortTransport } from '@glinthawk/wire';

export interface PortWorkerStart {
  readonly name: string;
  readonly memoryBytes: number;
  readonly port: MessagePort;
}

const scope = globalThis as unknown as {
  onmessage: ((event: MessageEvent<PortWorkerStart>) => void) | null;
  close(): void;
};

scope.onmessage = ({ data: { name, memoryBytes, port } }) => {
  const node = new AttentionNode({
    name,
    createBackend: (geometry, { kvDtype, rowDtype }) =>
      createInlineAttention(geometry, { kvDtype, rowDtype, memoryBytes, name }),
  });
  const transport = messagePortTransport(port, name);
  node.accept(transport);
  void transport.closed.then(async () => {
    await node.close();
    scope.close();
  });
};
