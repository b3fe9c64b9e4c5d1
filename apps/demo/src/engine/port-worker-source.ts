/**
 * An attention node in a Web Worker of this page, over a MessagePort: several cores are used where no memory can be shared. Each
 * connection has a worker of its own; the one before is ended, whatever state it is in.
 */
import { type AttentionBackend, type AttentionSource, messagePortSource } from '@glinthawk/attention';
import { type AttentionGeometry, NodeLostError } from '@glinthawk/core';
import type { PortWorkerStart } from './attention-port-worker.ts';

/** A worker that ends silently is noticed after so long: its engine is in the same page, and answers are due within milliseconds. */
const KEEPALIVE = { intervalMs: 1_000, timeoutMs: 8_000 };

export class PortWorkerSource implements AttentionSource {
  readonly name: string;
  readonly #memoryBytes: number;
  readonly #source: AttentionSource;
  #worker: Worker | null = null;
  #failed: Promise<never> = new Promise(() => {});

  constructor(options: { readonly name: string; readonly memoryBytes: number }) {
    this.name = options.name;
    this.#memoryBytes = options.memoryBytes;
    this.#source = messagePortSource(() => this.#start(), { name: this.name, keepalive: KEEPALIVE });
  }

  async connect(
    geometry: AttentionGeometry,
    options: Parameters<AttentionSource['connect']>[1],
  ): Promise<AttentionBackend> {
    const connecting = this.#source.connect(geometry, options);
    const worker = this.#worker;
    connecting.catch(() => {
      if (this.#worker === worker) this.destroy();
    });
    // A script that doesn't load says why; the handshake would only run out of time.
    return await Promise.race([connecting, this.#failed]);
  }

  destroy(): void {
    this.#worker?.terminate();
    this.#worker = null;
    this.#failed = new Promise(() => {}); // the next one has its own failures
  }

  #start(): MessagePort {
    this.destroy();
    const worker = new Worker(new URL('./attention-port-worker.ts', import.meta.url), {
      type: 'module',
      name: `glinthawk-${this.name.replaceAll(' ', '-')}`,
    });
    const { port1, port2 } = new MessageChannel();
    this.#failed = new Promise((_, reject) => {
      worker.onerror = (event) => {
        // It is dealt with here: else it would go on to the page, which would take it for the engine worker's end.
        event.preventDefault();
        const reason = event.message || 'its script could not be loaded';
        reject(new NodeLostError(this.name, `${this.name} ended: ${reason}`));
        // The transport takes this for the other end's going away, which it is; not every browser says so itself.
        port1.dispatchEvent(new Event('close'));
        port1.close();
      };
    });
    this.#failed.catch(() => {});
    const start: PortWorkerStart = { name: this.name, memoryBytes: this.#memoryBytes, port: port2 };
    worker.postMessage(start, [port2]);
    this.#worker = worker;
    return port1;
  }
}
