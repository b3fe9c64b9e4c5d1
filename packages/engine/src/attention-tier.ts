/**
 * The attention nodes that an engine has: connected at start, lost at any time, connected again in the background. A node's
 * connection is used by one object from its handshake to its end; a node that came back is a new, empty one.
 */
import type { AttentionSource } from '@glinthawk/attention';
import {
  AbortedError,
  type AttentionGeometry,
  type KvDtype,
  type Logger,
  NodeLostError,
  toError,
} from '@glinthawk/core';
import { NodeConnection } from './node-connection.ts';
import { NodeSpeed } from './scheduler/placement.ts';

const FIRST_BACKOFF_MS = 100;
const LONGEST_BACKOFF_MS = 10_000;

export interface AttentionTierOptions {
  readonly sources: readonly AttentionSource[];
  readonly geometry: AttentionGeometry;
  readonly kvDtype: KvDtype;
  readonly fingerprint: string;
  readonly waitForNodes: boolean;
  readonly attendTimeoutMs: number;
  readonly logger: Logger;
  readonly onJoined: (node: NodeConnection) => void;
  readonly onLost: (node: NodeConnection, error: NodeLostError) => void;
}

export class AttentionTier {
  readonly #options: AttentionTierOptions;
  readonly #connections: (NodeConnection | null)[];
  readonly #speeds: readonly NodeSpeed[];
  /** How long to wait before a source is tried again; grows until one of its nodes has done something. */
  readonly #backoffsMs: number[];
  readonly #abort = new AbortController();
  readonly #background = new Set<Promise<void>>();
  readonly #closing = new Set<Promise<void>>();
  #nodesLost = 0;
  #bytesSent = 0;
  #bytesReceived = 0;
  #lastBlocks: number[];
  /** Tokens of the largest shard that each source ever had. */
  readonly #shardTokens: number[];

  constructor(options: AttentionTierOptions) {
    this.#options = options;
    this.#connections = options.sources.map(() => null);
    this.#speeds = options.sources.map(() => new NodeSpeed());
    this.#backoffsMs = options.sources.map(() => FIRST_BACKOFF_MS);
    this.#lastBlocks = options.sources.map(() => 0);
    this.#shardTokens = options.sources.map(() => 0);
  }

  /**
   * Connects to every source at once. A refusal is fatal; an unreachable node is tried again in the background, if another
   * one is there or waiting was asked for.
   * @throws ProtocolError, NodeLostError, AbortedError
   */
  async start(signal?: AbortSignal): Promise<void> {
    const abort = () => this.#abort.abort();
    signal?.addEventListener('abort', abort, { once: true });
    try {
      const { sources, waitForNodes, logger } = this.#options;
      const results = await Promise.allSettled(sources.map((_, index) => this.#connect(index)));
      const failures = results.map((result) => (result.status === 'rejected' ? toError(result.reason) : null));
      const fatal = failures.find((error) => error !== null && !(error instanceof NodeLostError));
      if (fatal) throw fatal;
      const unreachable = failures.find((error) => error !== null);
      if (this.connected.length === 0 && !waitForNodes) {
        throw (
          unreachable ??
          new NodeLostError('none', 'no attention node was given', { hint: 'name at least one attention source' })
        );
      }
      const first = Promise.withResolvers<void>();
      const alone = this.connected.length === 0;
      for (const [index, error] of failures.entries()) {
        if (error === null) continue;
        logger.warn(`attention node ${sources[index]?.name} can't be reached; trying again`, { reason: error.message });
        // With another node there, nobody awaits the first one: its refusal is logged, no more.
        if (alone) this.#reconnect(index, first.resolve, first.reject);
        else this.#reconnect(index);
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
    return this.#connections.filter((connection) => connection !== null);
  }

  get nodesLost(): number {
    return this.#nodesLost;
  }

  /** Whether a node is away that had room for a sequence of so many tokens, and may come back. */
  awaitsRoomFor(tokens: number): boolean {
    return this.#connections.some((connection, i) => connection === null && (this.#shardTokens[i] ?? 0) >= tokens);
  }

  /**
   * Tokens that the largest shard can hold, of all nodes that were ever connected: what one request may have doesn't shrink
   * while a node is away.
   */
  get largestShardTokens(): number {
    return Math.max(0, ...this.#shardTokens);
  }

  node(index: number): NodeConnection | null {
    return this.#connections[index] ?? null;
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

  describe(): { name: string; connected: boolean; usedBlocks: number; blocks: number }[] {
    return this.#options.sources.map(({ name }, index) => {
      const connection = this.node(index);
      if (connection === null) return { name, connected: false, usedBlocks: 0, blocks: this.#lastBlocks[index] ?? 0 };
      let usedBlocks = 0;
      let blocks = 0;
      for (const shard of connection.shards) {
        usedBlocks += shard.usedBlocks;
        blocks += shard.blocks;
      }
      return { name, connected: true, usedBlocks, blocks };
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
    for (const [index, connection] of this.#connections.entries()) {
      this.#connections[index] = null;
      if (connection !== null) this.#end(connection);
    }
    await Promise.all(this.#closing);
  }

  async #connect(index: number): Promise<void> {
    const { sources, geometry, kvDtype, fingerprint, attendTimeoutMs, onJoined } = this.#options;
    const source = sources[index];
    const speed = this.#speeds[index];
    if (source === undefined || speed === undefined) throw new Error(`no attention source ${index}`);
    const backend = await source.connect(geometry, { kvDtype, fingerprint, signal: this.#abort.signal });
    if (this.#abort.signal.aborted) {
      await backend.close();
      throw new AbortedError();
    }
    const connection: NodeConnection = new NodeConnection(index, backend, {
      speed,
      attendTimeoutMs,
      onLost: (error) => this.#lost(connection, error),
    });
    this.#connections[index] = connection;
    const shardTokens = connection.shards.map((shard) => shard.tokens);
    this.#shardTokens[index] = Math.max(this.#shardTokens[index] ?? 0, ...shardTokens);
    this.#lastBlocks[index] = connection.shards.reduce((sum, shard) => sum + shard.blocks, 0);
    onJoined(connection);
  }

  #lost(connection: NodeConnection, error: NodeLostError): void {
    if (this.#connections[connection.index] !== connection) return;
    this.#connections[connection.index] = null;
    this.#nodesLost++;
    this.#options.logger.warn(`attention node ${connection.backend.name} is lost`, { reason: error.message });
    this.#end(connection);
    if (connection.wasUsed) this.#backoffsMs[connection.index] = FIRST_BACKOFF_MS;
    this.#options.onLost(connection, error);
    this.#reconnect(connection.index);
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
  #reconnect(index: number, onConnected?: () => void, onRefused?: (error: Error) => void): void {
    const { sources, logger } = this.#options;
    const attempt = async () => {
      const reasons = new Set<string>();
      while (!this.#abort.signal.aborted) {
        const backoffMs = this.#backoffsMs[index] ?? FIRST_BACKOFF_MS;
        await sleep(backoffMs, this.#abort.signal);
        this.#backoffsMs[index] = Math.min(backoffMs * 2, LONGEST_BACKOFF_MS);
        if (this.#abort.signal.aborted) return;
        try {
          await this.#connect(index);
          logger.info(`attention node ${sources[index]?.name} joined`);
          onConnected?.();
          return;
        } catch (thrown) {
          if (this.#abort.signal.aborted) return;
          const error = toError(thrown);
          if (!(error instanceof NodeLostError)) {
            const level = reasons.has(error.message) ? 'debug' : 'warn';
            reasons.add(error.message);
            logger[level](`attention node ${sources[index]?.name} refuses`, { reason: error.message });
            onRefused?.(error);
          }
        }
      }
    };
    const running = attempt().finally(() => this.#background.delete(running));
    this.#background.add(running);
  }
}

/** Ends early, and quietly, when aborted. */
function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done, { once: true });
  });
}
