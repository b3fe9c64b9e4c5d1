/** Entry point of the engine worker: commands in, events out. What it does is engine-host.ts. */
import { EngineHost } from './engine-host.ts';
import type { Command, Event } from './protocol.ts';

const scope = globalThis as unknown as {
  onmessage: ((event: MessageEvent<Command>) => void) | null;
  postMessage(event: Event, transfer: Transferable[]): void;
};

const host = new EngineHost({ send: (event, transfer) => scope.postMessage(event, transfer) });
scope.onmessage = ({ data }) => host.handle(data);
