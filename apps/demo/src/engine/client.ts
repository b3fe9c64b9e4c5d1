/**
 * The page's end of the engine worker. The worker is made when it is first needed, and again when it died: then the page is told
 * that nothing is open any more, and the next `open` begins with a fresh one. Holds no state beyond that.
 */
import type { Command, ErrorReport, Event, Ping, Pong } from './protocol.ts';

export type EventListener = (event: Event) => void;

const DIED: ErrorReport = {
  code: 'ENGINE_WORKER_DIED',
  message: 'the engine worker ended',
  hint: 'It may have run out of memory. Open the model again with fewer workers, less KV memory, or a smaller model.',
};

/**
 * A worker may end without a word, so it is asked this often whether it is there. One that is busy answers between two layers; what
 * holds the page up (a hidden tab, a machine asleep) holds both up, and ends before the second question.
 */
const BETWEEN_PINGS_MS = 15_000;
/** So many in a row without an answer, or anything else from it. */
const MAX_UNANSWERED = 2;

export class EngineClient {
  readonly #listeners = new Set<EventListener>();
  /** Runs that were begun and have not ended. */
  readonly #runs = new Map<number, number>(); // → performance.now() of its beginning
  readonly #betweenPingsMs: number;
  #worker: Worker | null = null;
  #pings: ReturnType<typeof setInterval> | null = null;
  /** Since anything was heard of the worker. */
  #unanswered = 0;
  #destroyed = false;

  constructor(options: { readonly betweenPingsMs?: number } = {}) {
    this.#betweenPingsMs = options.betweenPingsMs ?? BETWEEN_PINGS_MS;
  }

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
    this.#end();
    this.#listeners.clear();
  }

  #start(): Worker {
    const worker = new Worker(new URL('./worker.ts', import.meta.url), { type: 'module', name: 'glinthawk-engine' });
    worker.onmessage = ({ data }: MessageEvent<Event | Pong>) => {
      this.#unanswered = 0;
      if (data.type === 'pong') return;
      if (data.type === 'ended') this.#runs.delete(data.run);
      this.#emit(data);
    };
    worker.onmessageerror = () => this.#died(worker, 'a message of it could not be read');
    worker.onerror = (event) => {
      event.preventDefault();
      this.#died(worker, event.message || 'its script could not be loaded');
    };
    this.#unanswered = 0;
    this.#pings = setInterval(() => {
      if (this.#unanswered >= MAX_UNANSWERED) {
        this.#died(worker, `it has said nothing for ${(MAX_UNANSWERED * this.#betweenPingsMs) / 1000} seconds`);
        return;
      }
      this.#unanswered++;
      worker.postMessage({ type: 'ping' } satisfies Ping);
    }, this.#betweenPingsMs);
    return worker;
  }

  #end(): void {
    if (this.#pings !== null) clearInterval(this.#pings);
    this.#pings = null;
    this.#worker?.terminate();
    this.#worker = null;
  }

  #died(worker: Worker, reason: string): void {
    if (this.#worker !== worker) return;
    this.#end();
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
