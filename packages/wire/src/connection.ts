/**
 * Frames over a transport, with keepalive. Frames sent in one turn of the event loop leave in one write; PING is answered here and
 * never seen by the caller; a peer from which nothing is heard for too long is dropped. After any fault the connection is
 * over: there is no resynchronising.
 */
import { GlinthawkError, ProtocolError, toError } from '@glinthawk/core';
import { pingFrame, pongFrame } from './control.ts';
import { type Frame, type FrameHeader, frameBytes, frameParts, type OutgoingFrame } from './frame.ts';
import { type Acceptance, FrameReader } from './frame-reader.ts';
import { FrameType } from './frame-type.ts';
import { MAX_HANDSHAKE_BYTES, MAX_HANDSHAKE_FRAMES } from './limits.ts';
import { ConnectionClosedError, type Transport, totalBytes } from './transport.ts';

export interface KeepaliveOptions {
  /** How often PING is sent. Default 3,000. */
  readonly intervalMs?: number;
  /** Silence after which the peer counts as gone. Default 15,000. */
  readonly timeoutMs?: number;
  /**
   * The peer has no reason ever to stop reading: one that takes nothing of what is sent for `timeoutMs` is dropped, even
   * while it sends. Default false.
   */
  readonly peerMustRead?: boolean;
}

interface AfterSend {
  /** Among the bytes queued with it. */
  readonly endsAt: number;
  readonly onSent: () => void;
}

/** At most this much is given to the transport at once, so that a stalled peer is told from a slow one. */
const SEND_BATCH_BYTES = 1024 * 1024;

export class Connection {
  readonly transport: Transport;
  readonly #reader: FrameReader;
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #intervalMs: number;
  readonly #timeoutMs: number;
  readonly #peerMustRead: boolean;
  readonly #timer: ReturnType<typeof setInterval>;
  #outgoing: Uint8Array[] = [];
  /** Queued, or given to the transport and not yet taken. */
  #outgoingBytes = 0;
  /** Of #outgoing. */
  #queuedBytes = 0;
  #afterSend: AfterSend[] = [];
  #flushing: Promise<void> | undefined;
  #sending = false;
  /** Since when the transport holds what it has not taken yet. */
  #sendingSince = 0;
  /** Id of the latest PING that is not answered yet. Only that one is: a peer that sends many and reads none costs nothing. */
  #owedPong: number | undefined;
  #closing: Promise<void> | undefined;
  #failure: Error | undefined;
  #waiting = false;
  #isOver = false;
  #discarding = false;
  #heardAt = performance.now();
  #heardBytes = 0;
  #tickedAt = performance.now();
  #pings = 0;
  #pingSentAt = 0;
  #roundTripMs = 0;

  /** Until `acceptAll` only frames of the handshake's size are received. */
  constructor(transport: Transport, keepalive: KeepaliveOptions = {}) {
    this.transport = transport;
    this.#reader = new FrameReader({ accept: handshakeOnly() });
    this.#chunks = transport[Symbol.asyncIterator]();
    this.#intervalMs = keepalive.intervalMs ?? 3_000;
    this.#timeoutMs = keepalive.timeoutMs ?? 15_000;
    this.#peerMustRead = keepalive.peerMustRead ?? false;
    void transport.closed.then(() => {
      this.#isOver = true;
    });
    this.#timer = setInterval(() => this.#tick(), this.#intervalMs);
    // Waiting for a peer is no reason to keep a process alive; its socket is.
    if (typeof this.#timer === 'object') (this.#timer as { unref?(): void }).unref?.();
  }

  /** Of the latest PING; 0 before the first PONG. */
  get roundTripMs(): number {
    return this.#roundTripMs;
  }

  /** Bytes queued and not yet taken by the transport. */
  get backlogBytes(): number {
    return this.#outgoingBytes;
  }

  /** Bytes that were copied from received chunks to where `accept` had payloads written. */
  get bytesPlaced(): number {
    return this.#reader.bytesPlaced;
  }

  /** Bytes received of frames that are not complete or not yet given out. */
  get bufferedBytes(): number {
    return this.#reader.bufferedBytes;
  }

  /** The handshake is done: every header goes to `accept` before its payload is received (FrameReaderOptions). */
  acceptAll(accept: (header: FrameHeader) => Acceptance, allocate?: (bytes: number) => Uint8Array): void {
    this.#reader.accept = accept;
    if (allocate !== undefined) this.#reader.allocate = allocate;
  }

  /**
   * Queues a frame; it leaves at the end of this turn of the event loop, with all others of the turn.
   * @param onSent called when its sections may be changed again; not at all when the connection ends before
   */
  send(outgoing: OutgoingFrame, onSent?: () => void): void {
    if (this.#failure !== undefined || this.#closing !== undefined) return;
    for (const part of frameParts(outgoing)) this.#outgoing.push(part);
    const bytes = frameBytes(outgoing.header);
    this.#outgoingBytes += bytes;
    this.#queuedBytes += bytes;
    if (onSent !== undefined) this.#afterSend.push({ endsAt: this.#queuedBytes, onSent });
    this.#flushSoon();
  }

  #flushSoon(): void {
    this.#flushing ??= Promise.resolve().then(() => this.#flush());
  }

  #answerPing(id: number): void {
    if (this.#failure !== undefined || this.#closing !== undefined) return;
    this.#owedPong = id;
    this.#flushSoon();
  }

  /** Resolves when everything queued was taken by the transport, or the connection is over. */
  async drained(): Promise<void> {
    await this.#flushing;
  }

  async #flush(): Promise<void> {
    try {
      while (this.#outgoing.length > 0 || this.#owedPong !== undefined) {
        if (this.#owedPong !== undefined) {
          const pong = this.#owedPong;
          this.#owedPong = undefined;
          this.send(pongFrame(pong));
        }
        const parts = this.#outgoing;
        const afterSend = this.#afterSend;
        this.#outgoing = [];
        this.#queuedBytes = 0;
        this.#afterSend = [];
        this.#sending = true;
        let sent = 0;
        let next = 0;
        for (const batch of batches(parts)) {
          this.#sendingSince = performance.now();
          await this.transport.send(batch);
          const bytes = totalBytes(batch);
          sent += bytes;
          this.#outgoingBytes -= bytes;
          // Not only at the end: whoever has a frame may answer it while the ones behind it leave.
          while ((afterSend[next]?.endsAt ?? Infinity) <= sent) afterSend[next++]?.onSent();
        }
        this.#sending = false;
      }
    } catch (error) {
      this.#fail(toError(error));
    } finally {
      this.#sending = false;
      this.#flushing = undefined;
    }
  }

  /**
   * The next frame that isn't keepalive.
   * @throws ProtocolError when the peer breaks the protocol, ConnectionClosedError when the connection is over
   */
  async receive(): Promise<Frame> {
    for (;;) {
      const frame = this.#discarding ? undefined : this.#reader.next();
      if (frame === undefined) {
        await (this.#reader.held === undefined || this.#isOver ? this.#pull() : this.#hold());
      } else if (frame.header.type === FrameType.PING) {
        this.#answerPing(frame.header.id);
      } else if (frame.header.type === FrameType.PONG) {
        if (frame.header.id === this.#pings) this.#roundTripMs = performance.now() - this.#pingSentAt;
      } else {
        return frame;
      }
    }
  }

  /**
   * From now on what comes is read and thrown away: nothing more is written where `accept` told to, not even the rest of a
   * frame of which a part was. `receive` waits for the end.
   */
  discard(): void {
    this.#discarding = true;
    this.#reader.abandon();
  }

  /** Whoever holds a frame back until something was sent must not wait for ever. */
  async #hold(): Promise<void> {
    await Promise.race([this.#reader.held, this.transport.closed]);
  }

  async #pull(): Promise<void> {
    if (this.#failure !== undefined) throw new ConnectionClosedError(this.transport.name, this.#failure);
    this.#waiting = true;
    this.#heard();
    const { value, done } = await this.#chunks.next();
    this.#waiting = false;
    this.#heard();
    if (!done) {
      if (!this.#discarding) this.#reader.push(value);
      return;
    }
    const reason = await this.transport.closed;
    const cut = this.#reader.atBoundary ? undefined : new Error('it ended in the middle of a frame');
    throw new ConnectionClosedError(this.transport.name, this.#failure ?? reason ?? cut);
  }

  /** Measures the round trip, apart from the regular ones. */
  ping(): void {
    this.#pings++;
    this.#pingSentAt = performance.now();
    this.send(pingFrame(this.#pings));
  }

  /** Whether the peer still answers; waits for at most `timeoutMs`. */
  async probe(timeoutMs: number): Promise<boolean> {
    const before = this.transport.bytesReceived;
    const deadline = performance.now() + timeoutMs;
    this.ping();
    // While we don't read, its answer may be stuck behind what we have not taken yet: it gets the benefit of the doubt.
    while (this.#waiting && this.#closing === undefined) {
      if (this.transport.bytesReceived !== before) return true;
      if (performance.now() > deadline) return false;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    return this.#closing === undefined;
  }

  #heard(): void {
    this.#heardAt = performance.now();
    this.#heardBytes = this.transport.bytesReceived;
  }

  #tick(): void {
    const now = performance.now();
    const late = now - this.#tickedAt > this.#intervalMs * 2;
    this.#tickedAt = now;
    // Our own event loop stood still: what the peer sent meanwhile has not been looked at yet.
    if (late || this.transport.bytesReceived !== this.#heardBytes) this.#heard();
    if (late) this.#sendingSince = now;
    // Neither reading nor stuck in writing: silence is our own doing.
    if (!this.#waiting && !this.#sending) this.#heard();
    if (now - this.#heardAt > this.#timeoutMs) {
      this.#fail(new GlinthawkError('PEER_SILENT', `nothing was heard for ${Math.round(now - this.#heardAt)} ms`));
      return;
    }
    if (this.#peerMustRead && this.#sending && now - this.#sendingSince > this.#timeoutMs) {
      const unreadMs = Math.round(now - this.#sendingSince);
      this.#fail(new GlinthawkError('PEER_NOT_READING', `the peer has read nothing for ${unreadMs} ms`));
      return;
    }
    // Behind a backlog a ping measures the backlog, and proves nothing that the backlog's progress doesn't.
    if (this.#outgoingBytes === 0) this.ping();
  }

  #fail(reason: Error): void {
    this.#failure ??= reason;
    void this.close(reason);
  }

  /**
   * Sends what is queued (unless the connection failed, or `graceMs` pass) and closes the transport. `last` is sent before.
   */
  async end(last?: OutgoingFrame, graceMs = 1_000): Promise<void> {
    if (last !== undefined) this.send(last);
    let timer: ReturnType<typeof setTimeout> | undefined;
    const grace = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, graceMs);
    });
    await Promise.race([this.drained(), this.transport.closed, grace]);
    clearTimeout(timer);
    await this.close();
  }

  /** Closes the transport at once; what is queued is dropped. */
  close(reason?: Error): Promise<void> {
    clearInterval(this.#timer);
    this.#closing ??= this.transport.close(reason).then(() => {
      this.#outgoing = [];
      this.#outgoingBytes = 0;
      this.#queuedBytes = 0;
      this.#owedPong = undefined;
      this.#afterSend = [];
    });
    return this.#closing;
  }
}

/** Judges the headers of a peer that may be anybody. */
function handshakeOnly(): (header: FrameHeader) => undefined {
  let frames = 0;
  return (header) => {
    if (header.payloadBytes > MAX_HANDSHAKE_BYTES) {
      throw new ProtocolError(
        'FRAME_TOO_LONG',
        `a frame of ${header.payloadBytes} bytes before the handshake was done`,
      );
    }
    if (++frames > MAX_HANDSHAKE_FRAMES) {
      throw new ProtocolError(
        'TOO_MANY_FRAMES',
        `more than ${MAX_HANDSHAKE_FRAMES} frames before the handshake was done`,
      );
    }
  };
}

/** Splits parts into runs of at most SEND_BATCH_BYTES, cutting long parts. */
function* batches(parts: readonly Uint8Array[]): Generator<readonly Uint8Array[]> {
  let batch: Uint8Array[] = [];
  let room = SEND_BATCH_BYTES;
  for (const part of parts) {
    for (let at = 0; at < part.byteLength; ) {
      const piece = part.subarray(at, at + room);
      batch.push(piece);
      at += piece.byteLength;
      room -= piece.byteLength;
      if (room > 0) continue;
      yield batch;
      batch = [];
      room = SEND_BATCH_BYTES;
    }
  }
  if (batch.length > 0) yield batch;
}
