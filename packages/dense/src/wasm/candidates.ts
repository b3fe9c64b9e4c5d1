/**
 * The head's reductions over logits: the best few and the sums behind log-sum-exp. A worker feeds its panels of the
 * vocabulary in ascending order; the results of all workers are merged by the caller's thread. Panels don't depend on the
 * number of workers, so neither does any bit of the result. NaN logits are never candidates and make the sums NaN.
 */
import type { HeadRow } from '../backend.ts';
import { exponential } from './exponential.ts';

/** The best `limit` of the logits offered so far; of equal ones the lower ids, as ids are offered in ascending order. */
export class Candidates {
  readonly limit: number;
  #size = 0;
  // A binary heap with the worst kept candidate at the root.
  readonly #ids: Uint32Array;
  readonly #logits: Float32Array;

  constructor(limit: number) {
    this.limit = limit;
    this.#ids = new Uint32Array(limit);
    this.#logits = new Float32Array(limit);
  }

  clear(): void {
    this.#size = 0;
  }

  /** Logits of ids firstId, firstId + 1, …, all above those offered before. */
  offer(logits: Float32Array, at: number, count: number, firstId: number): void {
    let i = 0;
    for (; i < count && this.#size < this.limit; i++) {
      const logit = logits[at + i] as number;
      if (!Number.isNaN(logit)) this.#add(logit, firstId + i);
    }
    let worst = this.#logits[0] as number;
    for (; i < count; i++) {
      const logit = logits[at + i] as number;
      if (logit > worst) {
        this.#sink(0, logit, firstId + i);
        worst = this.#logits[0] as number;
      }
    }
  }

  /** Writes them best first and returns how many. */
  write(ids: Uint32Array, logits: Float32Array, at: number): number {
    const count = this.#size;
    for (let to = at + count - 1; to >= at; to--) {
      ids[to] = this.#ids[0] as number;
      logits[to] = this.#logits[0] as number;
      const last = --this.#size;
      if (last > 0) this.#sink(0, this.#logits[last] as number, this.#ids[last] as number);
    }
    return count;
  }

  #add(logit: number, id: number): void {
    let at = this.#size++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!worse(logit, id, this.#logits[parent] as number, this.#ids[parent] as number)) break;
      this.#set(at, this.#logits[parent] as number, this.#ids[parent] as number);
      at = parent;
    }
    this.#set(at, logit, id);
  }

  /** Puts a candidate where `at` was, below whatever is worse. */
  #sink(at: number, logit: number, id: number): void {
    for (;;) {
      let child = 2 * at + 1;
      if (child >= this.#size) break;
      const right = child + 1;
      if (right < this.#size && this.#worseAt(right, child)) child = right;
      const childLogit = this.#logits[child] as number;
      const childId = this.#ids[child] as number;
      if (!worse(childLogit, childId, logit, id)) break;
      this.#set(at, childLogit, childId);
      at = child;
    }
    this.#set(at, logit, id);
  }

  #worseAt(a: number, b: number): boolean {
    return worse(this.#logits[a] as number, this.#ids[a] as number, this.#logits[b] as number, this.#ids[b] as number);
  }

  #set(at: number, logit: number, id: number): void {
    this.#logits[at] = logit;
    this.#ids[at] = id;
  }
}

function worse(logitA: number, idA: number, logitB: number, idB: number): boolean {
  return logitA < logitB || (logitA === logitB && idA > idB);
}

/** Numbers that `panelSums` leaves for each panel: the largest logit, Σ exp(logit − max), Σ exp((logit − max) · inverseTemperature). */
export const PANEL_SUMS = 3;

export function panelSums(
  logits: Float32Array,
  at: number,
  count: number,
  inverseTemperature: number,
  sums: Float64Array,
  sumsAt: number,
): void {
  let max = -Infinity;
  for (let i = 0; i < count; i++) max = Math.max(max, logits[at + i] as number); // NaN sticks
  let sum = 0;
  let scaledSum = 0;
  if (max !== -Infinity) {
    for (let i = 0; i < count; i++) sum += exponential((logits[at + i] as number) - max);
    if (inverseTemperature === 1) scaledSum = sum;
    else {
      for (let i = 0; i < count; i++) {
        scaledSum += exponential(((logits[at + i] as number) - max) * inverseTemperature);
      }
    }
  }
  sums[sumsAt] = max;
  sums[sumsAt + 1] = sum;
  sums[sumsAt + 2] = scaledSum;
}

/** ln Σ exp(logit · inverseTemperature) from the sums of all panels, in panel order. */
export function logSumExp(
  sums: Float64Array,
  at: number,
  panels: number,
  inverseTemperature: number,
  which: 'plain' | 'scaled',
): number {
  let max = -Infinity;
  for (let panel = 0; panel < panels; panel++) {
    const panelMax = sums[at + panel * PANEL_SUMS] as number;
    if (Number.isNaN(panelMax)) return Number.NaN;
    max = Math.max(max, panelMax);
  }
  if (max === -Infinity) return -Infinity;
  const factor = which === 'plain' ? 1 : inverseTemperature;
  let total = 0;
  for (let panel = 0; panel < panels; panel++) {
    const panelAt = at + panel * PANEL_SUMS;
    const panelMax = sums[panelAt] as number;
    if (panelMax === -Infinity) continue;
    total += (sums[panelAt + (which === 'plain' ? 1 : 2)] as number) * Math.exp((panelMax - max) * factor);
  }
  return max * factor + Math.log(total);
}

/**
 * The best `limit` of several lists that each descend.
 * @param counts how many candidates list i has; it begins at `at + i · stride` of ids and logits
 */
export function mergeCandidates(
  ids: Uint32Array,
  logits: Float32Array,
  at: number,
  stride: number,
  counts: Uint32Array,
  limit: number,
): Pick<HeadRow, 'ids' | 'logits'> {
  const total = counts.reduce((sum, count) => sum + count, 0);
  const length = Math.min(limit, total);
  const merged = { ids: new Uint32Array(length), logits: new Float32Array(length) };
  const next = new Uint32Array(counts.length);
  for (let to = 0; to < length; to++) {
    let best = -1;
    let bestAt = 0;
    for (let list = 0; list < counts.length; list++) {
      if ((next[list] as number) >= (counts[list] as number)) continue;
      const listAt = at + list * stride + (next[list] as number);
      const better =
        best < 0 ||
        worse(logits[bestAt] as number, ids[bestAt] as number, logits[listAt] as number, ids[listAt] as number);
      if (better) {
        best = list;
        bestAt = listAt;
      }
    }
    merged.ids[to] = ids[bestAt] as number;
    merged.logits[to] = logits[bestAt] as number;
    next[best] = (next[best] as number) + 1;
  }
  return merged;
}
