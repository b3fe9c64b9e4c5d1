/**
 * Blocks, slots and tokens as a backend counts them, held to the model after every action, with steps under way: here at once; over a
 * wire the node is asked, and what it answers is of the calls that were sent before the question, as it takes frames in their order.
 * What only ends with a step (tokens stored) is looked at when nothing is under way.
 */
import type { CacheModel } from './cache-model.ts';
import type { Counts } from './counts.ts';
import type { Rig, Told } from './phase.ts';

/** Questions whose answers have not come. */
const MOST_ASKED = 64;
/** Beside KV: kernels' and workers' own memory, tables, and the staging of what is under way. */
const SHARD_EXTRA_BYTES = 64 << 20;

export class Accounts {
  readonly #rig: Rig;
  readonly #model: CacheModel;
  readonly #counts: Counts;
  readonly #asked = new Set<Promise<void>>();
  #failure: Error | undefined;
  #forkedTokens = 0;
  #appendedTokens = 0;

  constructor(rig: Rig, model: CacheModel, counts: Counts) {
    this.#rig = rig;
    this.#model = model;
    this.#counts = counts;
  }

  forked(tokens: number): void {
    this.#forkedTokens += tokens;
  }

  /** All layers of a step have run that stores so many. */
  appended(tokens: number): void {
    this.#appendedTokens += tokens;
  }

  /** After each action. @throws Error when this or an earlier answer is another than the model's */
  async check(action: number, stepsUnderWay: number): Promise<void> {
    const wanted = this.#wanted();
    const told = this.#rig.told();
    this.#counts.accounts++;
    if (stepsUnderWay > 0) this.#counts.accountsUnderWay++;
    if (!(told instanceof Promise)) {
      requireSame(`after action ${action}`, told, wanted);
      return;
    }
    const asked = told
      .then((answer) => requireSame(`after action ${action}`, answer, wanted))
      .catch((error: Error) => {
        this.#failure ??= error;
      })
      .finally(() => this.#asked.delete(asked));
    this.#asked.add(asked);
    if (this.#asked.size >= MOST_ASKED) await Promise.race(this.#asked);
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Nothing is under way. */
  async checkAtRest(): Promise<void> {
    await Promise.all(this.#asked);
    if (this.#failure !== undefined) throw this.#failure;
    const { cache, told } = this.#rig;
    const wanted = { ...this.#wanted(), appendedTokens: this.#appendedTokens };
    const { appendedTokens } = cache.stats();
    requireSame('at rest', { ...(await told()), appendedTokens }, wanted);
    const { blockBytes, shards } = cache.capacity;
    const bound = shards.reduce((sum, { blocks }) => sum + blocks * blockBytes + SHARD_EXTRA_BYTES, 0);
    if (cache.allocatedBytes() > bound) throw new Error(`${cache.allocatedBytes()} bytes are held, ${bound} may be`);
  }

  #wanted(): Told {
    const { usedBlocks, slots } = this.#model;
    return { usedBlocks, openSlots: slots.size, forkedTokens: this.#forkedTokens };
  }
}

function requireSame<T extends object>(when: string, found: T, wanted: T): void {
  const [a, b] = [JSON.stringify(found), JSON.stringify(wanted)];
  if (a !== b) throw new Error(`${when} the backend counts ${a}, the model ${b}`);
}
