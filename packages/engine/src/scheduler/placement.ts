/**
 * Which shard takes a sequence. What is balanced is KV tokens, weighed by each node's measured speed: the slowest node of a
 * micro-batch sets its pace, and a node's time grows with the KV that it reads. Pure and deterministic: same state, same choice.
 */
import { admits } from './policy.ts';

export interface ShardState {
  readonly blockTokens: number;
  /** Layer groups: so many blocks hold `blockTokens` tokens. */
  readonly groups: number;
  readonly blocks: number;
  readonly freeBlocks: number;
  readonly residents: number;
  /** KV tokens in all shards of its node, whose workers work on all of them. */
  readonly nodeTokens: number;
  /** Of its node, relative to others; see relativeSpeeds. */
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
 * can hold the sequence to its end come first; among those, the least KV time of the node after the sequence is there; then the most
 * room; then the lowest index.
 */
export function choosePlacement(shards: readonly ShardState[], need: PlacementNeed): number | 'full' | 'never' {
  let best = -1;
  let bestScore = Number.POSITIVE_INFINITY;
  let bestRoom = 0;
  let bestHoldsAll = false;
  let possible = false;
  for (const [i, shard] of shards.entries()) {
    const needed = blocksFor(shard, need.tokens);
    if (needed > shard.blocks) continue;
    possible = true;
    if (!admits(shard, needed)) continue;
    const holdsAll = blocksFor(shard, need.mostTokens) <= shard.blocks;
    const score = (shard.nodeTokens + need.tokens) / shard.speed;
    const room = (shard.freeBlocks * shard.blockTokens) / shard.groups;
    if (bestHoldsAll && !holdsAll) continue;
    const isBetter = score < bestScore || (score === bestScore && room > bestRoom);
    if (best < 0 || isBetter || (holdsAll && !bestHoldsAll)) {
      best = i;
      bestScore = score;
      bestRoom = room;
      bestHoldsAll = holdsAll;
    }
  }
  if (best >= 0) return best;
  return possible ? 'full' : 'never';
}

function blocksFor({ blockTokens, groups }: ShardState, tokens: number): number {
  return groups * Math.ceil(tokens / blockTokens);
}

/** How many of the sequences, placed one after the other, there is room for now; one that has none holds up those behind it. */
export function countPlaceable(shards: readonly ShardState[], needs: Iterable<PlacementNeed>): number {
  const states = [...shards];
  let count = 0;
  for (const need of needs) {
    const choice = choosePlacement(states, need);
    if (choice === 'full') return count;
    if (choice === 'never') continue;
    const state = states[choice] as ShardState;
    const freeBlocks = state.freeBlocks - blocksFor(state, need.tokens);
    states[choice] = { ...state, freeBlocks, residents: state.residents + 1 };
    count++;
  }
  return count;
}

/** Kernel time that must have been seen before a measured speed replaces the assumption that all nodes are alike. */
const SPEED_WARMUP_MS = 20;
/** Kernel time after which a measurement has lost half of its weight. */
const SPEED_HALF_LIFE_MS = 2000;
/** A speed never counts as further than this from the middle, so that one bad measurement can't empty or flood a node. */
const SPEED_RANGE = 4;

/** KV tokens that a node reads per millisecond of kernel time, forgetting what is long past. */
export class NodeSpeed {
  #kvTokens = 0;
  #busyMs = 0;

  /**
   * @param kvTokens Σ over rows of the tokens that each attends to
   * @param busyMs kernel time that this took, spread over its workers
   */
  add(kvTokens: number, busyMs: number): void {
    if (!(busyMs > 0)) return;
    const kept = 0.5 ** (busyMs / SPEED_HALF_LIFE_MS);
    this.#kvTokens = this.#kvTokens * kept + kvTokens;
    this.#busyMs = this.#busyMs * kept + busyMs;
  }

  /** Null as long as too little was seen. */
  get(): number | null {
    return this.#busyMs < SPEED_WARMUP_MS ? null : this.#kvTokens / this.#busyMs;
  }
}

/** Speeds relative to the middle one; 1 for all until every one was measured. */
export function relativeSpeeds(speeds: readonly (number | null)[]): number[] {
  const known = speeds.filter((speed) => speed !== null && speed > 0).sort((a, b) => (a ?? 0) - (b ?? 0));
  const middle = known[Math.floor(known.length / 2)] ?? 1;
  if (middle === null || known.length < speeds.length) return speeds.map(() => 1);
  return speeds.map((speed) => Math.max(1 / SPEED_RANGE, Math.min(SPEED_RANGE, (speed ?? middle) / middle)));
}
