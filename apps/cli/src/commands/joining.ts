/**
 * The port of a run where attention nodes come by themselves: opened before the weights are loaded, so that what is wrong with it is
 * told at once, and admitting nodes when there is an engine. It serves the page that lends a tab, too.
 */
import { randomBytes } from 'node:crypto';
import { networkInterfaces } from 'node:os';
import { JoinListener } from '@glinthawk/attention/node';
import { InputError, type Logger } from '@glinthawk/core';
import type { EngineApi } from '@glinthawk/engine';
import type { AttentionPlace } from '../arguments.ts';
import { answerWithPage, openDemoPage, type Page } from '../demo-page.ts';
import { bytes, count, plural } from '../format.ts';
import type { Screen } from '../screen.ts';
import { readKeyPair } from '../tls.ts';
import type { RunFlags } from './run-flags.ts';

const JOIN_TOKEN_BYTES = 16;
const NOT_BUILT = 'The page that lends a tab is not built here: run `npm run build:demo` and start the job again.';

type ListenPlace = Extract<AttentionPlace, { readonly type: 'listen' }>;

export function listenPlace(places: readonly AttentionPlace[]): ListenPlace | undefined {
  return places.find((place) => place.type === 'listen');
}

/** @throws InputError for flags that contradict each other */
export function checkJoinFlags({ attention, tlsCert, tlsKey, origin }: RunFlags): void {
  const place = listenPlace(attention);
  const hasTls = tlsCert !== undefined || tlsKey !== undefined;
  if (place?.secure && !hasTls) {
    throw new InputError('TLS_FILES', 'wss-listen needs --tls-cert and --tls-key', {
      hint: 'or let a reverse proxy do TLS in front of ws-listen (docs/cli.md)',
    });
  }
  if (hasTls && !place?.secure) {
    throw new InputError('TLS_FLAGS', '--tls-cert and --tls-key are for --attention wss-listen://HOST:PORT', {
      hint: 'to trust the certificates of nodes, use --tls-ca',
    });
  }
  if (origin !== undefined && place === undefined) {
    throw new InputError('ORIGIN_FLAG', '--origin is for --attention ws-listen://HOST:PORT or wss-listen://HOST:PORT');
  }
}

export class Joining {
  readonly #joins: JoinListener;
  readonly #screen: Screen;
  readonly #token: string;
  readonly #isGenerated: boolean;
  readonly #page: Page | null;
  readonly #origins: readonly string[];
  #engine: EngineApi | null = null;

  /** @param token as given; absent, one is made and shown @throws InputError when the address can't be had */
  static async open(
    flags: RunFlags,
    place: ListenPlace,
    options: { readonly token: string | undefined; readonly screen: Screen; readonly logger: Logger },
  ): Promise<Joining> {
    const { screen, logger } = options;
    const token = options.token ?? randomBytes(JOIN_TOKEN_BYTES).toString('hex');
    const tls = await readKeyPair(flags);
    const page = await openDemoPage();
    const origins = flags.origin ?? ['*'];
    let onJoined: (name: string, index: number) => void = () => {};
    const joins = await JoinListener.open({
      host: place.host,
      port: place.port,
      token,
      wireDtype: flags.wire,
      origins,
      ...(tls && { tls }),
      onRequest: (request, response) => answerWithPage(page, NOT_BUILT, request, response),
      onJoined: (name, index) => onJoined(name, index),
      logger,
    });
    const joining = new Joining(joins, screen, {
      token,
      isGenerated: options.token === undefined,
      page,
      origins,
    });
    onJoined = (name, index) => joining.#sayJoined(name, index);
    return joining;
  }

  private constructor(
    joins: JoinListener,
    screen: Screen,
    about: {
      readonly token: string;
      readonly isGenerated: boolean;
      readonly page: Page | null;
      readonly origins: readonly string[];
    },
  ) {
    this.#joins = joins;
    this.#screen = screen;
    this.#token = about.token;
    this.#isGenerated = about.isGenerated;
    this.#page = about.page;
    this.#origins = about.origins;
  }

  /** `ws://host:port`, or `wss://`. */
  get url(): string {
    return this.#joins.listener.webSocketUrl;
  }

  get joined(): number {
    return this.#joins.joined;
  }

  /** From now on nodes are let in; says where. */
  admitTo(engine: EngineApi): void {
    this.#engine = engine;
    this.#joins.admitTo(engine);
    // A secret that was made here is of no use to anybody unless it is shown.
    const say = (text: string) => (this.#isGenerated ? this.#screen.important(text) : this.#screen.line(text));
    const token = this.#isGenerated ? encodeURIComponent(this.#token) : '…';
    let isElsewhere = false;
    for (const address of this.#addresses()) {
      const own = address.replace(/^ws/, 'http');
      const isServed = this.#page !== null && this.#mayJoinFrom(own);
      isElsewhere ||= !isServed;
      say(`lend a tab: ${isServed ? `${own}/#lend` : `PAGE#lend=${address}`}&token=${token}`);
    }
    if (isElsewhere && !this.#origins.includes('*')) {
      say(`            (PAGE is the page as ${this.#origins.join(' or ')} serves it: --origin lets no other in)`);
    }
    if (!this.#isGenerated) this.#screen.line('            (… is the token that you gave)');
    if (this.#page === null) {
      this.#screen.important('warning: the page is not built here (npm run build:demo); PAGE is where you serve it');
    }
    if (engine.stats().nodes.every(({ connected }) => !connected)) {
      this.#screen.line('waiting for the first attention node to join');
    }
  }

  close(): Promise<void> {
    return this.#joins.close();
  }

  /** As the port itself checks it. */
  #mayJoinFrom(origin: string): boolean {
    return this.#origins.includes('*') || this.#origins.includes(new URL(origin).origin);
  }

  #sayJoined(name: string, index: number): void {
    const stats = this.#engine?.stats();
    const node = stats?.nodes[index];
    // One that said good-bye at once was reported lost, and is no news.
    if (stats === undefined || node?.connected !== true || node.name !== name) return;
    const nodes = stats.nodes.filter(({ connected }) => connected).length;
    this.#screen.line(
      `joined     ${name}: ${plural(nodes, 'node')}, room for ${count(stats.kvCapacityTokens)} tokens of KV (${bytes(stats.kvCapacityBytes)})`,
    );
  }

  /** Where others reach it: for an address that means all, one for each that this machine has. */
  #addresses(): string[] {
    const { host, port, webSocketUrl } = this.#joins.listener;
    if (host !== '0.0.0.0' && host !== '::') return [webSocketUrl];
    const scheme = webSocketUrl.replace(/:.*/s, '');
    const found = Object.values(networkInterfaces()).flatMap((interfaces) => interfaces ?? []);
    const outer = found.filter(
      ({ internal, family, address }) =>
        !internal && (family === 'IPv4' || host === '::') && !address.toLowerCase().startsWith('fe80:'),
    );
    const shown = outer.map(({ family, address }) => (family === 'IPv6' ? `[${address}]` : address));
    return ['127.0.0.1', ...shown].map((address) => `${scheme}://${address}:${port}`);
  }
}
