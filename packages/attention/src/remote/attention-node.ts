/**
 * An attention node: takes connections of any transport, lets one engine at a time in, and gives it a backend made for its
 * model. A second engine is refused as long as the first one answers. Nothing of a session outlives it: when it ends, for
 * whatever reason, its backend is closed and its buffers are let go.
 */
import {
  type AttentionGeometry,
  GlinthawkError,
  type Logger,
  NodeLostError,
  ProtocolError,
  type RowDtype,
  silentLogger,
  toError,
} from '@glinthawk/core';
import {
  authFrame,
  authProof,
  byeFrame,
  Connection,
  ConnectionClosedError,
  decodeAuth,
  decodeError,
  decodeHello,
  drainFrame,
  equalBytes,
  errorFrame,
  FrameType,
  frameRule,
  fromErrorMessage,
  type Hello,
  type KeepaliveOptions,
  MAX_SLOTS,
  MAX_STEP_ENTRIES,
  maxRowsPerFrame,
  PROTOCOL_VERSION,
  randomNonce,
  type SessionLimits,
  type Transport,
  toErrorMessage,
  welcomeFrame,
} from '@glinthawk/wire';
import type { AttentionSource, StagedAttention } from '../backend.ts';
import { type AttentionNodeStats, added, noSums } from './attention-node-stats.ts';
import { NodeSession } from './node-session.ts';

/** Makes the KV cache of a session, with rows as they travel in it. */
export type CreateBackend = (
  geometry: AttentionGeometry,
  options: Parameters<AttentionSource['connect']>[1] & { readonly rowDtype: RowDtype },
) => Promise<StagedAttention>;

export interface AttentionNodeOptions {
  readonly createBackend: CreateBackend;
  /** For people. Default `attention`. */
  readonly name?: string;
  /** Engines must know it, and are shown that the node does. */
  readonly token?: string | undefined;
  /** It waits for engines at an address, rather than going to them: what is meant for one that does is refused. */
  readonly listens?: boolean;
  /** Serve this model only. */
  readonly fingerprint?: string | undefined;
  readonly limits?: Partial<SessionLimits>;
  readonly keepalive?: KeepaliveOptions;
  /** HELLO and the token's proof must have come by then. Default 10,000. */
  readonly handshakeTimeoutMs?: number;
  /** How long a session's engine may take to show that it lives when another one wants in. Default 2,000. */
  readonly probeTimeoutMs?: number;
  readonly logger?: Logger;
}

/** Connections that have not shown a token yet; for one more the oldest is turned away. */
const MAX_HANDSHAKES = 32;

/** How long a sign of life may take to turn out to be a good-bye. */
const LEAVING_MS = 100;

/** The place that one engine holds. */
interface Tenancy {
  readonly clientId: string;
  readonly connection: Connection;
  readonly abort: AbortController;
  /** Resolves when the engine has said good-bye or its connection has ended; then everything is released. */
  readonly leaving: PromiseWithResolvers<void>;
  readonly over: Promise<void>;
  backend: StagedAttention | undefined;
  session: NodeSession | undefined;
}

export class AttentionNode {
  readonly name: string;
  readonly #options: AttentionNodeOptions;
  readonly #logger: Logger;
  readonly #limits: SessionLimits;
  readonly #connections = new Map<Connection, Promise<Error | null>>();
  /** Each with what ends it, oldest first. */
  readonly #handshakes = new Map<Connection, () => void>();
  #tenancy: Tenancy | undefined;
  #draining: string | undefined;
  #sessionsServed = 0;
  #refused = 0;
  #bytesReceived = 0;
  #bytesSent = 0;
  /** Of sessions that are over. */
  #sums = noSums;

  constructor(options: AttentionNodeOptions) {
    this.#options = options;
    this.name = options.name ?? 'attention';
    this.#logger = options.logger ?? silentLogger;
    this.#limits = {
      maxSlots: options.limits?.maxSlots ?? MAX_SLOTS,
      maxSteps: options.limits?.maxSteps ?? 256,
      maxStepRows: options.limits?.maxStepRows ?? MAX_STEP_ENTRIES,
    };
  }

  /**
   * Takes a connection over, whichever end opened it; this end is the node's. Never throws or rejects: what is wrong with it is told
   * to the other end and logged. Resolves when the connection is over, with what ended it, or null after an orderly end.
   */
  accept(transport: Transport): Promise<Error | null> {
    const connection = new Connection(transport, { ...this.#options.keepalive, peerMustRead: true });
    const served = this.#serve(connection).finally(() => {
      this.#connections.delete(connection);
      this.#bytesReceived += transport.bytesReceived;
      this.#bytesSent += transport.bytesSent;
    });
    this.#connections.set(connection, served);
    return served;
  }

  stats(): AttentionNodeStats {
    const { backend, session, connection } = this.#tenancy ?? {};
    const stats = session?.stats();
    let bytesReceived = this.#bytesReceived;
    let bytesSent = this.#bytesSent;
    for (const { transport } of this.#connections.keys()) {
      bytesReceived += transport.bytesReceived;
      bytesSent += transport.bytesSent;
    }
    return {
      connections: this.#connections.size,
      session: connection?.transport.name ?? null,
      sessionsServed: this.#sessionsServed,
      refused: this.#refused,
      draining: this.#draining !== undefined,
      workers: backend?.capacity.workers ?? 0,
      blocks: backend?.capacity.shards.reduce((sum, { blocks }) => sum + blocks, 0) ?? 0,
      usedBlocks: stats?.usedBlocks ?? 0,
      openSlots: stats?.openSlots ?? 0,
      pendingAttends: stats?.pendingAttends ?? 0,
      allocatedBytes: stats?.allocatedBytes ?? backend?.allocatedBytes() ?? 0,
      bytesReceived,
      bytesSent,
      ...added(this.#sums, stats),
    };
  }

  /**
   * Lets nobody in any more, tells the engine, and gives it `graceMs` to leave; then finishes what is under way and says
   * good-bye. Resolves when nobody is connected.
   */
  async drain(options: { readonly graceMs?: number; readonly reason?: string } = {}): Promise<void> {
    const reason = options.reason ?? 'the node is shutting down';
    this.#draining = reason;
    const tenancy = this.#tenancy;
    if (tenancy !== undefined) {
      tenancy.connection.send(drainFrame(reason));
      await Promise.race([tenancy.over, sleep(options.graceMs ?? 0)]);
      await Promise.race([tenancy.over, tenancy.session?.answered()]);
    }
    await this.close(reason);
  }

  /** Ends every connection now. */
  async close(reason = 'the node is closing'): Promise<void> {
    this.#draining ??= reason;
    const served = [...this.#connections.values()];
    for (const connection of this.#connections.keys()) void connection.end(byeFrame(reason));
    this.#tenancy?.abort.abort();
    await Promise.all(served);
  }

  async #serve(connection: Connection): Promise<Error | null> {
    const from = connection.transport.name;
    try {
      const hello = await this.#handshake(connection);
      await this.#session(connection, hello.hello, hello.proof);
      await connection.end();
      return null;
    } catch (thrown) {
      const error = toError(thrown);
      if (error instanceof ConnectionClosedError) {
        this.#logger.debug('connection ended', { from, reason: error.message });
      } else {
        this.#logger.warn('connection dropped', { from, error: error.message });
        if (!(error instanceof GlinthawkError)) this.#logger.debug('unexpected error', { stack: error.stack });
      }
      await connection.end(errorFrame(toErrorMessage(error)));
      return error;
    }
  }

  /** HELLO and token. @throws ProtocolError, ConnectionClosedError */
  async #handshake(connection: Connection): Promise<{ readonly hello: Hello; readonly proof: Uint8Array | null }> {
    // A real engine is through in milliseconds; whoever only holds places has the oldest.
    for (const [oldest, turnAway] of this.#handshakes) {
      if (this.#handshakes.size < MAX_HANDSHAKES) break;
      this.#handshakes.delete(oldest);
      turnAway();
    }
    this.#handshakes.set(connection, () => {
      this.#refused++;
      const crowded = new NodeLostError(this.name, `${MAX_HANDSHAKES} newer connections are in their handshake`);
      // Of the kind `lost`, so that an engine that waits for its nodes comes again.
      void connection.end(errorFrame({ ...toErrorMessage(crowded), code: 'TOO_MANY_CONNECTIONS' }));
    });
    const timeoutMs = this.#options.handshakeTimeoutMs ?? 10_000;
    const timer = setTimeout(() => {
      const late = new ProtocolError('HANDSHAKE_TIMEOUT', `no handshake within ${timeoutMs} ms`);
      void connection.end(errorFrame(toErrorMessage(late)));
    }, timeoutMs);
    try {
      const first = await this.#expect(connection, FrameType.HELLO);
      const hello = decodeHello(first);
      if (this.#options.listens && hello.connectedBy === 'node') {
        throw this.#refuse(
          'RELAYED',
          'this engine waits for nodes to come to it; somebody relays what it says',
          'use tcp:// or ws:// addresses of nodes',
        );
      }
      const proof = await this.#authenticate(connection, first);
      return { hello, proof };
    } finally {
      clearTimeout(timer);
      this.#handshakes.delete(connection);
    }
  }

  async #authenticate(connection: Connection, helloPayload: Uint8Array): Promise<Uint8Array | null> {
    const { token } = this.#options;
    if (token === undefined) return null;
    const payload = helloPayload.slice(); // it may be a view of a chunk that is to go
    const nonce = randomNonce();
    const expected = authProof(token, 'engine', payload, nonce);
    connection.send(authFrame({ kind: 'challenge', nonce }));
    const answer = decodeAuth(await this.#expect(connection, FrameType.AUTH));
    if (answer.kind !== 'proof' || !equalBytes(answer.proof, expected)) {
      throw this.#refuse('WRONG_TOKEN', 'the token is not the one of this node', 'give both ends the same --token');
    }
    return authProof(token, 'node', payload, nonce);
  }

  async #expect(connection: Connection, type: FrameType): Promise<Uint8Array> {
    const { header, payload } = await connection.receive();
    if (header.type === type) return payload;
    if (header.type === FrameType.ERROR) {
      this.#refused++;
      throw fromErrorMessage(decodeError(payload), connection.transport.name);
    }
    const names = `${frameRule(type)?.name} was expected, ${frameRule(header.type)?.name} came`;
    throw this.#refuse('UNEXPECTED_FRAME', names);
  }

  async #session(connection: Connection, hello: Hello, proof: Uint8Array | null): Promise<void> {
    const { fingerprint } = this.#options;
    if (fingerprint !== undefined && fingerprint !== hello.fingerprint) {
      const message = `this node serves model ${fingerprint}, not ${hello.fingerprint}`;
      throw this.#refuse('WRONG_MODEL', message, 'run both ends with the same model');
    }
    const end = Promise.withResolvers<void>();
    const tenancy: Tenancy = {
      clientId: hello.clientId,
      connection,
      abort: new AbortController(),
      leaving: Promise.withResolvers(),
      over: end.promise,
      backend: undefined,
      session: undefined,
    };
    await this.#moveIn(tenancy);
    try {
      await this.#serveTenant(tenancy, hello, proof);
    } finally {
      tenancy.leaving.resolve();
      const last = tenancy.session?.stats();
      try {
        await tenancy.backend?.close();
        await tenancy.session?.release();
      } finally {
        this.#sums = added(this.#sums, last);
        this.#tenancy = undefined; // however that went: the place is free
        end.resolve();
      }
    }
  }

  /** Waits for the place to be free, or refuses. */
  async #moveIn(tenancy: Tenancy): Promise<void> {
    const probeMs = this.#options.probeTimeoutMs ?? 2_000;
    for (;;) {
      if (this.#draining !== undefined) {
        this.#refused++;
        throw new NodeLostError(this.name, `no new sessions: ${this.#draining}`);
      }
      const present = this.#tenancy;
      if (present === undefined) {
        this.#tenancy = tenancy;
        return;
      }
      const same = present.clientId === tenancy.clientId; // it lost its connection before we noticed
      if (!same && (await present.connection.probe(probeMs))) {
        // What it said may have been good-bye: an engine that opens anew, in a page above all, is here before its last frame is read.
        if (await Promise.race([present.leaving.promise.then(() => true), sleep(LEAVING_MS).then(() => false)])) {
          await present.over;
          continue;
        }
        const message = `this node serves another engine (${present.connection.transport.name})`;
        throw this.#refuse('BUSY', message, 'wait until it is done, or use another node');
      }
      const why = new NodeLostError(this.name, same ? 'the engine connected anew' : 'the engine no longer answers');
      present.abort.abort(why);
      void present.connection.close(why);
      await present.over;
    }
  }

  async #serveTenant(tenancy: Tenancy, hello: Hello, proof: Uint8Array | null): Promise<void> {
    const { connection, abort } = tenancy;
    const { geometry, kvDtype, wireDtype } = hello;
    const from = connection.transport.name;
    void connection.transport.closed.then(() => abort.abort());
    const creating = this.#options.createBackend(geometry, {
      kvDtype,
      fingerprint: hello.fingerprint,
      rowDtype: wireDtype,
      signal: abort.signal,
    });
    const backend = await creating;
    tenancy.backend = backend;
    if (abort.signal.aborted) throw new ConnectionClosedError(from);
    if (backend.rowDtype !== wireDtype) {
      throw new TypeError(`createBackend made rows of ${backend.rowDtype}; ${wireDtype} was asked for`);
    }
    const own = backend.limits ?? this.#limits;
    const limits: SessionLimits = {
      maxSlots: Math.min(this.#limits.maxSlots, own.maxSlots),
      maxSteps: Math.min(this.#limits.maxSteps, own.maxSteps),
      maxStepRows: Math.min(this.#limits.maxStepRows, own.maxStepRows, maxRowsPerFrame(geometry, wireDtype)),
    };
    const session = new NodeSession({ connection, backend, limits });
    tenancy.session = session;
    this.#sessionsServed++;
    this.#logger.info('session begins', { from, fingerprint: hello.fingerprint, kvDtype, wireDtype });
    connection.send(
      welcomeFrame({
        protocolVersion: PROTOCOL_VERSION,
        node: this.name,
        wireDtype,
        blockTokens: backend.capacity.blockTokens,
        blockBytes: backend.capacity.blockBytes,
        shardBlocks: backend.capacity.shards.map((shard) => shard.blocks),
        workers: backend.capacity.workers,
        limits,
        proof,
      }),
    );
    try {
      await session.run();
    } finally {
      this.#logger.info('session ends', { from });
    }
  }

  #refuse(code: string, message: string, hint?: string): ProtocolError {
    this.#refused++;
    return new ProtocolError(code, message, hint === undefined ? {} : { hint });
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
