/**
 * One sequence at a time, one token at a time, greedy, straight over the two tiers' contracts: no engine. It says whether a
 * pair of backends is right; what the engine adds must not change it.
 */
import type { AttentionSource } from '@glinthawk/attention';
import { attentionGeometry, type KvDtype, outputRowFloats, qkvRowFloats } from '@glinthawk/core';
import type { DenseBackend, HeadRow } from '@glinthawk/dense';

export interface NaiveGeneration {
  readonly ids: readonly number[];
  /** The head of the first generated step. */
  readonly first: HeadRow;
}

export async function generateNaively(
  dense: DenseBackend,
  source: AttentionSource,
  promptIds: readonly number[],
  maxTokens: number,
  options: { readonly kvDtype?: KvDtype; readonly stopIds?: readonly number[]; readonly prefillChunk?: number } = {},
): Promise<NaiveGeneration> {
  const { kvDtype = 'f32', stopIds = [], prefillChunk = 64 } = options;
  const geometry = attentionGeometry(dense.config);
  const attention = await source.connect(geometry, { kvDtype, fingerprint: 'naive' });
  const batch = await dense.createBatch({ maxRows: prefillChunk, maxHeadRows: 1 });
  const slot = { index: 0, generation: 1 };
  attention.open(slot, 0);
  const tokens = [...promptIds];
  let first: HeadRow | null = null;
  let done = 0;
  let stepId = 0;
  try {
    while (tokens.length < promptIds.length + maxTokens) {
      const count = Math.min(prefillChunk, tokens.length - done);
      const last = done + count === tokens.length;
      const qkv = batch.qkv.subarray(0, count * qkvRowFloats(geometry));
      const output = batch.attended.subarray(0, count * outputRowFloats(geometry));
      attention.announce({ id: stepId, entries: [{ slot, position: done, count }] });
      await batch.begin({
        tokenIds: Uint32Array.from(tokens.slice(done, done + count)),
        positions: Uint32Array.from({ length: count }, (_, i) => done + i),
        headRows: Uint32Array.from(last ? [count - 1] : []),
        inverseTemperatures: Float32Array.from(last ? [1] : []),
      });
      for (let layer = 0; layer < geometry.layers; layer++) {
        await attention.attend(stepId, layer, qkv, output);
        if (layer < geometry.layers - 1) await batch.advance(layer);
      }
      const [head] = await batch.finish();
      attention.retire(stepId++);
      done += count;
      if (head === undefined) continue;
      first ??= { ...head, ids: head.ids.slice(), logits: head.logits.slice() };
      const next = head.ids[0] as number;
      tokens.push(next);
      if (stopIds.includes(next)) break;
    }
  } finally {
    attention.free(slot);
    batch.destroy();
    await attention.close();
  }
  if (first === null) throw new Error('nothing was generated');
  return { ids: tokens.slice(promptIds.length), first };
}
