/**
 * An attention backend on the other end of a connection. What the engine calls is checked here first, so that a mistake is
 * thrown where it was made and doesn't cost the connection; frames of one turn of the event loop leave together; rows of f32 are
 * received straight into the engine's arrays. When the connection goes, everything pending rejects and nothing is retried: the
 * engine knows the tokens and rebuilds.
 */
import {
  type AttentionGeometry,
  type GlinthawkError,
  type KvDtype,
  type Logger,
  NodeLostError,
  ProtocolError,
  qkvRowFloats,
  silentLogger,
  toError,
} from '@glinthawk/core';
import {
  byeFrame,
  Connection,
  decodeError,
  decodeReason,
  errorFrame,
  FLAG_LOG_SUM_EXP,
  FLAG_REQUEST,
  type Frame,
  type FrameHeader,
  FrameType,
  forkFrame,
  frameRule,
  freeFrame,
  fromErrorMessage,
  type KeepaliveOptions,
  type NodeStats,
  openFrame,
  type PayloadTarget,
  PROTOCOL_VERSION,
  randomNonce,
  retireFrame,
  type SessionLimits,
  stepFrame,
  type Transport,
  toErrorMessage,
  type Welcome,
  type WireDtype,
} from '@glinthawk/wire';
import type { AttentionBackend, AttentionCapacity, AttentionStats, AttentionStep, Slot } from '../backend.ts';
import { AnswerCheck } from './answer-check.ts';
import { NodeStatsFeed } from './node-stats-feed.ts';
import { greet } from './remote-handshake.ts';
import { type AwaitedRows, RemoteRows } from './remote-rows.ts';
import { type AccountedStep, SessionAccount } from './session-account.ts';

export interface RemoteAttentionOptions {
  readonly name: string;
  readonly kvDtype: KvDtype;
  readonly fingerprint: string;
  /** The same for all connections of one source to one node. */
  readonly clientId: string;
  readonly token?: string | undefined;
  /** In which q, k, v and o travel. f32 (default) gives what local attention gives, to the bit. */
  readonly wireDtype?: WireDtype;
  readonly keepalive?: KeepaliveOptions;
  /** From the connection to WELCOME; the node reserves its memory meanwhile. Default 60,000. */
  readonly handshakeTimeoutMs?: number;
  /** Who opened the connection. Default `engine`. */
  readonly connectedBy?: 'engine' | 'node';
  readonly signal?: AbortSignal | undefined;
  readonly logger?: Logger | undefined;
}

interface PendingAttend {
  readonly announced: AccountedStep;
  readonly layer: number;
  readonly rows: AwaitedRows;
  /** What was sent may have overflowed there. */
  readonly excused: ReadonlySet<number>;
  readonly resolve: () => void;
  readonly reject: (error: GlinthawkError) => void;
}

export class RemoteAttention implements AttentionBackend {
  readonly name: string;
  readonly geometry: AttentionGeometry;
  readonly kvDtype: KvDtype;
  readonly capacity: AttentionCapacity;
  readonly lost: Promise<NodeLostError>;
  readonly limits: SessionLimits;
  readonly #connection: Connection;
  readonly #logger: Logger;
  readonly #wireDtype: WireDtype;
  readonly #resolveLost: (error: NodeLostError) => void;
  readonly #rows: RemoteRows;
  readonly #check: AnswerCheck;
  readonly #account: SessionAccount;
  /** By step. */
  readonly #pending = new Map<number, PendingAttend>();
  readonly #stats: NodeStatsFeed;
  #busyMs = 0;
  #draining: string | undefined;
  #gone: NodeLostError | undefined;
  #closing: Promise<void> | undefined;
  /** The node is being told what it did. */
  #telling: Promise<void> | undefined;

  /**
   * Greets the node at the other end of `transport`, which is closed when that fails.
   * @throws NodeLostError, ProtocolError
   */
  static async connect(
    transport: Transport,
    geometry: AttentionGeometry,
    options: RemoteAttentionOptions,
  ): Promise<RemoteAttention> {
    const { name, signal } = options;
    const connection = new Connection(transport, options.keepalive);
    const timeoutMs = options.handshakeTimeoutMs ?? 60_000;
    const giveUp = (why: string) => connection.close(new NodeLostError(name, why));
    const timer = setTimeout(() => giveUp(`${name} did not welcome us within ${timeoutMs} ms`), timeoutMs);
    const onAbort = () => giveUp('aborted');
    signal?.addEventListener('abort', onAbort);
    if (signal?.aborted) onAbort();
    const wireDtype = options.wireDtype ?? 'f32';
    const hello = {
      protocolVersion: PROTOCOL_VERSION,
      clientId: options.clientId,
      nonce: randomNonce(),
      fingerprint: options.fingerprint,
      geometry,
      kvDtype: options.kvDtype,
      wireDtype,
      ...(options.connectedBy === 'node' && { connectedBy: options.connectedBy }),
    };
    try {
      const welcome = await greet(connection, name, hello, options.token);
      const rows = await RemoteRows.create(geometry, wireDtype);
      return new RemoteAttention(connection, geometry, welcome, rows, options);
    } catch (error) {
      if (error instanceof ProtocolError) await connection.end(errorFrame(toErrorMessage(error)));
      else await connection.close();
      throw error;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    }
  }

  private constructor(
    connection: Connection,
    geometry: AttentionGeometry,
    welcome: Welcome,
    rows: RemoteRows,
    options: RemoteAttentionOptions,
  ) {
    this.name = options.name;
    this.geometry = geometry;
    this.kvDtype = options.kvDtype;
    this.limits = welcome.limits;
    this.capacity = {
      blockTokens: welcome.blockTokens,
      blockBytes: welcome.blockBytes,
      shards: welcome.shardBlocks.map((blocks) => ({ blocks })),
      workers: welcome.workers,
    };
    this.#connection = connection;
    this.#logger = options.logger ?? silentLogger;
    this.#wireDtype = welcome.wireDtype;
    this.#rows = rows;
    this.#account = new SessionAccount(this.name, geometry, welcome.limits, welcome.shardBlocks.length);
    this.#check = new AnswerCheck(this.name, geometry, this.kvDtype, welcome.wireDtype);
    this.#stats = new NodeStatsFeed(connection);
    const { promise, resolve } = Promise.withResolvers<NodeLostError>();
    this.lost = promise;
    this.#resolveLost = resolve;
    connection.acceptAll((header) => this.#accept(header));
    connection.ping(); // so that the round trip is known before the first keepalive
    void this.#receive();
  }

  /** Why the node said that it will leave, or undefined. */
  get draining(): string | undefined {
    return this.#draining;
  }

  open(slot: Slot, shard: number): void {
    if (this.#isGone) return;
    this.#account.open(slot, shard);
    this.#connection.send(openFrame([{ slot, shard }]));
  }

  fork(slot: Slot, parent: Slot, tokens: number): void {
    if (this.#isGone) return;
    this.#account.fork(slot, parent, tokens);
    this.#check.fork(slot, parent);
    this.#connection.send(forkFrame([{ parent, child: slot, tokens }]));
    this.#stats.refresh();
  }

  free(slot: Slot): void {
    if (!this.#account.free(slot)) return;
    this.#check.free(slot);
    if (this.#isGone) return;
    this.#connection.send(freeFrame([slot]));
    this.#stats.refresh();
  }

  announce(step: AttentionStep): void {
    if (this.#isGone) return;
    this.#account.announce(step);
    this.#connection.send(stepFrame(step));
    this.#stats.refresh();
  }

  async attend(
    stepId: number,
    layer: number,
    qkv: Float32Array,
    output: Float32Array,
    logSumExp?: Float32Array,
  ): Promise<void> {
    if (this.#isGone) throw this.#gone ?? this.#closedByUs();
    const announced = this.#account.begin(stepId, layer, qkv, output, logSumExp);
    const { step, rows } = announced;
    const floats = qkv.subarray(0, rows * qkvRowFloats(this.geometry));
    const excused = this.#check.sent(step, floats);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const awaited = this.#rows.awaited(rows, output, logSumExp);
    this.#pending.set(stepId, { announced, layer, rows: awaited, excused, resolve, reject });
    const { frame, onSent } = this.#rows.sent({ id: stepId, layer, rows }, floats, logSumExp !== undefined);
    this.#connection.send(frame, onSent);
    await promise;
  }

  retire(stepId: number): void {
    if (!this.#account.retire(stepId) || this.#isGone) return;
    this.#connection.send(retireFrame(stepId));
    this.#stats.refresh();
  }

  /**
   * Blocks and counts of tokens and bytes read are the node's own, asked for whenever a step, a fork or a free may have changed them:
   * a round trip old at most.
   */
  stats(): AttentionStats {
    const { bytesSent, bytesReceived } = this.#connection.transport;
    return {
      ...this.#stats.latest,
      openSlots: this.#account.openSlots,
      busyMs: this.#busyMs,
      bytesSent,
      bytesReceived,
      roundTripMs: this.#connection.roundTripMs,
    };
  }

  /** What the node itself counts. @throws NodeLostError */
  nodeStats(): Promise<NodeStats> {
    if (this.#isGone) return Promise.reject(this.#gone ?? this.#closedByUs());
    return this.#stats.ask();
  }

  allocatedBytes(): number {
    return this.#rows.allocatedBytes + this.#connection.bufferedBytes + this.#connection.backlogBytes;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#connection.discard(); // once an attend is rejected its output is the caller's again
    const leaving =
      this.#gone === undefined ? this.#connection.end(byeFrame('done')) : (this.#telling ?? this.#connection.close());
    this.#forget(this.#closedByUs());
    await leaving;
    this.#forget(this.#closedByUs());
  }

  get #isGone(): boolean {
    return this.#gone !== undefined || this.#closing !== undefined;
  }

  #closedByUs(): NodeLostError {
    return new NodeLostError(this.name, `the connection to ${this.name} was closed`);
  }

  async #receive(): Promise<void> {
    try {
      for (;;) this.#handle(await this.#connection.receive());
    } catch (error) {
      await this.#lose(toError(error));
    }
  }

  /** @throws ProtocolError for a frame that the node has no business to send */
  #accept(header: FrameHeader): PayloadTarget | undefined {
    switch (header.type) {
      case FrameType.RESULT: {
        const { rows } = this.#pendingOf(header);
        const hasSums = (header.flags & FLAG_LOG_SUM_EXP) !== 0;
        const asAsked = header.rows === rows.rows && header.dtype === this.#wireDtype && hasSums === rows.hasSums;
        if (asAsked && header.payloadBytes === rows.payloadBytes) return rows.target;
        throw new ProtocolError(
          'BAD_RESULT',
          `RESULT of ${header.rows} rows in ${header.dtype}, ${header.payloadBytes} bytes; expected ${rows.rows} in ${this.#wireDtype}, ${rows.payloadBytes} bytes`,
        );
      }
      case FrameType.ERROR:
        if ((header.flags & FLAG_REQUEST) !== 0) this.#pendingOf(header);
        return undefined;
      case FrameType.STATS:
        if (!this.#stats.awaits(header.id)) throw unasked(header);
        return undefined;
      case FrameType.PING:
      case FrameType.PONG:
      case FrameType.DRAIN:
      case FrameType.BYE:
        return undefined;
      default:
        throw unasked(header);
    }
  }

  #handle({ header, payload }: Frame): void {
    switch (header.type) {
      case FrameType.RESULT:
        this.#settle(header);
        break;
      case FrameType.ERROR: {
        const error = fromErrorMessage(decodeError(payload), this.name);
        if ((header.flags & FLAG_REQUEST) === 0) throw error;
        const { announced, rows, reject } = this.#pendingOf(header);
        this.#pending.delete(header.id);
        this.#account.end(announced);
        rows.release();
        reject(error);
        break;
      }
      case FrameType.STATS:
        this.#stats.answer(header.id, payload);
        break;
      case FrameType.DRAIN:
        this.#draining = decodeReason('DRAIN', payload);
        this.#logger.warn('an attention node will leave', { node: this.name, reason: this.#draining });
        break;
      case FrameType.BYE:
        throw new NodeLostError(this.name, `${this.name} left: ${decodeReason('BYE', payload)}`);
      default:
        throw unasked(header);
    }
  }

  #pendingOf(header: FrameHeader): PendingAttend {
    const pending = this.#pending.get(header.id);
    if (pending === undefined || pending.layer !== header.layer) throw unasked(header);
    return pending;
  }

  #settle(header: FrameHeader): void {
    const { announced, rows, excused, resolve } = this.#pendingOf(header);
    rows.arrived();
    this.#check.answered(announced.step, rows.output, rows.logSumExp, excused);
    this.#busyMs += header.aux / 1000;
    this.#pending.delete(header.id);
    this.#account.end(announced);
    resolve();
  }

  async #lose(cause: Error): Promise<void> {
    if (this.#isGone) return;
    const lost =
      cause instanceof NodeLostError
        ? cause
        : new NodeLostError(this.name, `${this.name} is lost: ${cause.message}`, { cause });
    this.#gone = lost;
    this.#forget(lost);
    this.#resolveLost(lost);
    const ending = this.#connection.end(cause instanceof ProtocolError ? errorFrame(toErrorMessage(cause)) : undefined);
    if (cause instanceof ProtocolError) this.#telling = ending; // if it is still there
    await ending;
    this.#forget(lost);
  }

  #forget(error: NodeLostError): void {
    for (const { reject } of this.#pending.values()) reject(error);
    this.#stats.fail(error);
    this.#pending.clear();
    this.#account.clear();
    this.#check.clear();
    this.#rows.close();
  }
}

function unasked(header: FrameHeader): ProtocolError {
  const name = frameRule(header.type)?.name ?? String(header.type);
  return new ProtocolError('UNEXPECTED_FRAME', `${name} (id ${header.id}, layer ${header.layer}) was not asked for`);
}
