/**
 * Which shard takes a sequence. What is balanced is the KV tokens that rows read at nodes, weighed by each one's measured speed: the
 * slowest node of a micro-batch sets its pace, and a node's time grows with the KV that it reads. A prefix that stands somewhere draws
 * those that begin with it there, as far as the balance allows. Pure and deterministic: same state, same choice.
 */
import { admits } from './policy.ts';

export interface ShardState {
  readonly blocks: number;
  /** Neither held by sequences nor promised to them. */
  readonly freeBlocks: number;
  readonly residents: number;
  /** Tokens that rows read in all shards of its node, whose workers work on all of them; whatever is shared. */
  readonly nodeTokens: number;
  /** Of its node, relative to others; see relativeSpeeds. */
  readonly speed: number;
}

/** What a sequence would be to a shard. */
export interface ShardFit {
  /** Blocks of a shard that has nothing else. */
  readonly wholeBlocks: number;
  /** Free blocks that it takes now, beside those that it shares with residents. */
  readonly newBlocks: number;
  readonly tokens: number;
  /** Of these, tokens that stand there, or are being computed: they need not be computed for it. */
  readonly matchedTokens: number;
  /** Whether the shard could hold it to its end. */
  readonly holdsAll: boolean;
}

/**
 * KV tokens of load that computing a token is worth. To share a prefix of n tokens a sequence goes to a node that has up to
 * n tokens more to read than another: less than one sequence more, where most of it is shared. In one step's time a computed
 * token costs more than that (a row of the dense tier), but it is computed once, and the balance is of every step that follows.
 */
const TOKENS_PER_MATCHED_TOKEN = 1;

/**
 * The index of the shard, or `full` when none has room now, or `never` when none is large enough even when empty. Shards that
 * can hold the sequence to its end come first; among those, the least KV time of the node after the sequence is there, less what it
 * saves; then the most room; then the lowest index.
 * @param fits of each shard
 */
export function choosePlacement(shards: readonly ShardState[], fits: readonly ShardFit[]): number | 'full' | 'never' {
  let best = -1;
  let bestScore = Number.POSITIVE_INFINITY;
  let bestRoom = 0;
  let bestHoldsAll = false;
  let possible = false;
  for (const [i, shard] of shards.entries()) {
    const { wholeBlocks, newBlocks, tokens, matchedTokens, holdsAll } = fits[i] as ShardFit;
    if (wholeBlocks > shard.blocks) continue;
    possible = true;
    if (!admits(shard, newBlocks)) continue;
    const saved = TOKENS_PER_MATCHED_TOKEN * matchedTokens;
    const score = (shard.nodeTokens + tokens - saved) / shard.speed;
    const room = shard.freeBlocks;
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

/** How many of the sequences, placed one after the other, there is room for now; one that has none holds up those behind it. */
export function countPlaceable(shards: readonly ShardState[], sequences: Iterable<readonly ShardFit[]>): number {
  const states = [...shards];
  let count = 0;
  for (const fits of sequences) {
    const choice = choosePlacement(states, fits);
    if (choice === 'full') return count;
    if (choice === 'never') continue;
    const { newBlocks, tokens } = fits[choice] as ShardFit;
    const { freeBlocks, residents, nodeTokens, ...state } = states[choice] as ShardState;
    states[choice] = {
      ...state,
      freeBlocks: freeBlocks - newBlocks,
      residents: residents + 1,
      nodeTokens: nodeTokens + tokens,
    };
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
