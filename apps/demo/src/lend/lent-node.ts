/**
 * An attention node that goes to its job: connects to the joining address, serves, and comes again when the connection ends, until
 * it is stopped or refused for good. Needs WebSockets and WebAssembly only: no shared memory, no secure context.
 */
import { AttentionNode, createInlineAttention } from '@glinthawk/attention';
import { CapacityError, GlinthawkError, InputError, ProtocolError, sleep, toError } from '@glinthawk/core';
import { connectWebSocket, type Transport } from '@glinthawk/wire';
import { type AttendCount, CountedBackend } from './counted-backend.ts';
import type { LendStart, LendState, LentWorker } from './lend-messages.ts';

const CONNECT_TIMEOUT_MS = 10_000;
const FIRST_BACKOFF_MS = 250;
/** A job that ended is looked for again this often; the visitor sees that it waits. */
const LONGEST_BACKOFF_MS = 10_000;
/** How long the job may take to give up its KV here when the visitor stops lending. */
const LEAVE_MS = 500;

export type Dial = (url: string, signal: AbortSignal) => Promise<Transport>;

const dialWebSocket: Dial = (url, signal) => connectWebSocket(url, { timeoutMs: CONNECT_TIMEOUT_MS, signal });

export class LentNode {
  readonly #start: LendStart;
  readonly #dial: Dial;
  readonly #node: AttentionNode;
  readonly #count: AttendCount = { attends: 0, capacity: null };
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;
  #state: LendState = 'connecting';
  #reason: string | null = null;
  #measured = { atMs: performance.now(), busyMs: 0 };

  constructor(start: LendStart, dial: Dial = dialWebSocket) {
    const { name, token, memoryBytes } = start;
    this.#start = start;
    this.#dial = dial;
    this.#node = new AttentionNode({
      name,
      ...(token === null ? {} : { token }),
      createBackend: async (geometry, { kvDtype, rowDtype }) =>
        new CountedBackend(
          await createInlineAttention(geometry, { kvDtype, rowDtype, memoryBytes, name }),
          this.#count,
        ),
    });
    this.#running = this.#run();
  }

  /** What it does now; its busy share is that since the last call. */
  report(): LentWorker {
    const { usedBlocks, openSlots, busyMs, bytesReceived, bytesSent, session } = this.#node.stats();
    const now = performance.now();
    const elapsedMs = Math.max(1, now - this.#measured.atMs);
    const spentMs = busyMs - this.#measured.busyMs;
    this.#measured = { atMs: now, busyMs };
    const { capacity, attends } = this.#count;
    return {
      name: this.#start.name,
      state: this.#state === 'connected' && session !== null ? 'serving' : this.#state,
      reason: this.#reason,
      usedBlocks,
      blocks: capacity?.shards.reduce((sum, { blocks }) => sum + blocks, 0) ?? 0,
      blockBytes: capacity?.blockBytes ?? 0,
      slots: openSlots,
      attends,
      bytesIn: bytesReceived,
      bytesOut: bytesSent,
      busyShare: Math.min(1, spentMs / elapsedMs),
    };
  }

  /** Tells the job, lets it finish what is under way, and leaves. */
  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#node.drain({ graceMs: LEAVE_MS, reason: 'the visitor stopped lending this tab' });
    await this.#running;
  }

  /** Never rejects. */
  async #run(): Promise<void> {
    const { signal } = this.#stop;
    let backoffMs = FIRST_BACKOFF_MS;
    while (!signal.aborted) {
      const attendsBefore = this.#count.attends;
      this.#set('connecting', null);
      const error = await this.#serveOnce();
      if (signal.aborted) break;
      if (error !== null && isForGood(error)) {
        this.#set('refused', explain(error));
        return;
      }
      if (this.#count.attends > attendsBefore) backoffMs = FIRST_BACKOFF_MS;
      this.#set('waiting', error === null ? 'the job said good-bye; waiting for another one there' : error.message);
      await sleep(backoffMs, signal);
      backoffMs = Math.min(backoffMs * 2, LONGEST_BACKOFF_MS);
    }
    this.#set('stopped', null);
  }

  /** What ended the connection, or null after an orderly end. */
  async #serveOnce(): Promise<Error | null> {
    try {
      const transport = await this.#dial(this.#start.url, this.#stop.signal);
      if (this.#stop.signal.aborted) {
        await transport.close();
        return null;
      }
      this.#set('connected', null);
      return await this.#node.accept(transport);
    } catch (thrown) {
      return toError(thrown);
    }
  }

  #set(state: LendState, reason: string | null): void {
    this.#state = state;
    this.#reason = reason;
  }
}

/** Whether it would be the same at the next try: a wrong token, another version, a model that this tab has no room for. */
function isForGood(error: Error): boolean {
  if (error instanceof ProtocolError) return error.code !== 'HANDSHAKE_TIMEOUT';
  return error instanceof CapacityError || error instanceof InputError;
}

function explain(error: Error): string {
  if (error instanceof GlinthawkError && (error.code === 'WRONG_TOKEN' || error.code === 'NODE_UNPROVEN')) {
    return 'the token is not the one of this job: open the link that the job shows';
  }
  return error.message;
}
