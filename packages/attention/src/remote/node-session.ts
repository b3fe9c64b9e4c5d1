/**
 * One engine's session at an attention node, after the handshake: frames become calls of the backend, in the order in which they
 * came. Rows of q, k and v are written from the socket's chunks into the backend's memory, their one copy, and rows of o leave from
 * there. Headers are checked before a byte is written; whatever breaks the protocol ends the session, whatever only finds no room
 * answers the one ATTEND that needed it.
 */
import { type AttentionGeometry, NodeLostError, ProtocolError } from '@glinthawk/core';
import {
  type Acceptance,
  BufferPool,
  type Connection,
  decodeError,
  decodeFork,
  decodeFree,
  decodeOpen,
  errorFrame,
  FLAG_LOG_SUM_EXP,
  type Frame,
  type FrameHeader,
  FrameType,
  frameRule,
  fromErrorMessage,
  logSumExpBytes,
  type NodeStats,
  outputBytes,
  qkvBytes,
  resultFrame,
  type SessionLimits,
  statsFrame,
  toErrorMessage,
} from '@glinthawk/wire';
import type { StagedAttention } from '../backend.ts';
import { refusalOf, SessionSlots } from './session-slots.ts';
import { type SessionStep, SessionSteps } from './session-steps.ts';

/** ATTENDs under way at once, by number and by bytes of rows; for one more the node stops reading until one is done. */
const MAX_PENDING_ATTENDS = 64;
const MAX_PENDING_BYTES = 512 * 1024 * 1024;
/** Results that the engine has not taken yet, beyond which nothing more is read from it. */
const MAX_BACKLOG_BYTES = 64 * 1024 * 1024;

export interface NodeSessionOptions {
  readonly connection: Connection;
  readonly backend: StagedAttention;
  readonly limits: SessionLimits;
}

export class NodeSession {
  readonly #connection: Connection;
  readonly #backend: StagedAttention;
  readonly #geometry: AttentionGeometry;
  readonly #slots: SessionSlots;
  readonly #steps: SessionSteps;
  /** For what can't be sent from where it is. */
  readonly #pool = new BufferPool();
  /** ATTENDs that wait or are worked on. */
  readonly #underWay = new Set<Promise<void>>();
  #pendingBytes = 0;
  #busyMsTold = 0;
  #tensorBytesReceived = 0;
  #tensorBytesSent = 0;
  #settled: PromiseWithResolvers<void> | undefined;
  #ended = false;
  #loss: Error | undefined;

  constructor({ connection, backend, limits }: NodeSessionOptions) {
    this.#connection = connection;
    this.#backend = backend;
    this.#geometry = backend.geometry;
    this.#slots = new SessionSlots(backend, limits, backend.geometry.maxContextTokens);
    this.#steps = new SessionSteps(backend, this.#slots, backend.geometry, limits);
  }

  stats(): NodeStats {
    const { usedBlocks, busyMs, kvBytesRead, appendedTokens, forkedTokens } = this.#backend.stats();
    const received = this.#tensorBytesReceived;
    return {
      usedBlocks,
      openSlots: this.#slots.size,
      busyMs,
      allocatedBytes: this.#backend.allocatedBytes() + this.#pool.allocatedBytes + this.#connection.bufferedBytes,
      kvBytesRead,
      appendedTokens,
      forkedTokens,
      pendingAttends: this.#underWay.size,
      tensorBytesReceived: received,
      bytesCopied: this.#connection.bytesPlaced + received * this.#connection.transport.receiveCopies,
      tensorBytesSent: this.#tensorBytesSent,
    };
  }

  /**
   * Serves until the engine leaves (BYE), the connection ends, or the backend is lost.
   * @throws ProtocolError when the engine breaks the protocol, ConnectionClosedError, NodeLostError
   */
  async run(): Promise<void> {
    this.#connection.acceptAll((header) => this.#accept(header));
    this.#backend.lost.then((error) => this.#lose(error));
    try {
      for (;;) {
        if (this.#connection.backlogBytes > MAX_BACKLOG_BYTES) await this.#connection.drained();
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

  /** Resolves when the ATTENDs that are under way now have been answered; a busy engine's next ones may be under way by then. */
  async answered(): Promise<void> {
    await Promise.all(this.#underWay);
  }

  /** After the backend was closed: waits for what was under way and lets the buffers go. */
  async release(): Promise<void> {
    this.#ended = true;
    await this.answered();
    this.#slots.clear();
    this.#steps.clear();
    this.#pool.close();
  }

  #lose(error: Error): void {
    if (this.#ended) return;
    this.#loss ??= error;
    void this.#connection.end(errorFrame(toErrorMessage(error)));
  }

  /** Until an ATTEND is done or a RESULT has left. */
  #oneSettled(): Promise<void> {
    this.#settled ??= Promise.withResolvers<void>();
    return this.#settled.promise;
  }

  #settle(): void {
    this.#settled?.resolve();
    this.#settled = undefined;
  }

  /** A header, before its payload is received. @throws ProtocolError */
  #accept(header: FrameHeader): Acceptance {
    switch (header.type) {
      case FrameType.ATTEND:
        return this.#acceptAttend(header);
      case FrameType.STEP:
        return this.#steps.hasRoom(header.id, header.rows) ? undefined : this.#oneSettled();
      case FrameType.OPEN:
      case FrameType.FREE:
      case FrameType.FORK:
      case FrameType.RETIRE:
      case FrameType.STATS:
      case FrameType.BYE:
      case FrameType.ERROR:
      case FrameType.PING:
      case FrameType.PONG:
        return undefined;
      default:
        throw unexpected(header);
    }
  }

  /** Where its rows go. */
  #acceptAttend({ id, layer, rows, dtype, payloadBytes }: FrameHeader): Acceptance {
    const step = this.#steps.require(id);
    if (rows !== step.rows) {
      throw new ProtocolError('ROWS_MISMATCH', `ATTEND has ${rows} rows, step ${id} has ${step.rows}`);
    }
    if (layer >= this.#geometry.layers) {
      throw new ProtocolError('BAD_LAYER', `ATTEND names layer ${layer}; the model has ${this.#geometry.layers}`);
    }
    const { rowDtype } = this.#backend;
    if (dtype !== rowDtype) {
      throw new ProtocolError('BAD_DTYPE', `ATTEND comes as ${dtype}; ${rowDtype} was agreed on`);
    }
    const expected = qkvBytes(this.#geometry, rows, rowDtype);
    if (payloadBytes !== expected) {
      throw new ProtocolError('BAD_LENGTH', `ATTEND has ${payloadBytes} bytes; expected ${expected}`);
    }
    if (step.holder === 'attend') {
      throw new ProtocolError('ATTEND_PENDING', `a layer of step ${id} is under way: wait for its RESULT`);
    }
    // The engine may have it all before we hear that it has left.
    if (step.holder === 'result') return this.#oneSettled();
    if (this.#underWay.size >= MAX_PENDING_ATTENDS || this.#pendingBytes > MAX_PENDING_BYTES) {
      return this.#oneSettled();
    }
    step.refusal ??= refusalOf(() => this.#backend.staged(id)); // announcing may have failed
    return step.refusal === undefined ? () => this.#backend.staged(id).qkv : 'drop';
  }

  #handle(frame: Frame): void {
    const { header } = frame;
    switch (header.type) {
      case FrameType.ATTEND:
        this.#begin(header);
        return;
      case FrameType.OPEN:
        for (const { slot, shard } of decodeOpen(frame)) this.#slots.open(slot, shard);
        return;
      case FrameType.FORK:
        for (const record of decodeFork(frame)) this.#slots.fork(record);
        return;
      case FrameType.FREE:
        for (const slot of decodeFree(frame)) this.#slots.free(slot);
        return;
      case FrameType.STEP:
        this.#steps.announce(frame);
        return;
      case FrameType.RETIRE:
        this.#steps.retire(header.id);
        return;
      case FrameType.STATS:
        this.#connection.send(statsFrame(header.id, this.stats()));
        return;
      case FrameType.ERROR:
        throw fromErrorMessage(decodeError(frame.payload), this.#connection.transport.name);
      default:
        throw unexpected(header);
    }
  }

  #begin(header: FrameHeader): void {
    const attend = this.#attend(header).finally(() => {
      this.#underWay.delete(attend);
      this.#settle();
    });
    this.#underWay.add(attend);
  }

  /** Its rows are in their place. Never rejects. */
  async #attend(header: FrameHeader): Promise<void> {
    const { id, layer, rows, payloadBytes } = header;
    const step = this.#steps.require(id);
    step.holder = 'attend';
    const wanted = (header.flags & FLAG_LOG_SUM_EXP) !== 0;
    const sums = wanted ? this.#pool.take(logSumExpBytes(this.#geometry, rows)) : undefined;
    const bytes = payloadBytes + outputBytes(this.#geometry, rows, this.#backend.rowDtype);
    this.#tensorBytesReceived += payloadBytes;
    this.#pendingBytes += bytes;
    try {
      if (step.refusal !== undefined) throw step.refusal;
      await this.#backend.attendStaged(id, layer, sums && new Float32Array(sums.buffer, 0, sums.byteLength / 4));
      this.#sendResult(header, step, sums);
    } catch (error) {
      if (sums !== undefined) this.#pool.give(sums);
      this.#steps.release(step);
      if (error instanceof NodeLostError) this.#lose(error);
      else this.#connection.send(errorFrame(toErrorMessage(error), { id, layer }));
    } finally {
      this.#pendingBytes -= bytes;
    }
  }

  #sendResult({ id, layer, rows }: FrameHeader, step: SessionStep, sums: Uint8Array<ArrayBuffer> | undefined): void {
    const { rowDtype } = this.#backend;
    const { output } = this.#backend.staged(id);
    // Memory that isn't shared may grow before it was sent, and its views end then: those rows are copied out.
    const copy = output.every(isShared) ? undefined : this.#pool.take(outputBytes(this.#geometry, rows, rowDtype));
    if (copy !== undefined) gather(output, copy);
    const { busyMs } = this.#backend.stats();
    const busyMicros = Math.max(0, Math.round((busyMs - this.#busyMsTold) * 1000));
    this.#busyMsTold += busyMicros / 1000;
    const outgoing = resultFrame({ id, layer, rows, dtype: rowDtype, busyMicros }, copy ?? output, sums);
    this.#tensorBytesSent += outgoing.header.payloadBytes;
    if (copy === undefined) step.holder = 'result';
    else this.#steps.release(step);
    this.#connection.send(outgoing, () => {
      if (sums !== undefined) this.#pool.give(sums);
      if (copy !== undefined) {
        this.#pool.give(copy);
        return;
      }
      this.#steps.release(step);
      this.#settle();
    });
  }
}

function isShared(view: Uint8Array): boolean {
  return !(view.buffer instanceof ArrayBuffer);
}

function gather(pieces: readonly Uint8Array[], target: Uint8Array): void {
  let at = 0;
  for (const piece of pieces) {
    target.set(piece, at);
    at += piece.byteLength;
  }
}

function unexpected({ type }: FrameHeader): ProtocolError {
  return new ProtocolError('UNEXPECTED_FRAME', `${frameRule(type)?.name} may not come from an engine in a session`);
}
