/**
 * The slots of one session at a node: OPEN, FORK and FREE as calls of the backend. What breaks the protocol throws; what the backend
 * refuses is kept, and told to every ATTEND that needs the slot.
 */
import { GlinthawkError, ProtocolError, toError } from '@glinthawk/core';
import type { ForkRecord, SessionLimits } from '@glinthawk/wire';
import type { AttentionBackend, Slot } from '../backend.ts';

interface OpenSlot {
  readonly generation: number;
  /** Why the backend did not make it. */
  readonly refusal: GlinthawkError | undefined;
}

export class SessionSlots {
  readonly #backend: AttentionBackend;
  readonly #limits: SessionLimits;
  readonly #maxTokens: number;
  readonly #slots = new Map<number, OpenSlot>();
  /** The latest generation of every index that was ever open. */
  readonly #generations = new Map<number, number>();

  constructor(backend: AttentionBackend, limits: SessionLimits, maxTokens: number) {
    this.#backend = backend;
    this.#limits = limits;
    this.#maxTokens = maxTokens;
  }

  get size(): number {
    return this.#slots.size;
  }

  /** @throws ProtocolError */
  open(slot: Slot, shard: number): void {
    this.#checkNew('OPEN', slot);
    const shards = this.#backend.capacity.shards.length;
    if (shard >= shards) throw new ProtocolError('BAD_SHARD', `OPEN names shard ${shard}; there are ${shards}`);
    this.#add(
      slot,
      refusalOf(() => this.#backend.open(slot, shard)),
    );
  }

  /** @throws ProtocolError */
  fork({ parent, child, tokens }: ForkRecord): void {
    this.#checkNew('FORK', child);
    if (tokens > this.#maxTokens) {
      throw new ProtocolError('BAD_FIELD', `FORK of ${tokens} tokens; contexts have at most ${this.#maxTokens}`);
    }
    const { refusal } = this.require('FORK', parent);
    this.#add(child, refusal ?? refusalOf(() => this.#backend.fork(child, parent, tokens)));
  }

  /** What is late, for a slot that is gone, is ignored. */
  free(slot: Slot): void {
    const open = this.#slots.get(slot.index);
    if (open?.generation !== slot.generation) return;
    this.#slots.delete(slot.index);
    if (open.refusal === undefined) this.#backend.free(slot);
  }

  /** @throws ProtocolError when the slot isn't open */
  require(what: string, { index, generation }: Slot): OpenSlot {
    const open = this.#slots.get(index);
    if (open === undefined) throw new ProtocolError('UNKNOWN_SLOT', `${what} names slot ${index}, which is not open`);
    if (open.generation !== generation) {
      throw new ProtocolError(
        'WRONG_GENERATION',
        `${what} names generation ${generation} of slot ${index}, not ${open.generation}`,
      );
    }
    return open;
  }

  clear(): void {
    this.#slots.clear();
  }

  #checkNew(what: string, { index, generation }: Slot): void {
    const { maxSlots } = this.#limits;
    if (index >= maxSlots) {
      throw new ProtocolError('BAD_SLOT', `${what} names slot ${index}; slots are below ${maxSlots}`);
    }
    if (this.#slots.has(index)) {
      throw new ProtocolError('SLOT_IN_USE', `${what} names slot ${index}, which is open`);
    }
    const last = this.#generations.get(index);
    if (last !== undefined && generation <= last) {
      throw new ProtocolError(
        'WRONG_GENERATION',
        `${what} of slot ${index} in generation ${generation}, after ${last}`,
      );
    }
  }

  #add({ index, generation }: Slot, refusal: GlinthawkError | undefined): void {
    this.#generations.set(index, generation);
    this.#slots.set(index, { generation, refusal });
  }
}

/** What a backend refused on purpose; anything else that it throws is a bug and ends the session. */
export function refusalOf(call: () => void): GlinthawkError | undefined {
  try {
    call();
    return undefined;
  } catch (error) {
    if (error instanceof GlinthawkError) return error;
    throw toError(error);
  }
}
