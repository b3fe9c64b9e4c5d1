/**
 * The attention nodes that an engine has: connected at start, lost at any time, connected again in the background. A node's
 * connection is used by one object from its handshake to its end; a node that came back is a new, empty one.
 */
import type { AttentionBackend, AttentionSource, AttentionStep, Slot } from '@glinthawk/attention';
import {
  AbortedError,
  type AttentionGeometry,
  CapacityError,
  type KvDtype,
  type Logger,
  NodeLostError,
  toError,
} from '@glinthawk/core';
import { KvShard, type Placement, SlotTable } from './kv-shard.ts';
import { NodeSpeed } from './scheduler/placement.ts';
import type { Sequence } from './sequence.ts';

const FIRST_BACKOFF_MS = 100;
const LONGEST_BACKOFF_MS = 10_000;
/** How long a lost backend may take to let go of buffers before they are used again all the same. */
const LETTING_GO_MS = 5_000;

/** Steps after which a node that had no room for one is trusted with more again. */
const STEPS_BETWEEN_RAISES = 32;

/** A node has no room for a step or a slot. Its KV stands: with less to hold at once it may go on. */
export class NodeFullError extends CapacityError {
  readonly connection: NodeConnection;

  constructor(connection: NodeConnection, cause: CapacityError) {
    super(cause.code, cause.message, { cause, ...(cause.hint === undefined ? {} : { hint: cause.hint }) });
    this.connection = connection;
  }
}

/**
 * One node while it is connected. A backend that fails in any other way than for lack of room is not trusted any more: its node
 * counts as lost, which costs time and no request.
 */
export class NodeConnection {
  readonly index: number;
  readonly backend: AttentionBackend;
  readonly shards: readonly KvShard<Sequence>[];
  readonly speed: NodeSpeed;
  /** Attends and rows under way. */
  attends = 0;
  rows = 0;
  /** What it takes at once: as it says, or less where it had no room for that. */
  mostSteps: number;
  mostStepRows: number;
  /** It had no room for a step, and none went through since: nothing new goes there. */
  strained = false;
  #stepsSinceChange = 0;
  #mostSlots: number;
  #busyPerAttendMs = 0;
  #measured = { busyMs: 0, attends: 0 };
  #attendsEnded = 0;
  #kvTokensEnded = 0;
  readonly #slots = new SlotTable();
  readonly #onLost: (error: NodeLostError) => void;
  /** How to reject each attend under way, and when it began; oldest first. */
  readonly #underWay = new Map<(error: NodeLostError) => void, number>();
  readonly #attendTimeoutMs: number;
  #watchdog: ReturnType<typeof setTimeout> | null = null;
  #loss: NodeLostError | null = null;
  #closing: Promise<void> | null = null;

  constructor(
    index: number,
    backend: AttentionBackend,
    options: {
      readonly speed: NodeSpeed;
      readonly attendTimeoutMs: number;
      readonly onLost: (error: NodeLostError) => void;
    },
  ) {
    this.index = index;
    this.backend = backend;
    this.speed = options.speed;
    this.#attendTimeoutMs = options.attendTimeoutMs;
    this.#onLost = options.onLost;
    this.mostSteps = Math.max(1, backend.limits?.maxSteps ?? Number.POSITIVE_INFINITY);
    this.mostStepRows = Math.max(1, backend.limits?.maxStepRows ?? Number.POSITIVE_INFINITY);
    this.#mostSlots = Math.max(1, backend.limits?.maxSlots ?? Number.POSITIVE_INFINITY);
    const { blockTokens, shards } = backend.capacity;
    this.shards = shards.map(({ blocks }, shard) => new KvShard({ node: index, index: shard }, blockTokens, blocks));
    backend.lost.then((error) => this.lose(error));
  }

  get isLost(): boolean {
    return this.#loss !== null;
  }

  get residents(): number {
    return this.shards.reduce((sum, shard) => sum + shard.residents.size, 0);
  }

  /** Whether it takes another sequence, as far as it isn't a matter of KV blocks. */
  get admits(): boolean {
    return this.#slots.taken < this.#mostSlots && !(this.strained && this.residents > 0);
  }

  /** A step that it had a part in went through. */
  stepEnded(): void {
    this.strained = false;
    if (++this.#stepsSinceChange < STEPS_BETWEEN_RAISES) return;
    this.#stepsSinceChange = 0;
    const { maxSteps, maxStepRows } = this.backend.limits ?? unlimited;
    this.mostSteps = Math.min(Math.max(1, maxSteps), this.mostSteps + 1);
    this.mostStepRows = Math.min(Math.max(1, maxStepRows), this.mostStepRows * 2);
  }

  /** It had no room for a step: fewer at once from now on, or fewer rows. */
  restrict(most: { readonly steps?: number; readonly rows?: number }): void {
    this.#stepsSinceChange = 0;
    this.mostSteps = Math.max(1, Math.min(this.mostSteps, most.steps ?? this.mostSteps));
    this.mostStepRows = Math.max(1, Math.min(this.mostStepRows, most.rows ?? this.mostStepRows));
  }

  /** Opens a slot on a shard. @throws NodeLostError; NodeFullError when it refuses the slot, with none open at all */
  place(sequence: Sequence, shard: KvShard<Sequence>): Placement<Sequence> {
    const slot = this.#slots.take();
    try {
      this.backend.open(slot, shard.index);
    } catch (error) {
      this.#slots.giveBack(slot);
      if (error instanceof CapacityError && this.#slots.taken > 0) this.#mostSlots = this.#slots.taken;
      throw this.#failure(error);
    }
    return shard.take(sequence, slot, sequence.length);
  }

  free(slot: Slot): void {
    this.#slots.giveBack(slot);
    if (this.#loss === null) this.#guarded(() => this.backend.free(slot));
  }

  /** @throws NodeFullError */
  announce(step: AttentionStep): void {
    if (this.#loss === null) this.#guarded(() => this.backend.announce(step));
  }

  retire(stepId: number): void {
    if (this.#loss === null) this.#guarded(() => this.backend.retire(stepId));
  }

  /** Rejects with NodeLostError or NodeFullError; also when the node is lost and the backend says nothing. */
  attend(
    stepId: number,
    layer: number,
    work: { readonly rows: number; readonly kvTokens: number },
    qkv: Float32Array,
    output: Float32Array,
  ): Promise<void> {
    if (this.#loss !== null) return Promise.reject(this.#loss);
    this.attends++;
    this.rows += work.rows;
    return new Promise<void>((resolve, reject) => {
      const settled = () => {
        this.#underWay.delete(reject);
        this.attends--;
        this.rows -= work.rows;
      };
      this.#underWay.set(reject, performance.now());
      this.#watch();
      const attended = async () => this.backend.attend(stepId, layer, qkv, output);
      attended().then(
        () => {
          settled();
          this.#attendsEnded++;
          this.#kvTokensEnded += work.kvTokens;
          resolve();
        },
        (thrown: unknown) => {
          settled();
          reject(this.#failure(thrown));
        },
      );
    });
  }

  /** Whether it ever did what it is there for. */
  get wasUsed(): boolean {
    return this.#attendsEnded > 0;
  }

  /** Kernel time of an attend, spread over the shards: how long one keeps others waiting. As of the last measure(). */
  get busyPerAttendMs(): number {
    return this.#busyPerAttendMs;
  }

  /** Looks at the node's own account of its time since this was last called. */
  measure(): void {
    const { busyMs } = this.backend.stats();
    const attends = this.#attendsEnded - this.#measured.attends;
    if (attends === 0) return;
    const spent = busyMs - this.#measured.busyMs;
    this.#busyPerAttendMs = spent / attends / this.shards.length;
    this.speed.add(this.#kvTokensEnded, spent);
    this.#kvTokensEnded = 0;
    this.#measured = { busyMs, attends: this.#attendsEnded };
  }

  /**
   * The connection isn't used again. What is under way is rejected by the backend, or here as soon as the backend is closed:
   * not before, as it may still write into the micro-batch's buffers.
   */
  lose(error: NodeLostError): void {
    if (this.#loss !== null) return;
    this.#loss = error;
    this.#onLost(error);
    const rejectAll = () => {
      clearTimeout(timer);
      for (const reject of this.#underWay.keys()) reject(error);
      this.#underWay.clear();
    };
    const timer = setTimeout(rejectAll, LETTING_GO_MS);
    this.close().then(rejectAll, rejectAll);
  }

  close(): Promise<void> {
    if (this.#watchdog !== null) clearTimeout(this.#watchdog);
    this.#closing ??= this.backend.close();
    return this.#closing;
  }

  /** Counts as lost when an attend has been under way for so long: a node may answer everything else and still be stuck. */
  loseIfStalled(afterMs: number): void {
    const [oldest] = this.#underWay.values();
    if (oldest === undefined || performance.now() - oldest < afterMs) return;
    const { name } = this.backend;
    this.lose(
      new NodeLostError(name, `${name} hasn't answered an attend for ${Math.round(performance.now() - oldest)} ms`),
    );
  }

  /** One timer for all attends: set for the oldest, and again when it fires and others are under way. */
  #watch(): void {
    if (this.#watchdog !== null || this.#loss !== null) return;
    const [oldest] = this.#underWay.values();
    if (oldest === undefined) return;
    const dueMs = Math.max(1, oldest + this.#attendTimeoutMs - performance.now());
    this.#watchdog = setTimeout(() => {
      this.#watchdog = null;
      this.loseIfStalled(this.#attendTimeoutMs);
      this.#watch();
    }, dueMs);
  }

  /** What a failure of the backend means here; the node is lost unless it was only full. */
  #failure(thrown: unknown): NodeLostError | NodeFullError {
    if (this.#loss !== null) return this.#loss;
    if (thrown instanceof CapacityError) return new NodeFullError(this, thrown);
    const { name } = this.backend;
    const cause = toError(thrown);
    const loss =
      cause instanceof NodeLostError ? cause : new NodeLostError(name, `${name} failed: ${cause.message}`, { cause });
    this.lose(loss);
    return loss;
  }

  #guarded(call: () => void): void {
    try {
      call();
    } catch (thrown) {
      const failure = this.#failure(thrown);
      if (failure instanceof NodeFullError) throw failure;
    }
  }
}

const unlimited = { maxSteps: Number.POSITIVE_INFINITY, maxStepRows: Number.POSITIVE_INFINITY };

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

  /** No node is connected any more. */
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
