/**
 * The page's end of the engine worker. The worker is made when it is first needed, and again when it died: then the page is told
 * that nothing is open any more, and the next `open` begins with a fresh one. Holds no state beyond that.
 */
import type { Command, ErrorReport, Event } from './protocol.ts';

export type EventListener = (event: Event) => void;

const DIED: ErrorReport = {
  code: 'ENGINE_WORKER_DIED',
  message: 'the engine worker ended',
  hint: 'It may have run out of memory. Open the model again with fewer workers, less KV memory, or a smaller model.',
};

export class EngineClient {
  readonly #listeners = new Set<EventListener>();
  /** Runs that were begun and have not ended. */
  readonly #runs = new Map<number, number>(); // → performance.now() of its beginning
  #worker: Worker | null = null;
  #destroyed = false;

  send(command: Command): void {
    if (this.#destroyed) return;
    const fresh = this.#worker === null;
    if (fresh && command.type === 'close') {
      this.#emit({ type: 'closed' });
      return;
    }
    this.#worker ??= this.#start();
    if (command.type === 'generate' || command.type === 'batch') this.#runs.set(command.run, performance.now());
    this.#worker.postMessage(command);
  }

  /** @returns what ends the subscription */
  subscribe(listener: EventListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Ends the worker at once, with all that it holds. */
  destroy(): void {
    this.#destroyed = true;
    this.#worker?.terminate();
    this.#worker = null;
    this.#listeners.clear();
  }

  #start(): Worker {
    const worker = new Worker(new URL('./worker.ts', import.meta.url), { type: 'module', name: 'glinthawk-engine' });
    worker.onmessage = ({ data }: MessageEvent<Event>) => {
      if (data.type === 'ended') this.#runs.delete(data.run);
      this.#emit(data);
    };
    worker.onmessageerror = () => this.#died(worker, 'a message of it could not be read');
    worker.onerror = (event) => {
      event.preventDefault();
      this.#died(worker, event.message || 'its script could not be loaded');
    };
    return worker;
  }

  #died(worker: Worker, reason: string): void {
    if (this.#worker !== worker) return;
    worker.terminate();
    this.#worker = null;
    const error = { ...DIED, message: `${DIED.message}: ${reason}` };
    const runs = [...this.#runs];
    this.#runs.clear();
    for (const [run, beganAtMs] of runs) {
      const wallMs = performance.now() - beganAtMs;
      this.#emit({ type: 'ended', run, how: 'failed', error, wallMs, generatedTokens: 0 });
    }
    this.#emit({ type: 'failed', error });
  }

  #emit(event: Event): void {
    for (const listener of [...this.#listeners]) listener(event);
  }
}
