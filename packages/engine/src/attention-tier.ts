/**
 * The attention nodes that an engine has: connected at start or attached later, lost at any time, connected again in the
 * background. A node's connection is used by one object from its handshake to its end; a node that came back is a new, empty one.
 * Each node has a place, whose index is its name everywhere in the engine. A place stays its source's for good, unless the source
 * gives a backend only once: then it is vacant when that is lost, and the next node that is attached takes the lowest vacant one.
 */
import type { AttentionBackend, AttentionSource } from '@glinthawk/attention';
import {
  AbortedError,
  type AttentionGeometry,
  type KvDtype,
  type Logger,
  NodeLostError,
  ProtocolError,
  sleep,
  toError,
} from '@glinthawk/core';
import { NodeConnection } from './node-connection.ts';
import { mostContextTokens } from './scheduler/part-plan.ts';
import { NodeSpeed } from './scheduler/placement.ts';

const FIRST_BACKOFF_MS = 100;
const LONGEST_BACKOFF_MS = 10_000;
/** More than that for a node that sent what it may not, twice as long each time: it costs the sequences that it has by then. */
const FIRST_DISTRUST_MS = 1_000;
const LONGEST_DISTRUST_MS = 300_000;

export interface AttentionTierOptions {
  readonly sources: readonly AttentionSource[];
  readonly geometry: AttentionGeometry;
  readonly kvDtype: KvDtype;
  readonly fingerprint: string;
  readonly waitForNodes: boolean;
  /** Nodes that nobody knows of yet will be attached. */
  readonly nodesMayJoin: boolean;
  readonly attendTimeoutMs: number;
  /** Tokens of one sequence in a step, at most. */
  readonly stepTokens: number;
  readonly prefixSharing: boolean;
  readonly logger: Logger;
  readonly onJoined: (node: NodeConnection) => void;
  readonly onLost: (node: NodeConnection, error: NodeLostError) => void;
}

/** One index, and what was learned about the node that has it. */
interface Place {
  readonly name: string;
  /** Where it is had from again; null where the place is vacant. */
  readonly source: AttentionSource | null;
  readonly speed: NodeSpeed;
  connection: NodeConnection | null;
  /** How long to wait before the source is tried again; grows until one of its nodes has done something. */
  backoffMs: number;
  /** How often a connection ended because its node broke the protocol, or sent what are no numbers. */
  offences: number;
  /** Of the latest connection. */
  blocks: number;
  /** Tokens of each part that one context could have there, as of the connection that had most room. */
  partTokens: readonly number[];
}

function placeOf(name: string, source: AttentionSource | null): Place {
  return {
    name,
    source,
    speed: new NodeSpeed(),
    connection: null,
    backoffMs: FIRST_BACKOFF_MS,
    offences: 0,
    blocks: 0,
    partTokens: [],
  };
}

export class AttentionTier {
  readonly #options: AttentionTierOptions;
  readonly #places: Place[];
  readonly #abort = new AbortController();
  readonly #background = new Set<Promise<void>>();
  readonly #closing = new Set<Promise<void>>();
  #nodesLost = 0;
  #bytesSent = 0;
  #bytesReceived = 0;

  constructor(options: AttentionTierOptions) {
    this.#options = options;
    this.#places = options.sources.map((source) => placeOf(source.name, source));
  }

  /**
   * Connects to every source at once. A refusal is fatal; an unreachable node is tried again in the background, if another
   * one is there or may join, or waiting was asked for; but not one that is good for once.
   * @throws ProtocolError, NodeLostError, AbortedError
   */
  async start(signal?: AbortSignal): Promise<void> {
    const abort = () => this.#abort.abort();
    signal?.addEventListener('abort', abort, { once: true });
    try {
      const { waitForNodes, nodesMayJoin, logger } = this.#options;
      const places = [...this.#places];
      const results = await Promise.allSettled(places.map((place, index) => this.#connect(place, index)));
      const failures = results.map((result) => (result.status === 'rejected' ? toError(result.reason) : null));
      const fatal = failures.find((error) => error !== null && !(error instanceof NodeLostError));
      if (fatal) throw fatal;
      const unreachable = failures.find((error) => error !== null);
      const mayCome = waitForNodes && places.some(({ source }) => source?.once !== true);
      if (this.connected.length === 0 && !mayCome && !nodesMayJoin) {
        throw (
          unreachable ??
          new NodeLostError('none', 'no attention node was given', { hint: 'name at least one attention source' })
        );
      }
      const first = Promise.withResolvers<void>();
      const alone = this.connected.length === 0 && !nodesMayJoin;
      for (const [index, place] of places.entries()) {
        const error = failures[index] ?? null;
        if (error === null) continue;
        if (place.source?.once) {
          this.#places[index] = placeOf(place.name, null);
          logger.warn(`attention node ${place.name} can't be reached`, { reason: error.message });
          continue;
        }
        logger.warn(`attention node ${place.name} can't be reached; trying again`, { reason: error.message });
        // With another node there, nobody awaits the first one: its refusal is logged, no more.
        if (alone) this.#reconnect(place, index, first.resolve, first.reject);
        else this.#reconnect(place, index);
      }
      if (alone) {
        if (signal?.aborted) throw new AbortedError();
        this.#abort.signal.addEventListener('abort', () => first.reject(new AbortedError()), { once: true });
        await first.promise;
      }
    } catch (error) {
      await this.close();
      throw signal?.aborted ? new AbortedError() : error;
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }

  get connected(): readonly NodeConnection[] {
    return this.#places.map(({ connection }) => connection).filter((connection) => connection !== null);
  }

  get nodesLost(): number {
    return this.#nodesLost;
  }

  /**
   * Connects a source and gives it a place. What fails leaves nothing behind; what was connected once is tried again when it is
   * lost, if its source can be.
   * @returns its index @throws ProtocolError, NodeLostError, AbortedError
   */
  async attach(source: AttentionSource): Promise<number> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#background.add(promise); // close() waits for it
    try {
      const backend = await this.#open(source);
      const vacant = this.#places.findIndex((place) => place.source === null);
      const index = vacant < 0 ? this.#places.length : vacant;
      const place = placeOf(source.name, source);
      this.#places[index] = place;
      this.#settle(place, index, backend);
      return index;
    } catch (thrown) {
      throw this.#abort.signal.aborted ? new AbortedError(`${source.name} came to an engine that is closing`) : thrown;
    } finally {
      this.#background.delete(promise);
      resolve();
    }
  }

  /** Whether nodes are away and may come back, or may yet join, that together with those that are here have room for a sequence. */
  awaitsRoomFor(tokens: number): boolean {
    if (this.#options.nodesMayJoin) return true;
    if (!this.#options.waitForNodes || this.#places.every(({ connection }) => connection !== null)) return false;
    const here = this.#places.filter(({ connection, source }) => connection !== null || source !== null);
    return mostContextTokens(here.flatMap(({ partTokens }) => partTokens)) >= tokens;
  }

  /**
   * Tokens that one sequence's KV can have: those of all nodes that are or were connected, as what one request may have doesn't shrink
   * while a node is away. Unlimited where nodes may join, since nobody knows their size.
   */
  get mostSequenceTokens(): number {
    if (this.#options.nodesMayJoin) return Number.POSITIVE_INFINITY;
    return mostContextTokens(this.#places.flatMap(({ partTokens }) => partTokens));
  }

  node(index: number): NodeConnection | null {
    return this.#places[index]?.connection ?? null;
  }

  bytes(): { readonly sent: number; readonly received: number } {
    let sent = this.#bytesSent;
    let received = this.#bytesReceived;
    for (const { backend } of this.connected) {
      const stats = backend.stats();
      sent += stats.bytesSent;
      received += stats.bytesReceived;
    }
    return { sent, received };
  }

  describe(): { name: string; connected: boolean; usedBlocks: number; cachedBlocks: number; blocks: number }[] {
    return this.#places.map(({ name, connection, blocks }) => {
      const shards = connection?.shards ?? [];
      const usedBlocks = shards.reduce((sum, shard) => sum + shard.usedBlocks, 0);
      const cachedBlocks = shards.reduce((sum, shard) => sum + shard.cachedBlocks, 0);
      return { name, connected: connection !== null, usedBlocks, cachedBlocks, blocks };
    });
  }

  /** Gives up on nodes with an attend under way for so long. */
  loseStalled(afterMs: number): void {
    for (const connection of this.connected) connection.loseIfStalled(afterMs);
  }

  /** Nodes that are away stay away. */
  stopConnecting(): void {
    this.#abort.abort();
  }

  async close(): Promise<void> {
    this.stopConnecting();
    await Promise.all(this.#background);
    for (const place of this.#places) {
      const { connection } = place;
      place.connection = null;
      if (connection !== null) this.#end(connection);
    }
    await Promise.all(this.#closing);
  }

  async #connect(place: Place, index: number): Promise<void> {
    if (place.source === null) throw new Error(`attention place ${index} is vacant`);
    this.#settle(place, index, await this.#open(place.source));
  }

  async #open(source: AttentionSource): Promise<AttentionBackend> {
    const { geometry, kvDtype, fingerprint } = this.#options;
    const { signal } = this.#abort;
    if (signal.aborted) throw new AbortedError();
    const backend = await source.connect(geometry, { kvDtype, fingerprint, signal });
    if (!signal.aborted) return backend;
    await backend.close();
    throw new AbortedError();
  }

  #settle(place: Place, index: number, backend: AttentionBackend): void {
    const { attendTimeoutMs, stepTokens, prefixSharing } = this.#options;
    const connection: NodeConnection = new NodeConnection(index, backend, {
      speed: place.speed,
      attendTimeoutMs,
      stepTokens,
      prefixSharing,
      onLost: (error) => this.#lost(connection, error),
    });
    place.connection = connection;
    const { partTokens } = connection;
    if (mostContextTokens(partTokens) > mostContextTokens(place.partTokens)) place.partTokens = partTokens;
    place.blocks = connection.shards.reduce((sum, shard) => sum + shard.blocks, 0);
    this.#options.onJoined(connection);
  }

  #lost(connection: NodeConnection, error: NodeLostError): void {
    const { index } = connection;
    const place = this.#places[index];
    if (place === undefined || place.connection !== connection) return;
    place.connection = null;
    this.#nodesLost++;
    const lost = `${connection.backend.name} is lost`;
    // Most errors say so themselves, which once is enough.
    const reason = error.message.startsWith(`${lost}: `) ? error.message.slice(lost.length + 2) : error.message;
    this.#options.logger.warn(`attention node ${lost}`, { reason });
    this.#end(connection);
    if (connection.wasUsed) place.backoffMs = FIRST_BACKOFF_MS;
    if (error.cause instanceof ProtocolError) place.offences++;
    const isGone = place.source?.once === true;
    if (isGone) this.#places[index] = placeOf(place.name, null);
    this.#options.onLost(connection, error);
    if (!isGone) this.#reconnect(place, index);
  }

  #end(connection: NodeConnection): void {
    const { bytesSent, bytesReceived } = connection.backend.stats();
    this.#bytesSent += bytesSent;
    this.#bytesReceived += bytesReceived;
    const closed = connection
      .close()
      .catch((thrown) => {
        this.#options.logger.debug(`closing ${connection.backend.name} failed`, { reason: toError(thrown).message });
      })
      .finally(() => this.#closing.delete(closed));
    this.#closing.add(closed);
  }

  /** Tries until it succeeds or the tier is closed; a refusal ends it only where `onRefused` is given (at start). */
  #reconnect(place: Place, index: number, onConnected?: () => void, onRefused?: (error: Error) => void): void {
    const { logger } = this.#options;
    const attempt = async () => {
      const reasons = new Set<string>();
      await sleep(distrustMs(place.offences), this.#abort.signal);
      while (!this.#abort.signal.aborted) {
        const { backoffMs } = place;
        await sleep(backoffMs, this.#abort.signal);
        place.backoffMs = Math.min(backoffMs * 2, LONGEST_BACKOFF_MS);
        if (this.#abort.signal.aborted) return;
        try {
          await this.#connect(place, index);
          logger.info(`attention node ${place.name} joined`);
          onConnected?.();
          return;
        } catch (thrown) {
          if (this.#abort.signal.aborted) return;
          const error = toError(thrown);
          if (!(error instanceof NodeLostError)) {
            const level = reasons.has(error.message) ? 'debug' : 'warn';
            reasons.add(error.message);
            logger[level](`attention node ${place.name} refuses`, { reason: error.message });
            onRefused?.(error);
          }
        }
      }
    };
    const running = attempt().finally(() => this.#background.delete(running));
    this.#background.add(running);
  }
}

function distrustMs(offences: number): number {
  return offences === 0 ? 0 : Math.min(FIRST_DISTRUST_MS * 2 ** (offences - 1), LONGEST_DISTRUST_MS);
}
