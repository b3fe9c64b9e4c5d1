/** `glinthawk models inspect`: what a model folder or file holds. Reads no weights. */
import { type KvTokenBytes, kvTokenBytes } from '@glinthawk/attention';
import { attentionGeometry, type KvDtype } from '@glinthawk/core';
import { describeModel, openModel } from '@glinthawk/model';
import { bytes, count, millions, table } from '../format.ts';
import { overhead } from '../node-report.ts';

const USUAL_CONTEXT = 1024;

export async function modelsInspect(path: string, flags: { readonly json?: boolean }): Promise<string> {
  const model = await openModel(path);
  try {
    const about = describeModel(model);
    const geometry = attentionGeometry(model.config);
    const context = Math.min(USUAL_CONTEXT, about.contextTokens);
    const held: Readonly<Record<KvDtype, KvTokenBytes>> = {
      f32: kvTokenBytes(geometry, 'f32', context),
      f16: kvTokenBytes(geometry, 'f16', context),
      bf16: kvTokenBytes(geometry, 'bf16', context),
      int8: kvTokenBytes(geometry, 'int8', context),
    };
    if (flags.json) return JSON.stringify({ ...about, kvHeld: { contextTokens: context, ...held } }, null, 2);
    const paged = ({ real, theoretical }: KvTokenBytes) => `${count(real)} (${overhead(real, theoretical)})`;
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
      ['KV per token', `f32 ${count(kv.f32)}, f16 and bf16 ${count(kv.f16)}, int8 ${count(kv.int8)} bytes`],
      [
        '',
        `with paging at ${count(context)} tokens: f32 ${paged(held.f32)}, f16 and bf16 ${paged(held.f16)}, int8 ${paged(held.int8)} bytes`,
      ],
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
