/**
 * An attention backend on the other end of a connection. What the engine calls is checked here first, so that a mistake is
 * thrown where it was made and doesn't cost the connection; frames of one turn of the event loop leave together; o is received
 * straight into the engine's array. When the connection goes, everything pending rejects and nothing is retried: the engine
 * knows the tokens and rebuilds.
 */
import {
  type AttentionGeometry,
  CapacityError,
  f16ArrayToF32,
  f32ArrayToF16,
  type GlinthawkError,
  InputError,
  type KvDtype,
  type Logger,
  NodeLostError,
  outputRowFloats,
  ProtocolError,
  qkvRowFloats,
  silentLogger,
  toError,
} from '@glinthawk/core';
import {
  attendFrame,
  BufferPool,
  byeFrame,
  bytesOf,
  type Capability,
  Connection,
  decodeError,
  decodeReason,
  decodeStats,
  errorFrame,
  FLAG_LOG_SUM_EXP,
  FLAG_REQUEST,
  type Frame,
  type FrameHeader,
  FrameType,
  frameRule,
  freeFrame,
  fromErrorMessage,
  type KeepaliveOptions,
  type NodeStats,
  openFrame,
  PROTOCOL_VERSION,
  qkvBytes,
  type ResultLayout,
  randomNonce,
  resultLayout,
  retireFrame,
  type SessionLimits,
  statsFrame,
  stepFrame,
  stepRows,
  type Transport,
  toErrorMessage,
  type Welcome,
  type WireDtype,
} from '@glinthawk/wire';
import type { AttentionBackend, AttentionCapacity, AttentionStats, AttentionStep, Slot } from '../backend.ts';
import { isWithin, mostAnswered, mostSent } from './magnitude.ts';
import { attendKey } from './node-session.ts';
import { greet } from './remote-handshake.ts';

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

interface OpenSlot {
  readonly generation: number;
  tokens: number;
  /** It was sent what may have overflowed there: what comes back of it may be no numbers. */
  overflowed: boolean;
}

interface AnnouncedStep {
  readonly step: AttentionStep;
  readonly rows: number;
  stored: boolean;
}

interface PendingAttend {
  readonly announced: AnnouncedStep;
  readonly rows: number;
  readonly layout: ResultLayout;
  readonly output: Float32Array; // [rows, groupSize kvHeads headDim]
  readonly logSumExp: Float32Array | undefined; // [rows, groupSize kvHeads]
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
  readonly capabilities: readonly Capability[];
  readonly #connection: Connection;
  readonly #logger: Logger;
  readonly #wireDtype: WireDtype;
  readonly #resolveLost: (error: NodeLostError) => void;
  readonly #pool = new BufferPool();
  readonly #slots = new Map<number, OpenSlot>();
  readonly #steps = new Map<number, AnnouncedStep>();
  readonly #pending = new Map<number, PendingAttend>();
  readonly #statsWanted = new Map<number, PromiseWithResolvers<NodeStats>>();
  #pooledPayload: Uint8Array<ArrayBuffer> | undefined;
  #statsRequests = 0;
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
      capabilities: ['log-sum-exp'] as const,
      ...(options.connectedBy === 'node' && { connectedBy: options.connectedBy }),
    };
    try {
      const welcome = await greet(connection, name, hello, options.token);
      return new RemoteAttention(connection, geometry, welcome, options);
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
    options: RemoteAttentionOptions,
  ) {
    this.name = options.name;
    this.geometry = geometry;
    this.kvDtype = options.kvDtype;
    this.limits = welcome.limits;
    this.capabilities = welcome.capabilities;
    this.capacity = {
      blockTokens: welcome.blockTokens,
      blockBytes: welcome.blockBytes,
      shards: welcome.shardBlocks.map((blocks) => ({ blocks })),
      workers: welcome.shardBlocks.length,
    };
    this.#connection = connection;
    this.#logger = options.logger ?? silentLogger;
    this.#wireDtype = welcome.wireDtype;
    const { promise, resolve } = Promise.withResolvers<NodeLostError>();
    this.lost = promise;
    this.#resolveLost = resolve;
    connection.acceptAll(
      (header) => this.#accept(header),
      (bytes) => {
        this.#pooledPayload = this.#pool.take(bytes);
        return this.#pooledPayload;
      },
    );
    connection.ping(); // so that the round trip is known before the first keepalive
    void this.#receive();
  }

  /** Why the node said that it will leave, or undefined. */
  get draining(): string | undefined {
    return this.#draining;
  }

  open(slot: Slot, shard: number): void {
    if (this.#isGone) return;
    const shards = this.capacity.shards.length;
    if (!(shard >= 0 && shard < shards))
      throw new InputError('BAD_SHARD', `${this.name} has ${shards} shards, not a shard ${shard}`);
    if (slot.index >= this.limits.maxSlots) {
      throw new CapacityError(
        'TOO_MANY_SLOTS',
        `${this.name} takes ${this.limits.maxSlots} slots; slot ${slot.index} was asked for`,
      );
    }
    if (this.#slots.has(slot.index)) throw new InputError('SLOT_IN_USE', `slot ${slot.index} is open at ${this.name}`);
    this.#slots.set(slot.index, { generation: slot.generation, tokens: 0, overflowed: false });
    this.#connection.send(openFrame([{ slot, shard }]));
  }

  fork(slot: Slot, _parent: Slot, _tokens: number): void {
    throw new InputError('ATTENTION_SLOT', `slot ${slot.index}: forks are being built`);
  }

  free(slot: Slot): void {
    if (this.#slots.get(slot.index)?.generation !== slot.generation) return;
    this.#slots.delete(slot.index);
    if (!this.#isGone) this.#connection.send(freeFrame([slot]));
  }

  /** @throws InputError when the step names slots that aren't open, is known, or has more rows than the node takes. */
  announce(step: AttentionStep): void {
    if (this.#isGone) return;
    if (this.#steps.has(step.id)) throw new InputError('STEP_EXISTS', `step ${step.id} is announced already`);
    if (this.#steps.size >= this.limits.maxSteps) {
      throw new InputError('TOO_MANY_STEPS', `${this.name} takes ${this.limits.maxSteps} steps that are not retired`);
    }
    const rows = stepRows(step.entries);
    if (rows === 0 || rows > this.limits.maxStepRows) {
      throw new InputError(
        'TOO_MANY_ROWS',
        `${this.name} takes steps of 1 to ${this.limits.maxStepRows} rows, not ${rows}`,
      );
    }
    for (const { slot, position, count } of step.entries) {
      if (this.#slots.get(slot.index)?.generation !== slot.generation) {
        throw new InputError(
          'UNKNOWN_SLOT',
          `slot ${slot.index} (generation ${slot.generation}) is not open at ${this.name}`,
        );
      }
      if (position + count > this.geometry.maxContextTokens) {
        throw new InputError(
          'CONTEXT_EXCEEDED',
          `position ${position + count} is beyond ${this.geometry.maxContextTokens} tokens`,
        );
      }
    }
    this.#steps.set(step.id, { step, rows, stored: false });
    this.#connection.send(stepFrame(step));
  }

  attend(
    stepId: number,
    layer: number,
    qkv: Float32Array,
    output: Float32Array,
    logSumExp?: Float32Array,
  ): Promise<void> {
    if (this.#gone !== undefined) return Promise.reject(this.#gone);
    if (this.#closing !== undefined) return Promise.reject(this.#closedByUs());
    const announced = this.#steps.get(stepId);
    if (announced === undefined)
      return Promise.reject(new InputError('UNKNOWN_STEP', `step ${stepId} is not announced`));
    const { rows } = announced;
    const key = attendKey(stepId, layer);
    const wrong = this.#checkAttend(key, layer, rows, qkv, output, logSumExp);
    if (wrong !== undefined) return Promise.reject(wrong);

    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const layout = resultLayout(this.geometry, rows, this.#wireDtype, logSumExp !== undefined);
    this.#pending.set(key, { announced, rows, layout, output, logSumExp, resolve, reject });
    const fields = { id: stepId, layer, rows, dtype: this.#wireDtype, wantsLogSumExp: logSumExp !== undefined };
    const floats = qkv.subarray(0, rows * qkvRowFloats(this.geometry));
    this.#noteOverflow(announced, floats);
    if (this.#wireDtype === 'f32') {
      this.#connection.send(attendFrame(fields, bytesOf(floats)));
    } else {
      const half = this.#pool.take(qkvBytes(this.geometry, rows, 'f16'));
      f32ArrayToF16(floats, new Uint16Array(half.buffer, 0, floats.length));
      this.#connection.send(attendFrame(fields, half), () => this.#pool.give(half));
    }
    return promise;
  }

  #checkAttend(
    key: number,
    layer: number,
    rows: number,
    qkv: Float32Array,
    output: Float32Array,
    logSumExp: Float32Array | undefined,
  ): InputError | undefined {
    const { layers, groupSize, kvHeads } = this.geometry;
    if (!(layer >= 0 && layer < layers)) return new InputError('BAD_LAYER', `layer ${layer} of ${layers}`);
    if (this.#pending.has(key))
      return new InputError('ATTEND_PENDING', `layer ${layer} of this step is under way already`);
    const short = (what: string, found: number, rowFloats: number) =>
      found < rows * rowFloats
        ? new InputError('BAD_LENGTH', `${what} has ${found} floats; ${rows} rows of ${rowFloats} were expected`)
        : undefined;
    return (
      short('qkv', qkv.length, qkvRowFloats(this.geometry)) ??
      short('output', output.length, outputRowFloats(this.geometry)) ??
      (logSumExp && short('logSumExp', logSumExp.length, groupSize * kvHeads))
    );
  }

  /** Its keys and values stay with a slot: what overflowed once may show at any later step. */
  #noteOverflow({ step }: AnnouncedStep, qkv: Float32Array): void {
    const most = mostSent(this.kvDtype, this.#wireDtype);
    if (isWithin(qkv, most)) return;
    this.#eachEntry(step, qkv, qkvRowFloats(this.geometry), (open, rows) => {
      if (!isWithin(rows, most)) open.overflowed = true;
    });
  }

  /** @throws ProtocolError for what can't be a mean of the values that the node was sent */
  #checkOutput({ step }: AnnouncedStep, output: Float32Array): void {
    const most = mostAnswered(this.kvDtype, this.#wireDtype);
    if (isWithin(output, most)) return;
    this.#eachEntry(step, output, outputRowFloats(this.geometry), (open, rows) => {
      if (open.overflowed || isWithin(rows, most)) return;
      throw new ProtocolError('NOT_FINITE', `${this.name} sent values that are not finite numbers, or far too large`, {
        hint: 'the node is broken or does not mean well; end it',
      });
    });
  }

  /** @param rows [rows of the step, rowFloats] @param visit told each slot that is still open, with its part of them */
  #eachEntry(
    step: AttentionStep,
    rows: Float32Array,
    rowFloats: number,
    visit: (open: OpenSlot, rows: Float32Array) => void,
  ): void {
    let at = 0;
    for (const { slot, count } of step.entries) {
      const from = at;
      at += count * rowFloats;
      const open = this.#slots.get(slot.index);
      if (open?.generation === slot.generation) visit(open, rows.subarray(from, at));
    }
  }

  /** Counts the tokens of a step, once the node has found room for them. */
  #countTokens(announced: AnnouncedStep): void {
    announced.stored = true;
    for (const { slot, position, count } of announced.step.entries) {
      const open = this.#slots.get(slot.index);
      if (open?.generation === slot.generation) open.tokens = Math.max(open.tokens, position + count);
    }
  }

  retire(stepId: number): void {
    if (this.#steps.delete(stepId) && !this.#isGone) this.#connection.send(retireFrame(stepId));
  }

  /** `usedBlocks` follows from the results that came; `busyMs` is the node's, up to the latest result. */
  stats(): AttentionStats {
    let usedBlocks = 0;
    for (const { tokens } of this.#slots.values()) usedBlocks += Math.ceil(tokens / this.capacity.blockTokens);
    return {
      usedBlocks,
      openSlots: this.#slots.size,
      busyMs: this.#busyMs,
      kvBytesRead: 0,
      appendedTokens: 0,
      forkedTokens: 0,
      bytesSent: this.#connection.transport.bytesSent,
      bytesReceived: this.#connection.transport.bytesReceived,
      roundTripMs: this.#connection.roundTripMs,
    };
  }

  /** What the node itself counts. @throws NodeLostError */
  nodeStats(): Promise<NodeStats> {
    if (this.#gone !== undefined) return Promise.reject(this.#gone);
    if (this.#closing !== undefined) return Promise.reject(this.#closedByUs());
    const wanted = Promise.withResolvers<NodeStats>();
    this.#statsWanted.set(++this.#statsRequests, wanted);
    this.#connection.send(statsFrame(this.#statsRequests));
    return wanted.promise;
  }

  allocatedBytes(): number {
    return this.#pool.allocatedBytes + this.#connection.bufferedBytes + this.#connection.backlogBytes;
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
  #accept(header: FrameHeader): Uint8Array | undefined {
    switch (header.type) {
      case FrameType.RESULT: {
        const pending = this.#pending.get(attendKey(header.id, header.layer));
        if (pending === undefined) throw unasked(header);
        const { rows, layout, output, logSumExp } = pending;
        const lse = (header.flags & FLAG_LOG_SUM_EXP) !== 0;
        const asAsked = header.rows === rows && header.dtype === this.#wireDtype && lse === (logSumExp !== undefined);
        if (!asAsked || header.payloadBytes !== layout.payloadBytes) {
          throw new ProtocolError(
            'BAD_RESULT',
            `RESULT of ${header.rows} rows in ${header.dtype}, ${header.payloadBytes} bytes; expected ${rows} in ${this.#wireDtype}, ${layout.payloadBytes} bytes`,
          );
        }
        const straight = this.#wireDtype === 'f32' && !lse;
        return straight ? bytesOf(output).subarray(0, layout.outputBytes) : undefined;
      }
      case FrameType.ERROR:
        if ((header.flags & FLAG_REQUEST) !== 0 && !this.#pending.has(attendKey(header.id, header.layer))) {
          throw unasked(header);
        }
        return undefined;
      case FrameType.STATS:
        if (!this.#statsWanted.has(header.id)) throw unasked(header);
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

  #handle(frame: Frame): void {
    const pooled = this.#pooledPayload;
    this.#pooledPayload = undefined;
    const { header, payload } = frame;
    switch (header.type) {
      case FrameType.RESULT:
        this.#settle(header, payload);
        break;
      case FrameType.ERROR: {
        const error = fromErrorMessage(decodeError(payload), this.name);
        if ((header.flags & FLAG_REQUEST) === 0) throw error;
        this.#take(header).reject(error);
        break;
      }
      case FrameType.STATS:
        this.#statsWanted.get(header.id)?.resolve(decodeStats(payload));
        this.#statsWanted.delete(header.id);
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
    if (pooled !== undefined) this.#pool.give(pooled);
  }

  #pendingOf(header: FrameHeader): PendingAttend {
    const pending = this.#pending.get(attendKey(header.id, header.layer));
    if (pending === undefined) throw unasked(header);
    return pending;
  }

  #take(header: FrameHeader): PendingAttend {
    const pending = this.#pendingOf(header);
    this.#pending.delete(attendKey(header.id, header.layer));
    return pending;
  }

  #settle(header: FrameHeader, payload: Uint8Array): void {
    const { announced, layout, output, logSumExp, resolve } = this.#pendingOf(header);
    const floats = header.rows * outputRowFloats(this.geometry);
    if (this.#wireDtype === 'f16') {
      const half = new Uint16Array(payload.buffer, payload.byteOffset, floats);
      f16ArrayToF32(half, output.subarray(0, floats));
    } else if (logSumExp !== undefined) {
      output.set(new Float32Array(payload.buffer, payload.byteOffset, floats));
    } // else it was received into output
    this.#checkOutput(announced, output.subarray(0, floats));
    if (!announced.stored) this.#countTokens(announced);
    this.#busyMs += header.aux / 1000;
    if (logSumExp !== undefined) {
      const at = payload.byteOffset + layout.logSumExpOffset;
      logSumExp.set(new Float32Array(payload.buffer, at, (layout.payloadBytes - layout.logSumExpOffset) / 4));
    }
    this.#take(header);
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
    for (const { reject } of this.#statsWanted.values()) reject(error);
    this.#pending.clear();
    this.#statsWanted.clear();
    this.#slots.clear();
    this.#steps.clear();
    this.#pool.close();
  }
}

function unasked(header: FrameHeader): ProtocolError {
  const name = frameRule(header.type)?.name ?? String(header.type);
  return new ProtocolError('UNEXPECTED_FRAME', `${name} (id ${header.id}, layer ${header.layer}) was not asked for`);
}
