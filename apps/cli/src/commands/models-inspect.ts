/** `glinthawk models inspect`: what a model folder or file holds. Reads no weights. */
import { describeModel, openModel } from '@glinthawk/model';
import { bytes, count, millions, table } from '../format.ts';

export async function modelsInspect(path: string, flags: { readonly json?: boolean }): Promise<string> {
  const model = await openModel(path);
  try {
    const about = describeModel(model);
    if (flags.json) return JSON.stringify(about, null, 2);
    const { rope, generationDefaults, kvBytesPerToken: kv } = about;
    const defaults = Object.entries(generationDefaults).map(([name, value]) => `${name} ${value}`);
    const kinds = about.tensorKinds.map(
      ({ stored, tensors, bytes: size }) => `${stored} ${tensors} tensors, ${bytes(size)}`,
    );
    const rows: [string, string][] = [
      ['name', about.name],
      ['format', about.format],
      ['family', about.family],
      ['parameters', `${millions(about.parameters)} (${count(about.parameters)})`],
      ['weights', `${bytes(about.weightBytes)}: ${kinds.join('; ')}`],
      ['layers', `${about.layers}, hidden ${about.hiddenSize}, FFN ${about.intermediateSize}`],
      ['attention', `${about.heads} heads over ${about.kvHeads} KV heads, head_dim ${about.headDim}`],
      ['features', about.features.join(', ') || 'none beyond the plain layer'],
      ['RoPE', `theta ${rope.theta}, scaling ${rope.scaling.type}`],
      ['vocabulary', `${count(about.vocabSize)}${about.tiedEmbeddings ? ', embeddings tied' : ''}`],
      ['context', `${count(about.contextTokens)} tokens`],
      ['KV per token', `f32 ${bytes(kv.f32)}, f16 and bf16 ${bytes(kv.f16)}, int8 ${bytes(kv.int8)}`],
      ['tokenizer', about.tokenizer === null ? 'none (prompts must be token ids)' : about.tokenizer.kind],
      ['chat template', about.chatTemplate ? 'yes' : 'none (completions only)'],
      ['begin, end', `${about.bosTokenId ?? 'none'}, ${about.eosTokenIds.join(', ') || 'none'}`],
      ['defaults', defaults.join(', ') || 'none'],
      ['fingerprint', about.fingerprint],
    ];
    return [table(rows), ...about.notes.map((note) => `note: ${note}`)].join('\n');
  } finally {
    await model.close();
  }
}
