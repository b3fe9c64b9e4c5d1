/**
 * A port where attention nodes come to an engine: the one that listens is the engine, whatever connects is a node (a tab that was
 * lent, above all). The bytes are those of the other direction: the engine still says HELLO. Strangers may connect as they like, so
 * a node always has to prove the token, few may be in their handshake at once, and none waits for another.
 */
import { AbortedError, CapacityError, InputError, type Logger, silentLogger, toError } from '@glinthawk/core';
import {
  Connection,
  errorFrame,
  foreignWords,
  type KeepaliveOptions,
  MIN_TOKEN_CHARS,
  ToldOnce,
  type Transport,
  type WireDtype,
} from '@glinthawk/wire';
import { type Listener, type ListenOptions, listen } from '@glinthawk/wire/node';
import type { AttentionSource } from '../backend.ts';
import { transportSource } from './remote-source.ts';

export const DEFAULT_JOIN_PORT = 7412;
/** Nodes of one engine that came by themselves, when not told otherwise. */
export const DEFAULT_MOST_JOINED = 256;
/** Connections that have not shown a token yet; for one more the oldest is dropped. A real node is through in milliseconds. */
const MAX_HANDSHAKES = 32;
/** From the connection to WELCOME. */
const DEFAULT_HANDSHAKE_TIMEOUT_MS = 20_000;
/**
 * Failures that are told: of one address, behind which there may be many nodes (a proxy, this machine), and in all. Part of a reason
 * are a stranger's words, which he can vary.
 */
const MAX_TOLD_OF_ADDRESS = 8;
const MAX_TOLD = 256;
/** What is quoted of a stranger's words. */
const MAX_QUOTED_CHARS = 200;

export interface JoinOptions extends Omit<ListenOptions, 'onTransport' | 'token'> {
  /** Nodes prove it, and the engine to them. */
  readonly token: string;
  readonly wireDtype?: WireDtype;
  readonly mostJoined?: number;
  readonly handshakeTimeoutMs?: number;
  readonly keepalive?: KeepaliveOptions;
  /** @param name the connection's, as in EngineStats.nodes; `index` as there */
  readonly onJoined?: (name: string, index: number) => void;
}

/** As much as is needed of an engine. */
export interface Attachable {
  attach(source: AttentionSource): Promise<number>;
}

export class JoinListener {
  readonly listener: Listener;
  readonly #options: JoinOptions;
  readonly #logger: Logger;
  readonly #handshakes = new Set<Transport>(); // oldest first
  readonly #joined = new Set<Transport>();
  readonly #told = new ToldOnce(MAX_TOLD);
  readonly #toldOf = new Map<string, number>(); // at most as many as #told
  #engine: Attachable | null = null;

  /**
   * Until admitTo() is called, whoever comes is told to come again.
   * @throws InputError when the address can't be had, or the token could be guessed
   */
  static async open(options: JoinOptions): Promise<JoinListener> {
    if (options.token.length < MIN_TOKEN_CHARS) {
      const message = `the token for nodes that join has ${options.token.length} characters; at least ${MIN_TOKEN_CHARS} were expected`;
      throw new InputError('SHORT_TOKEN', message, {
        hint: 'give none to have one made, or e.g.: openssl rand -hex 16',
      });
    }
    const early: Transport[] = [];
    let take = (transport: Transport): void => void early.push(transport);
    const listener = await listen({ ...options, onTransport: (transport) => take(transport) });
    const joins = new JoinListener(listener, options);
    take = (transport) => joins.#accept(transport);
    for (const transport of early) take(transport);
    return joins;
  }

  private constructor(listener: Listener, options: JoinOptions) {
    this.listener = listener;
    this.#options = options;
    this.#logger = options.logger ?? silentLogger;
  }

  /** Nodes that are there now. */
  get joined(): number {
    return this.#joined.size;
  }

  admitTo(engine: Attachable): void {
    this.#engine = engine;
  }

  /** Listens no longer and drops every connection; close the engine first, so that its nodes hear it from that. */
  async close(): Promise<void> {
    this.#engine = null;
    await this.listener.close();
  }

  #accept(transport: Transport): void {
    const engine = this.#engine;
    const { mostJoined = DEFAULT_MOST_JOINED } = this.#options;
    if (engine === null) {
      turnAway(transport, 'NOT_READY', 'the engine is not ready yet; come again');
    } else if (this.#joined.size >= mostJoined) {
      turnAway(transport, 'TOO_MANY_NODES', `${mostJoined} nodes are there, which is as many as may join`);
    } else {
      void this.#admit(engine, transport);
    }
  }

  /** Never rejects. */
  async #admit(engine: Attachable, transport: Transport): Promise<void> {
    for (const oldest of this.#handshakes) {
      if (this.#handshakes.size < MAX_HANDSHAKES) break;
      this.#handshakes.delete(oldest);
      void oldest.close(new Error(`${MAX_HANDSHAKES} newer connections are in their handshake`));
    }
    this.#handshakes.add(transport);
    const { token, wireDtype, keepalive, logger, onJoined } = this.#options;
    const source = transportSource(transport, {
      token,
      handshakeTimeoutMs: this.#options.handshakeTimeoutMs ?? DEFAULT_HANDSHAKE_TIMEOUT_MS,
      ...(wireDtype && { wireDtype }),
      ...(keepalive && { keepalive }),
      ...(logger && { logger }),
    });
    try {
      const index = await engine.attach(this.#counted(source, transport));
      onJoined?.(transport.name, index);
    } catch (thrown) {
      const error = toError(thrown);
      await transport.close(error);
      if (!(error instanceof AbortedError)) this.#tell(transport.name, error);
    } finally {
      this.#handshakes.delete(transport);
    }
  }

  /**
   * Counts the node as soon as it has proven the token, before the engine has it: many may be in their handshake at once, and a
   * stranger who is takes nobody's place. For the last place the first one through has it; another one comes again and is told.
   */
  #counted(source: AttentionSource, transport: Transport): AttentionSource {
    const { mostJoined = DEFAULT_MOST_JOINED } = this.#options;
    return {
      ...source,
      connect: async (geometry, options) => {
        const backend = await source.connect(geometry, options);
        if (this.#joined.size < mostJoined) {
          this.#joined.add(transport);
          void transport.closed.then(() => this.#joined.delete(transport));
          return backend;
        }
        const full = new CapacityError('TOO_MANY_NODES', `${mostJoined} nodes came before ${source.name}`);
        await transport.close(full); // not by a good-bye, after which it would not come again
        await backend.close();
        throw full;
      },
    };
  }

  /** Once for each address and reason: a stranger who keeps trying fills nobody's screen, nor does he hide what else fails. */
  #tell(name: string, error: Error): void {
    const address = name.replace(/:\d+$/, '');
    const reason = foreignWords(error.message.replaceAll(name, address), MAX_QUOTED_CHARS);
    const told = this.#toldOf.get(address) ?? 0;
    const isNew = told < MAX_TOLD_OF_ADDRESS && this.#told.isNew(`${address} ${reason}`);
    if (isNew) this.#toldOf.set(address, told + 1);
    this.#logger[isNew ? 'warn' : 'debug'](`a node from ${address} could not join; the same again isn't shown`, {
      reason,
    });
  }
}

/** Of the kind `lost`: it may come again. */
function turnAway(transport: Transport, code: string, message: string): void {
  const connection = new Connection(transport);
  void connection.end(errorFrame({ code, kind: 'lost', message }));
}
