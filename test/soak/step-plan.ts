/** What a slot's rows in a step shall be: how many, where, whose q, k and v, and what they look for. */
import type { CacheModel, ModelSlot } from './cache-model.ts';
import type { Phase } from './phase.ts';
import type { Random } from './random.ts';
import type { Query, Token } from './token-rows.ts';

export interface PlannedEntry {
  readonly slot: ModelSlot;
  readonly position: number;
  readonly count: number;
  readonly visit: boolean;
  /** Whose rows they are. [count] */
  readonly rows: readonly Token[];
  readonly query: Query;
  /** How much of the slot's KV was whole before. */
  readonly valid: number;
}

/** Of one entry. */
const MOST_ROWS = 800;
/** Contexts that shall become longer grow by more tokens at once. */
const LONG = 1500;
/** While more is free, all do. */
const ROOM_LEFT = 0.1;

export class StepPlanner {
  readonly #phase: Phase;
  readonly #model: CacheModel;
  readonly #random: Random;
  /** Tokens are numbers below it. */
  readonly #tokens: number;
  /** How long a slot's context shall become, unless what is free is to be used up. */
  readonly #most = new WeakMap<ModelSlot, number>();

  constructor(phase: Phase, model: CacheModel, random: Random, tokens: number) {
    this.#phase = phase;
    this.#model = model;
    this.#random = random;
    this.#tokens = tokens;
  }

  /** Most contexts are short, so that many lie side by side; some are as long as they may be. */
  begin(slot: ModelSlot): void {
    const random = this.#random;
    const kind = random.fraction();
    const { maxContextTokens } = this.#model.geometry;
    this.#most.set(slot, kind < 0.5 ? random.whole(1, 300) : kind < 0.9 ? random.whole(200, 1500) : maxContextTokens);
  }

  /** Null where there is nothing to be done. */
  plan(slot: ModelSlot): PlannedEntry | null {
    const random = this.#random;
    const { maxContextTokens } = this.#model.geometry;
    const { tokens, valid } = slot;
    const whole = tokens.length > 0 && valid === tokens.length;
    const most = Math.max(this.#most.get(slot) ?? 0, slot.lost.length);
    if (whole && (slot.ended || tokens.length >= most || random.chance(0.15))) {
      const position = Math.max(slot.position, tokens.length - 1 + (random.chance(0.3) ? random.whole(0, 150) : 1));
      const count = random.whole(1, 6);
      return position + count > maxContextTokens ? null : this.#entry(slot, position, count, true);
    }
    if (slot.ended) return null;
    const earliest = Math.max(slot.floor, slot.position);
    const position = earliest < valid && random.chance(0.1) ? random.whole(earliest, valid) : valid;
    if (position < earliest) return null;
    const count = Math.min(this.#length(slot, position, most), maxContextTokens - position);
    return count < 1 ? null : this.#entry(slot, position, count, false);
  }

  /** Rows that take all blocks that are left in the slot's shard, or as many as a context can use; null where it can't have any. */
  planToTheBrim(slot: ModelSlot): PlannedEntry | null {
    const { blockTokens, groups, geometry } = this.#model;
    const { tokens, valid } = slot;
    if (slot.ended || slot.isBusy || valid !== tokens.length || valid < slot.position) return null;
    const blocks = Math.floor(this.#model.free(slot.shard) / groups);
    const end = Math.min((Math.ceil(valid / blockTokens) + blocks) * blockTokens, geometry.maxContextTokens);
    const count = Math.min(end - valid, MOST_ROWS);
    return count < 1 ? null : this.#entry(slot, valid, count, false);
  }

  #length(slot: ModelSlot, position: number, most: number): number {
    const random = this.#random;
    const { lost, shard } = slot;
    if (lost.length > slot.valid) return random.whole(1, lost.length - slot.valid);
    if (most > LONG && random.chance(0.3)) return random.whole(200, 800);
    const kind = random.fraction();
    const { blockTokens } = this.#model;
    const room = ROOM_LEFT * (this.#model.shardBlocks[shard] ?? 0);
    const isWide = this.#phase.fill === 'full' && this.#model.free(shard) > room;
    if (kind < (isWide ? 0.3 : 0.6)) return 1;
    if (kind < 0.7) return blockTokens * random.whole(1, 5) - (position % blockTokens); // up to the end of a block
    if (kind < 0.9) return random.whole(2, 40);
    return random.whole(30, isWide ? 400 : 130);
  }

  #entry(slot: ModelSlot, position: number, count: number, visit: boolean): PlannedEntry {
    const random = this.#random;
    const rows = Array.from({ length: count }, (_, i) => {
      const before = visit ? undefined : slot.lost[position + i];
      return before ?? random.whole(0, this.#tokens - 1);
    });
    const scale = random.chance(0.1) ? 4 : 1;
    const aim = random.chance(0.4) ? this.#target(slot, position, rows, visit) : undefined;
    return { slot, position, count, visit, rows, query: { scale, aim }, valid: slot.valid };
  }

  /** A token that the rows see: any, or one of the latest, which windows have too. */
  #target(slot: ModelSlot, position: number, rows: readonly Token[], visit: boolean): Token | undefined {
    const random = this.#random;
    const last = visit ? slot.tokens.length - 1 : position;
    const at = random.whole(random.chance(0.5) ? Math.max(0, last - 400) : 0, last);
    return at < position || visit ? slot.tokens[at] : rows[at - position];
  }
}
