/**
 * Requests on their way into an engine that may be lost: whatever one engine took and did not finish is given to the next one
 * again, from the start, and none is pulled from the source twice or forgotten while it was being pulled.
 */
import type { GenerationRequest } from '@glinthawk/engine';

type Requests = Iterable<GenerationRequest> | AsyncIterable<GenerationRequest>;
type Result = IteratorResult<GenerationRequest, undefined>;

const END: Result = { done: true, value: undefined };

export class RequestFeed {
  /** What the source threw: then it is at fault, not the engine. */
  failure: { readonly thrown: unknown } | null = null;
  readonly #source: Iterator<GenerationRequest> | AsyncIterator<GenerationRequest>;
  /** Given out and not finished, in order. */
  readonly #unfinished = new Map<string, GenerationRequest>();
  #again: GenerationRequest[] = [];
  #pulling: Promise<Result> | null = null;
  #engines = 0;

  constructor(requests: Requests) {
    this.#source = Symbol.asyncIterator in requests ? requests[Symbol.asyncIterator]() : requests[Symbol.iterator]();
  }

  /** For one engine; the former one's is dead by then. What comes at once is given at once, so that it is batched together. */
  requests(): Iterable<GenerationRequest> {
    const engine = ++this.#engines;
    this.#again = [...this.#unfinished.values()];
    // An engine takes promises from a plain iterator, too; it has no return(), as the source outlives the engine.
    const next = () => this.#next(engine) as IteratorResult<GenerationRequest>;
    return { [Symbol.iterator]: () => ({ next }) };
  }

  finished(id: string): void {
    this.#unfinished.delete(id);
  }

  /** Ids that the next engine will be given again. */
  get unfinished(): readonly string[] {
    return [...this.#unfinished.keys()];
  }

  async close(): Promise<void> {
    if (this.failure === null) await this.#source.return?.();
  }

  #next(engine: number): Result | Promise<Result> {
    if (engine !== this.#engines) return END;
    const again = this.#again.shift();
    if (again !== undefined) return { done: false, value: again };
    if (this.#pulling !== null) return this.#pulling.then(() => this.#next(engine)); // begun for an engine that is gone
    try {
      const result = this.#source.next();
      if (!(result instanceof Promise)) return this.#pulled(engine, result);
      this.#pulling = result.then(
        (value) => this.#pulled(engine, value),
        (thrown: unknown) => this.#fail(thrown),
      );
      return this.#pulling;
    } catch (thrown) {
      return this.#fail(thrown);
    }
  }

  #pulled(engine: number, result: IteratorResult<GenerationRequest>): Result {
    this.#pulling = null;
    if (result.done) return END;
    this.#unfinished.set(result.value.id, result.value);
    if (engine !== this.#engines) this.#again.push(result.value);
    return result;
  }

  #fail(thrown: unknown): never {
    this.#pulling = null;
    this.failure = { thrown };
    throw thrown;
  }
}
