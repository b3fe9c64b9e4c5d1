/**
 * golden.json beside a model: greedy continuations made by a separate float64 implementation. Read here into one shape,
 * whichever of the models it came from, and compared the way its numbers allow.
 */
import type { HeadRow } from '@glinthawk/dense';
import { expect } from 'vitest';

export interface GoldenCase {
  /** Text, chat or empty (token ids only). */
  readonly prompt: string;
  readonly kind: 'text' | 'chat' | 'ids';
  readonly promptIds: readonly number[];
  readonly greedyIds: readonly number[];
  /** Null where the model has no tokenizer. */
  readonly text: string | null;
  /** `stop` when the last id is an end-of-text token. */
  readonly finishReason: 'stop' | 'length';
  /** The smallest distance between the two highest logits on the way. */
  readonly minTop2Gap: number;
  /** The eight highest of the first generated step, by id. */
  readonly firstTop: ReadonlyMap<number, number>;
  readonly firstTopIs: 'logits' | 'logprobs';
}

interface RawCase {
  readonly kind?: 'chat' | 'completion' | 'text' | 'long';
  readonly prompt?: string | null;
  readonly prompt_ids: readonly number[];
  readonly greedy_ids: readonly number[];
  readonly text?: string;
  readonly stopped?: 'length' | 'stop' | 'eos';
  readonly finish_reason?: 'length' | 'stop';
  readonly min_top2_gap: number;
  readonly first_step_top8?: Readonly<Record<string, number>>;
  readonly first_step_top8_logprobs?: Readonly<Record<string, number>>;
}

/** @param json the text of a golden.json */
export function parseGolden(json: string): readonly GoldenCase[] {
  const { cases } = JSON.parse(json) as { cases: readonly RawCase[] };
  return cases.map((raw) => {
    const top = raw.first_step_top8_logprobs ?? raw.first_step_top8 ?? {};
    return {
      prompt: raw.prompt ?? '',
      kind: raw.prompt == null ? 'ids' : raw.kind === 'chat' ? 'chat' : 'text',
      promptIds: raw.prompt_ids,
      greedyIds: raw.greedy_ids,
      text: raw.text ?? null,
      finishReason: (raw.finish_reason ?? raw.stopped ?? 'length') === 'length' ? 'length' : 'stop',
      minTop2Gap: raw.min_top2_gap,
      firstTop: new Map(Object.entries(top).map(([id, value]) => [Number(id), value])),
      firstTopIs: raw.first_step_top8_logprobs === undefined ? 'logits' : 'logprobs',
    };
  });
}

/** Holds a first step's head to the golden's eight highest, ids exactly and in order, values within `tolerance`. */
export function expectFirstTop(head: HeadRow, golden: GoldenCase, tolerance: number): void {
  const got = Array.from(head.ids.subarray(0, golden.firstTop.size));
  const byValue = [...golden.firstTop].sort(([, a], [, b]) => b - a);
  for (const [rank, [id, value]] of byValue.entries()) {
    const at = head.ids.indexOf(id);
    expect(at, `id ${id} among the candidates ${got}`).toBeGreaterThanOrEqual(0);
    const raw = head.logits[at] as number;
    const ours = golden.firstTopIs === 'logits' ? raw : raw - head.logSumExp;
    expect(Math.abs(ours - value), `id ${id}: ${ours}, golden ${value}`).toBeLessThanOrEqual(tolerance);
    // Order may only differ where two values are closer than the tolerance.
    if (at !== rank) {
      const neighbour = byValue[at]?.[1] ?? value;
      expect(Math.abs(neighbour - value), `rank of id ${id}`).toBeLessThanOrEqual(2 * tolerance);
    }
  }
}
