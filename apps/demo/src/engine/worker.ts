/** Entry point of the engine worker: commands in, events out. What it does is engine-host.ts. */
import { EngineHost } from './engine-host.ts';
import type { Command, Event, Ping, Pong } from './protocol.ts';

const scope = globalThis as unknown as {
  onmessage: ((event: MessageEvent<Command | Ping>) => void) | null;
  postMessage(event: Event | Pong, transfer: Transferable[]): void;
};

const host = new EngineHost({ send: (event, transfer) => scope.postMessage(event, transfer) });
scope.onmessage = ({ data }) => {
  if (data.type === 'ping') scope.postMessage({ type: 'pong' }, []);
  else host.handle(data);
};
