/** Opens both tiers and the engine of a run, says what they are, and holds the requests' lengths to what the KV memory has room for. */
import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { InputSummary, RequestModel } from '@glinthawk/batch';
import type { JobOutlook } from '@glinthawk/batch/node';
import { CapacityError, InputError, type Logger, toError } from '@glinthawk/core';
import { createEngine, type EngineApi } from '@glinthawk/engine';
import type { Model } from '@glinthawk/model';
import { bytes, count, plural } from '../format.ts';
import type { Opened } from '../opened.ts';
import type { Screen } from '../screen.ts';
import { attentionSources, chooseDense, defaultKvMemory, openDense, requireWasmWeights } from '../tiers.ts';
import type { RunFlags } from './run-flags.ts';

/**
 * What can't have the length here that it asks for isn't begun; a chat that asks for none ends where the KV memory does, which is
 * said. @throws InputError
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
          `${count(room)} tokens, which is what one attention worker's KV memory holds of the context of ${count(contextTokens)}`,
      );
    }
    return;
  }
  const longest = tooLong.reduce((most, tokens) => Math.max(most, tokens), 0);
  throw new InputError(
    'KV_MEMORY',
    `${plural(tooLong.length, 'request')} can't fit the KV memory: prompt and max_tokens come to ${count(longest)} tokens, ` +
      `and one attention worker holds ${count(room)}`,
    { hint: KV_HINT },
  );
}

const KV_HINT =
  'give more memory (--kv-memory here, --memory at the nodes), fewer workers (--attention local:1), a smaller --kv, or lower max_tokens or --context';

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
): Promise<EngineApi> {
  const allowSoftware = flags.allowSoftwareGpu ?? false;
  const choice = await chooseDense(flags.dense, allowSoftware);
  requireWasmWeights(flags.weights, choice);
  const kvMemory = flags.kvMemory ?? defaultKvMemory(model, choice.kind);
  const tlsCa = flags.tlsCa === undefined ? undefined : await readCertificates(flags.tlsCa);
  const attention = attentionSources({ places: flags.attention, kvMemory, wire: flags.wire, token, tlsCa, logger });
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
      policy: flags.policy,
      waitForNodes: flags.waitForNodes ?? false,
      logger,
      signal,
    }).catch((thrown: unknown) => {
      throw explainedCapacity(thrown);
    }),
    (it) => it.close(),
  );
  const { nodes, kvCapacityBytes, kvCapacityTokens } = engine.stats();
  const names = nodes.map(({ name }) => name).join(', ');
  screen.line(
    `attention  ${names}: room for ${count(kvCapacityTokens)} tokens of ${flags.kv} KV (${bytes(kvCapacityBytes)})`,
  );
  const isLocal = flags.attention.length === 1 && flags.attention[0]?.type === 'local';
  if (flags.kvMemory !== undefined && isLocal && kvCapacityBytes < 0.9 * flags.kvMemory) {
    logger.warn(
      `of the ${bytes(flags.kvMemory)} asked for, KV takes ${bytes(kvCapacityBytes)}: a worker's memory ends at 4 GiB, more workers take more`,
    );
  }
  return engine;
}

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g;

async function readCertificates(path: string): Promise<Buffer> {
  let pem: Buffer;
  try {
    pem = await readFile(path);
  } catch (cause) {
    throw new InputError('TLS_FILES', `the certificates can't be read: ${toError(cause).message}`, { cause });
  }
  // Node silently trusts nobody when it finds none in the file.
  const blocks = pem.toString('latin1').match(CERTIFICATE) ?? [];
  try {
    for (const block of blocks) new X509Certificate(block);
  } catch (cause) {
    throw new InputError('TLS_FILES', `${path} holds a damaged certificate: ${toError(cause).message}`, { cause });
  }
  if (blocks.length === 0) throw new InputError('TLS_FILES', `${path} holds no certificate in PEM`);
  return pem;
}
