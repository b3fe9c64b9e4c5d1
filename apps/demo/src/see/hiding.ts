/**
 * Where latency is hidden. While at least one micro-batch is away at the attention tier, the dense tier either works on another
 * one (the time away is hidden) or stands idle (it is exposed). Time with nothing away is neither.
 */
import type { IntervalUnion } from './interval-union.ts';

export interface Hiding {
  readonly hiddenMs: number;
  readonly exposedMs: number;
}

/** @param visit told of each piece in order of time */
export function hidingOver(
  busy: IntervalUnion,
  away: IntervalUnion,
  from: number,
  to: number,
  visit?: (start: number, end: number, hidden: boolean) => void,
): Hiding {
  let hiddenMs = 0;
  let exposedMs = 0;
  let b = busy.firstEndingAfter(from);
  for (let a = away.firstEndingAfter(from); a < away.starts.length; a++) {
    const end = Math.min(to, away.ends[a] ?? to);
    let at = Math.max(from, away.starts[a] ?? to);
    if (at >= to) break;
    while (at < end) {
      while (b < busy.ends.length && (busy.ends[b] ?? 0) <= at) b++;
      const busyStart = busy.starts[b] ?? Number.POSITIVE_INFINITY;
      const hidden = busyStart <= at;
      const next = Math.min(end, hidden ? (busy.ends[b] ?? end) : busyStart);
      if (hidden) hiddenMs += next - at;
      else exposedMs += next - at;
      visit?.(at, next, hidden);
      at = next;
    }
  }
  return { hiddenMs, exposedMs };
}
