/** Opens both tiers and the engine of a run, says what they are, and holds the requests' lengths to what the KV memory has room for. */
import type { InputSummary, RequestModel } from '@glinthawk/batch';
import type { JobOutlook } from '@glinthawk/batch/node';
import { CapacityError, InputError, type Logger } from '@glinthawk/core';
import { createEngine, type EngineApi } from '@glinthawk/engine';
import type { Model } from '@glinthawk/model';
import { bytes, count, plural } from '../format.ts';
import type { Opened } from '../opened.ts';
import type { Screen } from '../screen.ts';
import { attentionSources, chooseDense, defaultKvMemory, openDense, requireWasmWeights } from '../tiers.ts';
import { readCertificates } from '../tls.ts';
import { Joining, listenPlace } from './joining.ts';
import type { RunFlags } from './run-flags.ts';

/**
 * What can't have the length here that it asks for isn't begun; a chat that asks for none ends where the KV memory does, which is
 * said. Where nodes may join nothing is too long for the KV memory: what no node can hold waits for one that can, and progress says
 * so. @throws InputError
 */
export function checkLengths(
  engine: EngineApi,
  { contextTokens }: RequestModel,
  { sequenceTokens, openEnded }: InputSummary,
  outlook: JobOutlook,
  logger: Logger,
): void {
  const room = engine.contextTokens;
  if (room >= contextTokens) return;
  const tooLong = sequenceTokens.filter((tokens, ordinal) => tokens > room && !outlook.isDone(ordinal));
  if (tooLong.length === 0) {
    if (openEnded > 0) {
      logger.warn(
        `${plural(openEnded, 'chat request')} without max_tokens: an answer ends ("length") where prompt and answer come to ` +
          `${count(room)} tokens, which is what the KV memory holds of the context of ${count(contextTokens)}`,
      );
    }
    return;
  }
  const longest = tooLong.reduce((most, tokens) => Math.max(most, tokens), 0);
  throw new InputError(
    'KV_MEMORY',
    `${plural(tooLong.length, 'request')} can't fit the KV memory: prompt and max_tokens come to ${count(longest)} tokens, ` +
      `and it holds ${count(room)}`,
    { hint: KV_HINT },
  );
}

const KV_HINT =
  'give more memory (--kv-memory here, --memory at the nodes), more nodes, a smaller --kv, or lower max_tokens or --context';

/** What doesn't fit at all is the flags' fault. */
function explainedCapacity(thrown: unknown): unknown {
  if (!(thrown instanceof CapacityError) || thrown.code !== 'KV_CAPACITY') return thrown;
  return new InputError('KV_MEMORY', `the KV memory is too small for this model: ${thrown.message}`, {
    cause: thrown,
    hint: KV_HINT,
  });
}

export async function openEngine(
  flags: RunFlags,
  screen: Screen,
  opened: Opened,
  model: Model,
  token: string | undefined,
  logger: Logger,
  signal: AbortSignal,
): Promise<{ readonly engine: EngineApi; readonly joining: Joining | null }> {
  const allowSoftware = flags.allowSoftwareGpu ?? false;
  const choice = await chooseDense(flags.dense, allowSoftware);
  requireWasmWeights(flags.weights, choice);
  const kvMemory = flags.kvMemory ?? defaultKvMemory(model, choice.kind);
  const tlsCa = flags.tlsCa === undefined ? undefined : await readCertificates(flags.tlsCa);
  const attention = attentionSources({ places: flags.attention, kvMemory, wire: flags.wire, token, tlsCa, logger });
  const place = listenPlace(flags.attention);
  const joining =
    place === undefined
      ? null
      : opened.add(await Joining.open(flags, place, { token, screen, logger }), (it) => it.close());
  signal.throwIfAborted();
  screen.block(['loading weights']);
  const dense = opened.add(await openDense(choice, model, { weights: flags.weights, allowSoftware, logger }), (it) =>
    it.close(),
  );
  screen.clearBlock();
  signal.throwIfAborted();
  const why = flags.dense === 'auto' && choice.kind === 'wasm' ? ` (${choice.reason})` : '';
  screen.line(`dense      ${dense.info.kind}: ${dense.info.description}${why}`);
  const engine = opened.add(
    await createEngine({
      dense,
      attention,
      kvDtype: flags.kv,
      fingerprint: model.fingerprint,
      ...(model.tokenizer === null ? {} : { tokenizer: model.tokenizer }),
      ...(flags.context === undefined ? {} : { contextTokens: flags.context }),
      microBatchRows: flags.microBatchRows,
      inFlight: flags.inFlight,
      prefillChunk: flags.prefillChunk,
      prefixSharing: flags.prefixSharing,
      policy: flags.policy,
      waitForNodes: flags.waitForNodes ?? false,
      nodesMayJoin: joining !== null,
      logger,
      signal,
    }).catch((thrown: unknown) => {
      throw explainedCapacity(thrown);
    }),
    (it) => it.close(),
  );
  const { nodes, kvCapacityBytes, kvCapacityTokens } = engine.stats();
  const names = nodes.filter(({ connected }) => connected).map(({ name }) => name);
  if (names.length > 0) {
    const room = `room for ${count(kvCapacityTokens)} tokens of ${flags.kv} KV (${bytes(kvCapacityBytes)})`;
    screen.line(
      `attention  ${names.join(', ')}: ${room}${joining === null ? '' : `; nodes may join at ${joining.url}`}`,
    );
  } else if (joining !== null) {
    screen.line(`attention  nodes that join at ${joining.url}`);
  }
  return { engine, joining };
}
