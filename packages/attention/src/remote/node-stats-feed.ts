/**
 * A node's statistics as its engine has them: asked for whenever something may have changed them, one request at a time, so that they
 * are a round trip old at most and cost no more than one small frame a round trip.
 */
import type { NodeLostError } from '@glinthawk/core';
import { type Connection, decodeStats, type NodeStats, statsFrame } from '@glinthawk/wire';
import type { AttentionStats } from '../backend.ts';

export class NodeStatsFeed {
  readonly #connection: Connection;
  readonly #wanted = new Map<number, PromiseWithResolvers<NodeStats>>();
  #requests = 0;
  #latest: Pick<AttentionStats, 'usedBlocks' | 'kvBytesRead' | 'appendedTokens' | 'forkedTokens'>;
  #isAsked = false;
  #isStale = false;

  constructor(connection: Connection) {
    this.#connection = connection;
    this.#latest = { usedBlocks: 0, kvBytesRead: 0, appendedTokens: 0, forkedTokens: 0 };
  }

  /** As the node told last. */
  get latest(): Pick<AttentionStats, 'usedBlocks' | 'kvBytesRead' | 'appendedTokens' | 'forkedTokens'> {
    return this.#latest;
  }

  ask(): Promise<NodeStats> {
    const wanted = Promise.withResolvers<NodeStats>();
    this.#wanted.set(++this.#requests, wanted);
    this.#connection.send(statsFrame(this.#requests));
    return wanted.promise;
  }

  /** Something was sent that may change them. */
  refresh(): void {
    this.#isStale = this.#isAsked;
    if (this.#isAsked) return;
    this.#isAsked = true;
    this.ask().then(
      () => {
        this.#isAsked = false;
        if (this.#isStale) this.refresh();
      },
      () => {}, // the node is gone
    );
  }

  /** Whether there is a request of that id. */
  awaits(id: number): boolean {
    return this.#wanted.has(id);
  }

  /** @throws ProtocolError */
  answer(id: number, payload: Uint8Array): void {
    const stats = decodeStats(payload);
    const { usedBlocks, kvBytesRead, appendedTokens, forkedTokens } = stats;
    this.#latest = { usedBlocks, kvBytesRead, appendedTokens, forkedTokens };
    this.#wanted.get(id)?.resolve(stats);
    this.#wanted.delete(id);
  }

  fail(error: NodeLostError): void {
    for (const { reject } of this.#wanted.values()) reject(error);
    this.#wanted.clear();
  }
}
