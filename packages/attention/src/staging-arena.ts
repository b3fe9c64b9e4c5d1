/**
 * Which parts of a range of addresses are free: for staging, whose sizes differ from step to step and live only as long as
 * one. First fit from the low end, and what is released joins its free neighbours, so that any order of sizes leaves the
 * range whole again. It hands out addresses and touches no memory.
 */
import { CapacityError } from '@glinthawk/core';

interface Extent {
  readonly address: number;
  readonly bytes: number;
}

export class StagingArena {
  readonly #bytes: number;
  #free: Extent[]; // by address; no two touch
  #usedBytes = 0;

  constructor(address: number, bytes: number) {
    this.#bytes = bytes;
    this.#free = [{ address, bytes }];
  }

  /** @throws CapacityError when no free part is long enough */
  take(bytes: number): number {
    const at = this.#free.findIndex((extent) => extent.bytes >= bytes);
    const extent = this.#free[at];
    if (extent === undefined) {
      throw new CapacityError(
        'ATTENTION_STAGING',
        `a step needs ${bytes} bytes of staging memory in its shard; steps in flight hold ${this.#usedBytes} of ${this.#bytes}`,
        { hint: 'have fewer or smaller micro-batches in flight, or use more workers' },
      );
    }
    const rest = { address: extent.address + bytes, bytes: extent.bytes - bytes };
    this.#free.splice(at, 1, ...(rest.bytes > 0 ? [rest] : []));
    this.#usedBytes += bytes;
    return extent.address;
  }

  /** As it was taken. */
  giveBack(address: number, bytes: number): void {
    let at = this.#free.findIndex((extent) => extent.address > address);
    if (at < 0) at = this.#free.length;
    const before = this.#free[at - 1];
    const after = this.#free[at];
    const joinsBefore = before !== undefined && before.address + before.bytes === address;
    const joinsAfter = after !== undefined && address + bytes === after.address;
    const joined = {
      address: joinsBefore ? before.address : address,
      bytes: bytes + (joinsBefore ? before.bytes : 0) + (joinsAfter ? after.bytes : 0),
    };
    this.#free.splice(joinsBefore ? at - 1 : at, Number(joinsBefore) + Number(joinsAfter), joined);
    this.#usedBytes -= bytes;
  }
}
