/**
 * One engine's session at an attention node, after the handshake: frames become calls of the backend, in the order in which they
 * came. Everything is checked against the session's geometry and slots before it is received or passed on; whatever breaks the
 * protocol ends the session, whatever only finds no room answers the one ATTEND that needed it.
 */
import {
  type AttentionGeometry,
  f16ArrayToF32,
  f32ArrayToF16,
  GlinthawkError,
  NodeLostError,
  outputRowFloats,
  ProtocolError,
  toError,
} from '@glinthawk/core';
import {
  BufferPool,
  type Connection,
  decodeError,
  decodeFree,
  decodeOpen,
  decodeStep,
  errorFrame,
  FLAG_LOG_SUM_EXP,
  type Frame,
  type FrameHeader,
  FrameType,
  frameRule,
  fromErrorMessage,
  logSumExpBytes,
  MAX_LAYERS,
  outputBytes,
  qkvBytes,
  resultFrame,
  type SessionLimits,
  statsFrame,
  toErrorMessage,
  type WireDtype,
} from '@glinthawk/wire';
import type { AttentionBackend, Slot } from '../backend.ts';

/** ATTENDs under way at once, by number and by bytes; beyond them the node stops reading until one is done. */
const MAX_PENDING_ATTENDS = 64;
const MAX_PENDING_BYTES = 512 * 1024 * 1024;
/** Results that the engine has not taken yet, beyond which nothing more is read from it. */
const MAX_BACKLOG_BYTES = 64 * 1024 * 1024;
/** Entries of all announced steps together. */
const MAX_ANNOUNCED_ENTRIES = 262_144;

interface OpenSlot {
  readonly generation: number;
  /** Why the backend did not open it; told to every ATTEND that needs it. */
  readonly refusal: GlinthawkError | undefined;
}

interface AnnouncedStep {
  readonly rows: number;
  readonly entries: number;
  readonly refusal: GlinthawkError | undefined;
}

export interface NodeSessionOptions {
  readonly connection: Connection;
  readonly backend: AttentionBackend;
  readonly geometry: AttentionGeometry;
  readonly wireDtype: WireDtype;
  readonly logSumExp: boolean;
  readonly limits: SessionLimits;
}

export class NodeSession {
  readonly #connection: Connection;
  readonly #backend: AttentionBackend;
  readonly #geometry: AttentionGeometry;
  readonly #dtype: WireDtype;
  readonly #logSumExp: boolean;
  readonly #limits: SessionLimits;
  readonly #pool = new BufferPool();
  readonly #slots = new Map<number, OpenSlot>();
  /** The latest generation of every index that was ever open. */
  readonly #generations = new Map<number, number>();
  readonly #steps = new Map<number, AnnouncedStep>();
  readonly #pending = new Set<number>();
  #announcedEntries = 0;
  #pendingBytes = 0;
  #busyMsTold = 0;
  /** The latest payload that was put together in a pooled buffer rather than viewed in a received chunk. */
  #pooledPayload: Uint8Array<ArrayBuffer> | undefined;
  #settled: (() => void) | undefined;
  #ended = false;
  #loss: Error | undefined;

  constructor(options: NodeSessionOptions) {
    this.#connection = options.connection;
    this.#backend = options.backend;
    this.#geometry = options.geometry;
    this.#dtype = options.wireDtype;
    this.#logSumExp = options.logSumExp;
    this.#limits = options.limits;
  }

  get pendingAttends(): number {
    return this.#pending.size;
  }

  get openSlots(): number {
    return this.#slots.size;
  }

  /** Of frames that are being received, worked on and sent. */
  get bufferBytes(): number {
    return this.#pool.allocatedBytes + this.#connection.bufferedBytes;
  }

  /**
   * Serves until the engine leaves (BYE), the connection ends, or the backend is lost.
   * @throws ProtocolError when the engine breaks the protocol, ConnectionClosedError, NodeLostError
   */
  async run(): Promise<void> {
    this.#connection.acceptAll(
      (header) => this.#check(header),
      (bytes) => {
        this.#pooledPayload = this.#pool.take(bytes);
        return this.#pooledPayload;
      },
    );
    this.#backend.lost.then((error) => this.#lose(error));
    try {
      for (;;) {
        await this.#room();
        const frame = await this.#connection.receive();
        if (frame.header.type === FrameType.BYE) return;
        this.#handle(frame);
      }
    } catch (error) {
      throw this.#loss ?? error;
    } finally {
      this.#ended = true;
    }
  }

  /** Resolves when no ATTEND is under way. */
  async idle(): Promise<void> {
    while (this.#pending.size > 0) await this.#oneSettled();
  }

  /** After the backend was closed: waits for what was under way and lets the buffers go. */
  async release(): Promise<void> {
    this.#ended = true;
    await this.idle();
    this.#slots.clear();
    this.#steps.clear();
    this.#pool.close();
  }

  #lose(error: Error): void {
    if (this.#ended) return;
    this.#loss ??= error;
    void this.#connection.end(errorFrame(toErrorMessage(error)));
  }

  /** Waits while more is under way than the session may hold: the transport then stops its peer. */
  async #room(): Promise<void> {
    while (this.#pending.size >= MAX_PENDING_ATTENDS || this.#pendingBytes > MAX_PENDING_BYTES)
      await this.#oneSettled();
    if (this.#connection.backlogBytes > MAX_BACKLOG_BYTES) await this.#connection.drained();
  }

  #oneSettled(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const before = this.#settled;
    this.#settled = () => {
      before?.();
      resolve();
    };
    return promise;
  }

  /** A header, before its payload is received. @throws ProtocolError */
  #check(header: FrameHeader): undefined {
    switch (header.type) {
      case FrameType.ATTEND:
        this.#checkAttend(header);
        return;
      case FrameType.STEP:
        if (this.#steps.has(header.id)) throw refuse('STEP_EXISTS', `step ${header.id} is announced already`);
        if (this.#steps.size >= this.#limits.maxSteps) {
          throw refuse('TOO_MANY_STEPS', `more than ${this.#limits.maxSteps} steps are announced and not retired`);
        }
        if (header.rows > this.#limits.maxStepRows) {
          throw refuse('TOO_MANY_ROWS', `a step of ${header.rows} rows; at most ${this.#limits.maxStepRows} are taken`);
        }
        return;
      case FrameType.OPEN:
      case FrameType.FREE:
      case FrameType.RETIRE:
      case FrameType.STATS:
      case FrameType.BYE:
      case FrameType.ERROR:
      case FrameType.PING:
      case FrameType.PONG:
        return;
      case FrameType.FORK:
      case FrameType.PUT_KV:
        throw refuse(
          'UNSUPPORTED_FRAME',
          `this node does not do ${frameRule(header.type)?.name}, nor did it say so in WELCOME`,
        );
      default:
        throw refuse('UNEXPECTED_FRAME', `${frameRule(header.type)?.name} may not come from an engine in a session`);
    }
  }

  #checkAttend(header: FrameHeader): void {
    const { id, layer, rows, dtype, payloadBytes } = header;
    const step = this.#steps.get(id);
    if (step === undefined) throw refuse('UNKNOWN_STEP', `ATTEND names step ${id}, which is not announced`);
    if (rows !== step.rows) throw refuse('ROWS_MISMATCH', `ATTEND has ${rows} rows, step ${id} has ${step.rows}`);
    if (layer >= this.#geometry.layers) {
      throw refuse('BAD_LAYER', `ATTEND names layer ${layer}; the model has ${this.#geometry.layers}`);
    }
    if (dtype !== this.#dtype) throw refuse('BAD_DTYPE', `ATTEND comes as ${dtype}; ${this.#dtype} was agreed on`);
    const expected = qkvBytes(this.#geometry, rows, this.#dtype);
    if (payloadBytes !== expected) throw refuse('BAD_LENGTH', `ATTEND has ${payloadBytes} bytes; expected ${expected}`);
    if ((header.flags & FLAG_LOG_SUM_EXP) !== 0 && !this.#logSumExp) {
      throw refuse('NO_LOG_SUM_EXP', 'ATTEND asks for the log-sum-exp, which was not agreed on');
    }
    if (this.#pending.has(attendKey(id, layer))) {
      throw refuse('ATTEND_PENDING', `layer ${layer} of step ${id} is under way already`);
    }
  }

  #handle(frame: Frame): void {
    const { header } = frame;
    const pooled = this.#pooledPayload;
    this.#pooledPayload = undefined;
    if (header.type === FrameType.ATTEND) {
      void this.#attend(header, frame.payload, pooled);
      return;
    }
    try {
      this.#control(frame);
    } finally {
      if (pooled !== undefined) this.#pool.give(pooled);
    }
  }

  #control(frame: Frame): void {
    const { header } = frame;
    switch (header.type) {
      case FrameType.OPEN:
        for (const { slot, shard } of decodeOpen(frame)) this.#open(slot, shard);
        return;
      case FrameType.FREE:
        for (const slot of decodeFree(frame)) this.#free(slot);
        return;
      case FrameType.STEP:
        this.#announce(frame);
        return;
      case FrameType.RETIRE:
        this.#retire(header.id);
        return;
      case FrameType.STATS: {
        const { usedBlocks, openSlots, busyMs } = this.#backend.stats();
        const allocatedBytes = this.#backend.allocatedBytes() + this.#pool.allocatedBytes;
        this.#connection.send(statsFrame(header.id, { usedBlocks, openSlots, busyMs, allocatedBytes }));
        return;
      }
      case FrameType.ERROR:
        throw fromErrorMessage(decodeError(frame.payload), this.#connection.transport.name);
      default:
        throw refuse('UNEXPECTED_FRAME', `${frameRule(header.type)?.name} may not come from an engine in a session`);
    }
  }

  #open(slot: Slot, shard: number): void {
    const { index, generation } = slot;
    if (index >= this.#limits.maxSlots) {
      throw refuse('BAD_SLOT', `OPEN names slot ${index}; slots are below ${this.#limits.maxSlots}`);
    }
    if (this.#slots.has(index)) throw refuse('SLOT_IN_USE', `OPEN names slot ${index}, which is open`);
    const last = this.#generations.get(index);
    if (last !== undefined && generation <= last) {
      throw refuse('WRONG_GENERATION', `OPEN of slot ${index} in generation ${generation}, after ${last}`);
    }
    const shards = this.#backend.capacity.shards.length;
    if (shard >= shards) throw refuse('BAD_SHARD', `OPEN names shard ${shard}; there are ${shards}`);
    const refusal = attempt(() => this.#backend.open(slot, shard));
    this.#generations.set(index, generation);
    this.#slots.set(index, { generation, refusal });
  }

  #free(slot: Slot): void {
    const open = this.#slots.get(slot.index);
    if (open?.generation !== slot.generation) return; // late, for a slot that is gone
    this.#slots.delete(slot.index);
    if (open.refusal === undefined) this.#backend.free(slot);
  }

  #announce(frame: Frame): void {
    const step = decodeStep(frame);
    let refusal: GlinthawkError | undefined;
    for (const { slot, position, count } of step.entries) {
      const open = this.#slots.get(slot.index);
      if (open === undefined) throw refuse('UNKNOWN_SLOT', `STEP names slot ${slot.index}, which is not open`);
      if (open.generation !== slot.generation) {
        throw refuse(
          'WRONG_GENERATION',
          `STEP names generation ${slot.generation} of slot ${slot.index}, not ${open.generation}`,
        );
      }
      if (position + count > this.#geometry.maxContextTokens) {
        throw refuse(
          'BAD_STEP',
          `STEP reaches position ${position + count} of at most ${this.#geometry.maxContextTokens}`,
        );
      }
      refusal ??= open.refusal;
    }
    this.#announcedEntries += step.entries.length;
    if (this.#announcedEntries > MAX_ANNOUNCED_ENTRIES) {
      throw refuse('TOO_MANY_STEPS', `the announced steps have more than ${MAX_ANNOUNCED_ENTRIES} entries`);
    }
    refusal ??= attempt(() => this.#backend.announce(step));
    this.#steps.set(step.id, { rows: frame.header.rows, entries: step.entries.length, refusal });
  }

  #retire(id: number): void {
    const step = this.#steps.get(id);
    if (step === undefined) return;
    this.#steps.delete(id);
    this.#announcedEntries -= step.entries;
    if (step.refusal === undefined) this.#backend.retire(id);
  }

  async #attend(header: FrameHeader, payload: Uint8Array, pooled: Uint8Array<ArrayBuffer> | undefined): Promise<void> {
    const { id, layer, rows } = header;
    const key = attendKey(id, layer);
    const o = this.#pool.take(outputBytes(this.#geometry, rows, 'f32'));
    const output = new Float32Array(o.buffer, 0, rows * outputRowFloats(this.#geometry)); // [rows, groupSize kvHeads headDim]
    const wanted = (header.flags & FLAG_LOG_SUM_EXP) !== 0;
    const lse = !wanted ? undefined : this.#pool.take(logSumExpBytes(this.#geometry, rows));
    let qkv = pooled;
    this.#pending.add(key);
    const bytes = payload.byteLength + o.byteLength;
    this.#pendingBytes += bytes;
    try {
      const refusal = this.#steps.get(id)?.refusal;
      if (refusal !== undefined) throw refusal;
      let qkvFloats: Float32Array;
      if (this.#dtype === 'f32') {
        qkvFloats = new Float32Array(payload.buffer, payload.byteOffset, payload.byteLength / 4);
      } else {
        const wide = this.#pool.take(payload.byteLength * 2);
        qkvFloats = new Float32Array(wide.buffer, 0, payload.byteLength / 2);
        f16ArrayToF32(new Uint16Array(payload.buffer, payload.byteOffset, payload.byteLength / 2), qkvFloats);
        if (qkv !== undefined) this.#pool.give(qkv);
        qkv = wide;
      }
      const logSumExp = lse === undefined ? undefined : new Float32Array(lse.buffer, 0, lse.byteLength / 4);
      await this.#backend.attend(id, layer, qkvFloats, output, logSumExp);
      this.#sendResult(header, o, output, lse);
    } catch (error) {
      this.#pool.give(o);
      if (lse !== undefined) this.#pool.give(lse);
      if (error instanceof NodeLostError) this.#lose(error);
      else this.#connection.send(errorFrame(toErrorMessage(error), { id, layer }));
    } finally {
      if (qkv !== undefined) this.#pool.give(qkv);
      this.#pending.delete(key);
      this.#pendingBytes -= bytes;
      const settled = this.#settled;
      this.#settled = undefined;
      settled?.();
    }
  }

  #sendResult(
    header: FrameHeader,
    o: Uint8Array<ArrayBuffer>,
    output: Float32Array,
    lse: Uint8Array<ArrayBuffer> | undefined,
  ): void {
    let section = o;
    if (this.#dtype === 'f16') {
      section = this.#pool.take(output.length * 2);
      f32ArrayToF16(output, new Uint16Array(section.buffer, 0, output.length));
      this.#pool.give(o);
    }
    const { busyMs } = this.#backend.stats();
    const busyMicros = Math.max(0, Math.round((busyMs - this.#busyMsTold) * 1000));
    this.#busyMsTold += busyMicros / 1000;
    const fields = { id: header.id, layer: header.layer, rows: header.rows, dtype: this.#dtype, busyMicros };
    this.#connection.send(resultFrame(fields, section, lse), () => {
      this.#pool.give(section);
      if (lse !== undefined) this.#pool.give(lse);
    });
  }
}

/** Unique over steps and layers; ids stay below 2^53 / MAX_LAYERS for two hundred years of a step per microsecond. */
export function attendKey(id: number, layer: number): number {
  return id * MAX_LAYERS + layer;
}

function refuse(code: string, message: string): ProtocolError {
  return new ProtocolError(code, message);
}

/** What a backend refused on purpose; anything else that it throws is a bug and ends the session. */
function attempt(call: () => void): GlinthawkError | undefined {
  try {
    call();
    return undefined;
  } catch (error) {
    if (error instanceof GlinthawkError) return error;
    throw toError(error);
  }
}
