/** An attention node in words: the cache of a session as it begins, a line every few seconds while it lasts, and one at the end. */
import { type AttentionBackend, type AttentionNodeStats, kvTokenBytes, layerGroups } from '@glinthawk/attention';
import { bytes, count, gigabytesPerSecond, percent, plural } from './format.ts';

/** Where bytes per token are told: shorter contexts pay more for their last block, longer ones less. */
const USUAL_CONTEXT = 1024;

/** What a session's cache has room for, and what a token takes of it. */
export function describeCache({
  geometry,
  kvDtype,
  capacity,
}: Pick<AttentionBackend, 'geometry' | 'kvDtype' | 'capacity'>): string {
  const { workers, shards, blockBytes, blockTokens } = capacity;
  const blocks = shards.reduce((sum, shard) => sum + shard.blocks, 0);
  const tokens = (blocks * blockTokens) / layerGroups(geometry).length;
  const context = Math.min(USUAL_CONTEXT, geometry.maxContextTokens);
  const { theoretical, real } = kvTokenBytes(geometry, kvDtype, context, blockTokens);
  const memories = shards.length === 1 ? '1 memory' : `${count(shards.length)} memories`;
  return (
    `KV of a new session: room for ${count(tokens)} tokens of ${kvDtype} (${bytes(blocks * blockBytes)}) in ${memories}, ${plural(workers, 'worker')}; ` +
    `${count(theoretical)} bytes a token, ${count(real)} with block tables and padding at ${count(context)} tokens ` +
    `(${overhead(real, theoretical)})`
  );
}

/** `+1.6 %` */
export function overhead(real: number, theoretical: number): string {
  return `+${(100 * (real / theoretical - 1)).toFixed(1)} %`;
}

/** @param before `seconds` earlier */
export function describeSession(now: AttentionNodeStats, before: AttentionNodeStats, seconds: number): string {
  const { blocks, usedBlocks, openSlots, pendingAttends, workers } = now;
  const grown = (read: (stats: AttentionNodeStats) => number) => Math.max(0, read(now) - read(before));
  const rate = (read: (stats: AttentionNodeStats) => number) => `${bytes(grown(read) / seconds)}/s`;
  const busy = grown(({ busyMs }) => busyMs) / 1000 / seconds / Math.max(1, workers);
  return [
    `session ${now.session}: ${count(usedBlocks)} of ${count(blocks)} KV blocks (${percent(usedBlocks / Math.max(1, blocks))})`,
    plural(openSlots, 'slot'),
    `workers busy ${percent(busy)}`,
    `KV read at ${gigabytesPerSecond(grown(({ kvBytesRead }) => kvBytesRead) / seconds)}`,
    `${count(pendingAttends)} in the queue`,
    ...describeTokens(
      grown(({ appendedTokens }) => appendedTokens),
      grown(({ forkedTokens }) => forkedTokens),
    ),
    `${rate(({ bytesReceived }) => bytesReceived)} in`,
    `${rate(({ bytesSent }) => bytesSent)} out`,
    `${bytes(now.allocatedBytes)} held`,
  ].join(', ');
}

/** What the node did in all. */
export function describeService(stats: AttentionNodeStats): string {
  const { sessionsServed, bytesReceived, bytesSent, kvBytesRead, busyMs, appendedTokens, forkedTokens } = stats;
  return [
    `served ${plural(sessionsServed, 'session')}`,
    `${bytes(bytesReceived)} in`,
    `${bytes(bytesSent)} out`,
    ...describeTokens(appendedTokens, forkedTokens),
    ...(kvBytesRead === 0 ? [] : [`${bytes(kvBytesRead)} of KV read`, `${(busyMs / 1000).toFixed(1)} s of work`]),
  ].join(', ');
}

/** How many there were, and which part of them another sequence had already. */
function describeTokens(appended: number, forked: number): string[] {
  const all = appended + forked;
  if (all === 0) return [];
  const shared = forked === 0 ? '' : ` (${percent(forked / all)} of them shared)`;
  return [`${plural(all, 'token')}${shared}`];
}
