/**
 * The union of time intervals that arrive about in order of their ends, kept as disjoint pieces. Adding costs what it merges;
 * what is older than `keepMs` is forgotten.
 */
export class IntervalUnion {
  readonly starts: number[] = [];
  readonly ends: number[] = [];

  add(start: number, end: number): void {
    if (!(end > start)) return;
    let at = this.ends.length;
    while (at > 0 && (this.ends[at - 1] ?? 0) >= start) at--;
    // Pieces from `at` end at or after `start`; those of them that begin after `end` stay behind the new one.
    let to = at;
    let from = start;
    let until = end;
    while (to < this.starts.length && (this.starts[to] ?? 0) <= end) {
      from = Math.min(from, this.starts[to] ?? from);
      until = Math.max(until, this.ends[to] ?? until);
      to++;
    }
    this.starts.splice(at, to - at, from);
    this.ends.splice(at, to - at, until);
  }

  /** Forgets pieces that ended before `atMs`. */
  forgetBefore(atMs: number): void {
    const at = this.firstEndingAfter(atMs);
    if (at > 0) {
      this.starts.splice(0, at);
      this.ends.splice(0, at);
    }
  }

  clear(): void {
    this.starts.length = 0;
    this.ends.length = 0;
  }

  /** Index of the first piece that ends after `atMs`. */
  firstEndingAfter(atMs: number): number {
    let low = 0;
    let high = this.ends.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.ends[middle] ?? 0) > atMs) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** How much of [from, to] is covered. */
  coveredMs(from: number, to: number): number {
    let covered = 0;
    for (let i = this.firstEndingAfter(from); i < this.starts.length; i++) {
      const start = Math.max(from, this.starts[i] ?? to);
      if (start >= to) break;
      covered += Math.min(to, this.ends[i] ?? start) - start;
    }
    return covered;
  }
}
