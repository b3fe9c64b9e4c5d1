/** `glinthawk attention`: an attention node on a port, until it is told to stop. */
import { availableParallelism } from 'node:os';
import { attentionKernelInfo, localAttentionSource } from '@glinthawk/attention';
import { type AttentionServer, serveAttention } from '@glinthawk/attention/node';
import { InputError } from '@glinthawk/core';
import { openModel } from '@glinthawk/model';
import type { ListenAddress } from '../arguments.ts';
import { EXIT } from '../failure.ts';
import { bytes, count, percent } from '../format.ts';
import { onInterrupt } from '../interrupt.ts';
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
  readonly debug?: boolean;
  /** Doesn't exist; people look for it. */
  readonly ws?: boolean;
}

/** Left to everything else on the machine when nobody says how much memory to take. */
const FREE_MEMORY_SHARE = 0.75;

export async function attention(
  flags: AttentionCommandFlags,
  screen: Screen,
  print: (line: string) => void,
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
  const source = localAttentionSource({ workers, memoryBytes, logger });
  const server = await serveAttention({
    ...flags.listen,
    createBackend: (geometry, options) => source.connect(geometry, options),
    token,
    fingerprint,
    logger,
    ...(tls === null ? {} : { tls }),
    ...(flags.origin === undefined ? {} : { origins: flags.origin }),
  });
  const { build } = attentionKernelInfo();
  screen.line(`attention node: ${workers} workers, up to ${bytes(memoryBytes)} of KV, ${build} SIMD kernels`);
  screen.line(token === undefined ? 'no token: only this machine can connect' : 'engines need the token');
  screen.line(
    flags.origin === undefined
      ? 'web pages may not connect (--origin lets them)'
      : `web pages may connect from ${flags.origin.join(', ')}`,
  );
  if (fingerprint !== undefined) screen.line(`serves model ${fingerprint.slice(0, 16)}… only`);
  print(`listening at ${server.listener.url} and ${server.listener.webSocketUrl}`);
  const timer = flags.statsSeconds > 0 ? showStats(server, screen, flags.statsSeconds * 1000) : null;
  await new Promise<void>((resolve) => interrupt.signal.addEventListener('abort', () => resolve()));
  if (timer !== null) clearInterval(timer);
  await server.drain({ graceMs: flags.drainSeconds * 1000, reason: 'the node is shutting down' });
  const { sessionsServed, bytesReceived, bytesSent } = server.node.stats();
  screen.line(`served ${count(sessionsServed)} sessions, ${bytes(bytesReceived)} in, ${bytes(bytesSent)} out`);
  interrupt.dispose();
  return EXIT.done;
}

function showStats(server: AttentionServer, screen: Screen, everyMs: number): NodeJS.Timeout {
  let previous = server.node.stats();
  return setInterval(() => {
    const now = server.node.stats();
    // Nothing to say while nobody is connected: the log has told that an engine left.
    if (now.session !== null) {
      const perSecond = (after: number, before: number) => `${bytes((1000 * Math.max(0, after - before)) / everyMs)}/s`;
      screen.line(
        `session ${now.session}: ${count(now.openSlots)} slots, ${count(now.usedBlocks)} blocks, ` +
          `busy ${percent(Math.max(0, now.busyMs - previous.busyMs) / everyMs)} of a core, ` +
          `${perSecond(now.bytesReceived, previous.bytesReceived)} in, ${perSecond(now.bytesSent, previous.bytesSent)} out, ` +
          `${bytes(now.allocatedBytes)} held`,
      );
    }
    previous = now;
  }, everyMs).unref();
}

async function pinnedModel({ model: path, fingerprint }: AttentionCommandFlags): Promise<string | undefined> {
  if (path === undefined) return fingerprint;
  if (fingerprint !== undefined) throw new InputError('TWO_MODELS', 'give --model or --fingerprint, not both');
  const model = await openModel(path);
  await model.close();
  return model.fingerprint;
}
