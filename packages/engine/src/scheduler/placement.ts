/**
 * Which shard takes a sequence. What is balanced is KV tokens, weighed by each node's measured speed: the slowest node of a
 * micro-batch sets its pace, and a node's time grows with the KV that it reads. Pure and deterministic: same state, same choice.
 */
import { admits } from './policy.ts';

export interface ShardState {
  readonly blockTokens: number;
  readonly blocks: number;
  readonly freeBlocks: number;
  readonly residents: number;
  /** KV tokens per millisecond relative to other shards; see NodeSpeed. */
  readonly speed: number;
}

export interface PlacementNeed {
  /** Tokens whose KV it needs now. */
  readonly tokens: number;
  /** Tokens that it may come to. */
  readonly mostTokens: number;
}

/**
 * The index of the shard, or `full` when none has room now, or `never` when none is large enough even when empty. Shards that
 * can hold the sequence to its end come first; among those, the least KV time after the sequence is there; then the lowest index.
 */
export function choosePlacement(shards: readonly ShardState[], need: PlacementNeed): number | 'full' | 'never' {
  let best = -1;
  let bestScore = Number.POSITIVE_INFINITY;
  let bestHoldsAll = false;
  let possible = false;
  for (const [i, shard] of shards.entries()) {
    const needed = Math.ceil(need.tokens / shard.blockTokens);
    if (needed > shard.blocks) continue;
    possible = true;
    if (!admits(shard, needed)) continue;
    const holdsAll = need.mostTokens <= shard.blocks * shard.blockTokens;
    const held = (shard.blocks - shard.freeBlocks) * shard.blockTokens;
    const score = (held + need.tokens) / shard.speed;
    if (bestHoldsAll && !holdsAll) continue;
    if (best < 0 || score < bestScore || (holdsAll && !bestHoldsAll)) {
      best = i;
      bestScore = score;
      bestHoldsAll = holdsAll;
    }
  }
  if (best >= 0) return best;
  return possible ? 'full' : 'never';
}

/** Samples before a measured speed replaces the assumption that all shards are alike. */
const SPEED_WARMUP = 16;
/** A speed never counts as further than this from the middle, so that one bad measurement can't empty or flood a node. */
const SPEED_RANGE = 4;

/** KV tokens that a node reads per millisecond, as a running mean of samples taken while it had nothing else to do. */
export class NodeSpeed {
  #work = 0;
  #ms = 0;
  #samples = 0;

  /** @param kvTokens Σ over rows of the tokens that each attends to */
  add(kvTokens: number, ms: number): void {
    this.#work = this.#work * 0.98 + kvTokens;
    this.#ms = this.#ms * 0.98 + Math.max(ms, 1e-3);
    this.#samples++;
  }

  /** KV tokens per millisecond, or null as long as too little was seen. */
  get(): number | null {
    return this.#samples < SPEED_WARMUP ? null : this.#work / this.#ms;
  }
}

/** Relative speed of each shard, from its node's measurement and number of shards; 1 for all until every node was measured. */
export function shardSpeeds(nodes: readonly { readonly speed: number | null; readonly shards: number }[]): number[] {
  const perShard = nodes.map(({ speed, shards }) => (speed === null ? null : speed / shards));
  const known = perShard.filter((speed) => speed !== null).sort((a, b) => a - b);
  if (known.length < nodes.length) return nodes.map(() => 1);
  const middle = known[Math.floor(known.length / 2)] ?? 1;
  return perShard.map((speed) => {
    const relative = (speed ?? middle) / middle;
    return Math.max(1 / SPEED_RANGE, Math.min(SPEED_RANGE, relative));
  });
}
