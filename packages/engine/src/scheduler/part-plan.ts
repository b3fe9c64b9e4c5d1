/**
 * Which shards hold the parts of a context that no shard holds alone. Pure. As few parts as there can be, since each costs every row
 * a visit: the shards with the most room come first, where a faster node's room counts for more. A part that another follows ends at
 * a block boundary, so that no block is wasted.
 */

/** Parts that a context may have: each is a slot, and rows of every step. */
export const MOST_PARTS = 64;
/** What one shard could hold is spread over several only in parts of so many tokens and more: */
const LEAST_PART_TOKENS = 512;
/** and in so few. */
const MOST_EAGER_PARTS = 4;

/** Room for one part. */
export interface PartRoom<S> {
  readonly shard: S;
  /** Whole blocks; tokens of a new slot. */
  readonly tokens: number;
  readonly speed: number;
}

export interface PlannedPart<S> {
  readonly shard: S;
  readonly tokens: number;
}

/** In the order of the context; null where there isn't room for all of it. */
export function planParts<S>(
  rooms: readonly PartRoom<S>[],
  tokens: number,
  most = MOST_PARTS,
): PlannedPart<S>[] | null {
  const parts: PlannedPart<S>[] = [];
  let left = tokens;
  for (const { shard, tokens: room } of byRoom(rooms).slice(0, most)) {
    if (left <= 0) break;
    parts.push({ shard, tokens: Math.min(left, room) });
    left -= room;
  }
  return left <= 0 ? parts : null;
}

/** As planParts, for what could wait for one shard to hold all of it: only where the parts are large and few. */
export function planLargeParts<S>(rooms: readonly PartRoom<S>[], tokens: number): PlannedPart<S>[] | null {
  const least = Math.max(LEAST_PART_TOKENS, Math.ceil(tokens / MOST_EAGER_PARTS));
  return planParts(
    rooms.filter((room) => room.tokens >= least),
    tokens,
    MOST_EAGER_PARTS,
  );
}

/** Where a context that has to grow gets its next part; null where there is room nowhere. */
export function roomiest<S>(rooms: readonly PartRoom<S>[]): PartRoom<S> | null {
  return byRoom(rooms)[0] ?? null;
}

/** Tokens that a context can have: the room of as many shards as it may have parts. */
export function mostContextTokens(rooms: readonly number[]): number {
  const largest = rooms.toSorted((a, b) => b - a).slice(0, MOST_PARTS);
  return largest.reduce((sum, tokens) => sum + tokens, 0);
}

/** Only those with room; the first of equals stays first. */
function byRoom<S>(rooms: readonly PartRoom<S>[]): PartRoom<S>[] {
  return rooms.filter(({ tokens }) => tokens > 0).sort((a, b) => b.tokens * b.speed - a.tokens * a.speed);
}
