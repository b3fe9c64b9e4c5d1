/**
 * One attention node while it is connected: its backend, the account of its KV, what it takes at once, and what it has under way.
 * Whatever the backend throws or leaves unanswered ends here as one of two things: the node is full, or the node is lost.
 */
import type { AttentionBackend, StepEntry } from '@glinthawk/attention';
import { CapacityError, NodeLostError, toError } from '@glinthawk/core';
import type { KvPart, KvShard, PartRows } from './kv-shard.ts';
import { type KvBackend, NodeKv, type NodeKvOptions } from './node-kv.ts';
import type { NodeSpeed } from './scheduler/placement.ts';
import type { Sequence } from './sequence.ts';

/** How long a lost backend may take to let go of buffers before they are used again all the same. */
const LETTING_GO_MS = 5_000;
/** Steps after which a node that had no room for one is trusted with more again. */
const STEPS_BETWEEN_RAISES = 32;

const unlimited = { maxSteps: Number.POSITIVE_INFINITY, maxStepRows: Number.POSITIVE_INFINITY };

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
  readonly speed: NodeSpeed;
  /** Attends and rows under way. */
  attends = 0;
  rows = 0;
  /** What it takes at once: as it says, or less where it had no room for that. */
  mostSteps: number;
  mostStepRows: number;
  /** It had no room for a step, and none went through since: nothing new goes there. */
  strained = false;
  /**
   * Tokens of the shortest sequence that it had no room for, with nothing else there. What is as long goes there only where no other
   * node could take it.
   */
  refusedTokens = Number.POSITIVE_INFINITY;
  #stepsSinceChange = 0;
  #hasEndedSteps = false;
  #busyPerAttendMs = 0;
  #measured = { busyMs: 0, attends: 0 };
  #attendsEnded = 0;
  #kvTokensEnded = 0;
  readonly #kv: NodeKv;
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
    options: Omit<NodeKvOptions, 'node'> & {
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
    const { stepTokens, prefixSharing } = options;
    const told: KvBackend = {
      capacity: backend.capacity,
      geometry: backend.geometry,
      limits: backend.limits,
      open: (slot, shard) => backend.open(slot, shard),
      fork: (slot, parent, tokens) => backend.fork(slot, parent, tokens),
      free: (slot) => {
        if (this.#loss === null) this.#guarded(() => backend.free(slot));
      },
    };
    this.#kv = new NodeKv(told, { node: index, stepTokens, prefixSharing });
    backend.lost.then((error) => this.lose(error));
  }

  get shards(): readonly KvShard<Sequence>[] {
    return this.#kv.shards;
  }

  get isLost(): boolean {
    return this.#loss !== null;
  }

  get residents(): number {
    return this.shards.reduce((sum, shard) => sum + shard.residents.size, 0);
  }

  /** Whether it takes another sequence, as far as it isn't a matter of KV blocks. */
  get admits(): boolean {
    if (this.backend.draining !== undefined) return false;
    return this.#kv.slotsLeft > 0 && !(this.strained && this.residents > 0);
  }

  get slotsLeft(): number {
    return this.#kv.slotsLeft;
  }

  /** Parts of one context that it takes: each is a slot, and a row for every row. */
  get mostParts(): number {
    const { maxSlots = Number.POSITIVE_INFINITY, maxStepRows = Number.POSITIVE_INFINITY } = this.backend.limits ?? {};
    return Math.max(1, Math.min(maxSlots, maxStepRows));
  }

  /** Tokens of each part that a context could have here, with the whole node to itself. */
  get partTokens(): readonly number[] {
    const tokens = this.shards.map((shard) => shard.tokensIn(shard.blocks));
    return tokens.length <= this.mostParts ? tokens : tokens.sort((a, b) => b - a).slice(0, this.mostParts);
  }

  /** A step that it had a part in went through. */
  stepEnded(): void {
    this.strained = false;
    this.#hasEndedSteps = true;
    if (++this.#stepsSinceChange < STEPS_BETWEEN_RAISES) return;
    this.#stepsSinceChange = 0;
    const { maxSteps, maxStepRows } = this.backend.limits ?? unlimited;
    this.mostSteps = Math.min(Math.max(1, maxSteps), this.mostSteps + 1);
    this.mostStepRows = Math.min(Math.max(1, maxStepRows), this.mostStepRows * 2);
    this.refusedTokens *= 2;
    this.#kv.trustMore();
  }

  /** It had no room for one sequence alone. If nothing went through since it had none for another, it is asked for far less. */
  refuse(tokens: number): void {
    this.refusedTokens = Math.min(tokens, this.#hasEndedSteps ? this.refusedTokens : Math.ceil(this.refusedTokens / 2));
    this.#hasEndedSteps = false;
    this.#stepsSinceChange = 0;
  }

  /** It had no room for a step: fewer at once from now on, or fewer rows. */
  restrict(most: { readonly steps?: number; readonly rows?: number }): void {
    this.#stepsSinceChange = 0;
    this.mostSteps = Math.max(1, Math.min(this.mostSteps, most.steps ?? this.mostSteps));
    this.mostStepRows = Math.max(1, Math.min(this.mostStepRows, most.rows ?? this.mostStepRows));
  }

  /** As NodeKv.place. @throws NodeLostError; NodeFullError when it refuses the slot */
  place(sequence: Sequence, shard: KvShard<Sequence>): KvPart<Sequence> {
    return this.#asked(() => this.#kv.place(sequence, shard));
  }

  /** Opens a slot on a shard. @throws NodeLostError; NodeFullError when it refuses the slot */
  open(sequence: Sequence, shard: KvShard<Sequence>, firstToken = 0): KvPart<Sequence> {
    return this.#asked(() => this.#kv.open(sequence, shard, firstToken));
  }

  /** More of a sequence's KV stands. */
  advance(part: KvPart<Sequence>, sequence: Sequence): void {
    this.#kv.advance(part, sequence);
  }

  /** A sequence leaves its part; what stands of it is kept as long as there is room. */
  leave(part: KvPart<Sequence>, sequence: Sequence): void {
    this.#kv.leave(part, sequence);
    this.#letGoIfDraining();
  }

  free(part: KvPart<Sequence>): void {
    this.#kv.free(part);
    this.#letGoIfDraining();
  }

  /** As NodeKv.match. */
  match(sequence: Sequence, shard: KvShard<Sequence>) {
    return this.#kv.match(sequence, shard);
  }

  /** Slots that are kept for whom they may be of use. */
  get cachedSlots(): number {
    return this.#kv.cachedSlots;
  }

  /** As NodeKv.doubt. */
  doubt(part: KvPart<Sequence>, sequence: Sequence): boolean {
    return this.#kv.doubt(part, sequence);
  }

  /** As NodeKv.dropCached. */
  dropCached(): boolean {
    return this.#kv.dropCached();
  }

  /** Blocks are counted as the node counts them when it is told. @throws NodeFullError */
  announce(id: number, rows: readonly PartRows<Sequence>[]): void {
    if (this.#loss !== null) return;
    const entries = rows.map(
      ({ part: { slot }, position, count, visit }): StepEntry =>
        visit ? { slot, position, count, visit } : { slot, position, count },
    );
    this.#guarded(() => {
      this.#kv.announce(rows);
      this.backend.announce({ id, entries });
    });
  }

  retire(stepId: number): void {
    if (this.#loss === null) this.#guarded(() => this.backend.retire(stepId));
  }

  /** Rejects with NodeLostError or NodeFullError; also when the node is lost and the backend says nothing. */
  attend(
    stepId: number,
    layer: number,
    work: { readonly rows: number; readonly kvTokens: number },
    arrays: { readonly qkv: Float32Array; readonly output: Float32Array; readonly logSumExp?: Float32Array },
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
      const { qkv, output, logSumExp } = arrays;
      const attended = async () => this.backend.attend(stepId, layer, qkv, output, logSumExp);
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

  /** Kernel time of an attend, spread over the workers: how long one keeps others waiting. As of the last measure(). */
  get busyPerAttendMs(): number {
    return this.#busyPerAttendMs;
  }

  /** Looks at the node's own account of its time since this was last called. */
  measure(): void {
    const { busyMs } = this.backend.stats();
    const attends = this.#attendsEnded - this.#measured.attends;
    if (attends === 0) return;
    const spent = (busyMs - this.#measured.busyMs) / Math.max(1, this.backend.capacity.workers);
    this.#busyPerAttendMs = spent / attends;
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

  /** A node that wants to go may, as soon as nobody has KV there; not in the middle of what whoever gave that back is doing. */
  #letGoIfDraining(): void {
    if (this.backend.draining === undefined) return;
    queueMicrotask(() => {
      const { name, draining } = this.backend;
      if (this.residents === 0) this.lose(new NodeLostError(name, `${name} left: ${draining}`));
    });
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

  #asked<T>(call: () => T): T {
    try {
      return call();
    } catch (error) {
      throw this.#failure(error);
    }
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
