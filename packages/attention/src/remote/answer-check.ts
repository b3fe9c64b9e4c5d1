/**
 * Whether what a node answers can be true, step by step: o within what its slots were sent, log-sum-exps that are numbers. A slot
 * whose keys or values may have overflowed there is excused for as long as it lives, and so are its forks; a visit whose queries may
 * have, for that one time. What is wrong ends the connection; what looks right can't be told from it (magnitude.ts).
 */
import { type AttentionGeometry, type KvDtype, outputRowFloats, ProtocolError, qkvRowFloats } from '@glinthawk/core';
import type { WireDtype } from '@glinthawk/wire';
import type { AttentionStep, Slot } from '../backend.ts';
import { areSums, isWithin, mostAnswered, mostSent } from './magnitude.ts';

const nobody: ReadonlySet<number> = new Set();

export class AnswerCheck {
  readonly #name: string;
  readonly #geometry: AttentionGeometry;
  readonly #mostSent: number;
  readonly #mostAnswered: number;
  /** Generation of each open slot whose KV may have overflowed, by index. */
  readonly #overflowed = new Map<number, number>();

  constructor(name: string, geometry: AttentionGeometry, kvDtype: KvDtype, wireDtype: WireDtype) {
    this.#name = name;
    this.#geometry = geometry;
    this.#mostSent = mostSent(kvDtype, wireDtype);
    this.#mostAnswered = mostAnswered(kvDtype, wireDtype);
  }

  fork(slot: Slot, parent: Slot): void {
    if (this.#isExcused(parent)) this.#overflowed.set(slot.index, slot.generation);
  }

  free(slot: Slot): void {
    if (this.#isExcused(slot)) this.#overflowed.delete(slot.index);
  }

  clear(): void {
    this.#overflowed.clear();
  }

  /**
   * Notes what may overflow at the node.
   * @param qkv [rows, (groupSize + 2) kvHeads headDim]
   * @returns the places of the entries that `answered` shall excuse
   */
  sent({ entries }: AttentionStep, qkv: Float32Array): ReadonlySet<number> {
    const isFine = isWithin(qkv, this.#mostSent);
    if (isFine && this.#overflowed.size === 0) return nobody;
    const excused = new Set<number>();
    const rowFloats = qkvRowFloats(this.#geometry);
    let at = 0;
    for (const [i, { slot, count, visit = false }] of entries.entries()) {
      const from = at;
      at += count * rowFloats;
      const overflows = !isFine && !isWithin(qkv.subarray(from, at), this.#mostSent);
      if (overflows && !visit) this.#overflowed.set(slot.index, slot.generation);
      if (overflows || this.#isExcused(slot)) excused.add(i);
    }
    return excused;
  }

  /**
   * @param output [rows, groupSize kvHeads headDim]
   * @param logSumExp [rows, groupSize kvHeads]
   * @throws ProtocolError for what can't be a mean of the values that the node was sent
   */
  answered(
    { entries }: AttentionStep,
    output: Float32Array,
    logSumExp: Float32Array | undefined,
    excused: ReadonlySet<number>,
  ): void {
    if (isWithin(output, this.#mostAnswered) && (logSumExp === undefined || areSums(logSumExp))) return;
    const { groupSize, kvHeads } = this.#geometry;
    const rowFloats = outputRowFloats(this.#geometry);
    const rowHeads = groupSize * kvHeads;
    let row = 0;
    for (const [i, { count }] of entries.entries()) {
      const end = row + count;
      const isRight =
        isWithin(output.subarray(row * rowFloats, end * rowFloats), this.#mostAnswered) &&
        (logSumExp === undefined || areSums(logSumExp.subarray(row * rowHeads, end * rowHeads)));
      row = end;
      if (isRight || excused.has(i)) continue;
      throw new ProtocolError('NOT_FINITE', `${this.#name} sent values that are not finite numbers, or far too large`, {
        hint: 'the node is broken or does not mean well; end it',
      });
    }
  }

  #isExcused({ index, generation }: Slot): boolean {
    return this.#overflowed.get(index) === generation;
  }
}
