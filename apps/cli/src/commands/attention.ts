/** `glinthawk attention`: an attention node on a port, until it is told to stop. */
import { availableParallelism } from 'node:os';
import { attentionKernelInfo, createLocalAttention } from '@glinthawk/attention';
import { type AttentionServer, serveAttention } from '@glinthawk/attention/node';
import { InputError } from '@glinthawk/core';
import { openModel } from '@glinthawk/model';
import type { ListenAddress } from '../arguments.ts';
import { EXIT } from '../failure.ts';
import { bytes, plural } from '../format.ts';
import { onInterrupt } from '../interrupt.ts';
import { type MetricsServer, serveMetrics } from '../metrics-server.ts';
import { type NodeMetricsOptions, nodeMetrics } from '../node-metrics.ts';
import { describeCache, describeService, describeSession } from '../node-report.ts';
import { Opened } from '../opened.ts';
import type { Screen } from '../screen.ts';
import { readKeyPair, type TlsFlags } from '../tls.ts';
import { readToken, type TokenFlags } from '../token.ts';

export interface AttentionCommandFlags extends TokenFlags, TlsFlags {
  readonly listen: ListenAddress;
  readonly workers?: number;
  readonly memory?: number;
  readonly model?: string;
  readonly fingerprint?: string;
  readonly origin?: readonly string[];
  readonly drainSeconds: number;
  readonly statsSeconds: number;
  /** Where figures are served. */
  readonly metrics?: ListenAddress;
  readonly debug?: boolean;
  /** Doesn't exist; people look for it. */
  readonly ws?: boolean;
}

/** Left to everything else on the machine when nobody says how much memory to take. */
const FREE_MEMORY_SHARE = 0.75;

export interface AttentionCommandTools {
  readonly screen: Screen;
  /** To standard output. */
  readonly print: (line: string) => void;
  /** Of the command. */
  readonly version: string;
}

export async function attention(
  flags: AttentionCommandFlags,
  { screen, print, version }: AttentionCommandTools,
): Promise<number> {
  if (flags.ws) {
    throw new InputError('WS_FLAG', 'there is no --ws: WebSocket is always taken, on the same port as TCP', {
      hint: 'for web pages say which may connect, e.g. --origin http://localhost:4173, and give a token',
    });
  }
  const token = await readToken(flags);
  const tls = await readKeyPair(flags);
  const fingerprint = await pinnedModel(flags);
  const workers = flags.workers ?? availableParallelism();
  const memoryBytes = flags.memory ?? Math.floor(process.availableMemory() * FREE_MEMORY_SHARE);
  const logger = screen.logger(flags.debug ?? false);
  const interrupt = onInterrupt((signal) => screen.line(`draining (${signal}); once more to stop at once`));
  const kernels = attentionKernelInfo();
  await using opened = new Opened();
  const server = opened.add(
    await serveAttention({
      ...flags.listen,
      createBackend: async (geometry, options) => {
        const backend = await createLocalAttention(geometry, { ...options, workers, memoryBytes, logger });
        screen.line(describeCache(backend));
        return backend;
      },
      token,
      fingerprint,
      logger,
      ...(tls === null ? {} : { tls }),
      ...(flags.origin === undefined ? {} : { origins: flags.origin }),
    }),
    (it) => it.close(),
  );
  const metrics =
    flags.metrics === undefined
      ? null
      : opened.add(await openMetrics(server, flags.metrics, { version, kernels, workers, memoryBytes }), (it) =>
          it.close(),
        );
  screen.line(
    `attention node: ${plural(workers, 'worker')}, up to ${bytes(memoryBytes)} of KV, ${kernels.build} SIMD kernels`,
  );
  screen.line(token === undefined ? 'no token: only this machine can connect' : 'engines need the token');
  screen.line(
    flags.origin === undefined
      ? 'web pages may not connect (--origin lets them)'
      : `web pages may connect from ${flags.origin.join(', ')}`,
  );
  if (fingerprint !== undefined) screen.line(`serves model ${fingerprint.slice(0, 16)}… only`);
  if (metrics !== null) print(`metrics at ${metrics.url}/metrics`);
  print(`listening at ${server.listener.url} and ${server.listener.webSocketUrl}`);
  const timer = flags.statsSeconds > 0 ? showStats(server, screen, flags.statsSeconds) : null;
  await aborted(interrupt.signal);
  if (timer !== null) clearInterval(timer);
  await server.drain({ graceMs: flags.drainSeconds * 1000, reason: 'the node is shutting down' });
  screen.line(describeService(server.node.stats()));
  interrupt.dispose();
  return EXIT.done;
}

/** Also of one that came while the node was being started. */
function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}

function openMetrics(
  { node }: AttentionServer,
  address: ListenAddress,
  about: Omit<NodeMetricsOptions, 'stats'>,
): Promise<MetricsServer> {
  const registry = nodeMetrics({ ...about, stats: () => node.stats() });
  return serveMetrics({
    ...address,
    metrics: () => registry.metrics(),
    contentType: registry.contentType,
    isServing: () => !node.stats().draining,
  });
}

function showStats(server: AttentionServer, screen: Screen, seconds: number): NodeJS.Timeout {
  let before = server.node.stats();
  return setInterval(() => {
    const now = server.node.stats();
    // Nothing to say while nobody is connected: the log has told that an engine left.
    if (now.session !== null) screen.line(describeSession(now, before, seconds));
    before = now;
  }, seconds * 1000).unref();
}

async function pinnedModel({ model: path, fingerprint }: AttentionCommandFlags): Promise<string | undefined> {
  if (path === undefined) return fingerprint;
  if (fingerprint !== undefined) throw new InputError('TWO_MODELS', 'give --model or --fingerprint, not both');
  const model = await openModel(path);
  await model.close();
  return model.fingerprint;
}
