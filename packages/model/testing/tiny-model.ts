/** A model of a few thousand parameters, as a Hugging Face folder and as a GGUF file in memory; any part replaceable. */
import { blobFiles, type ModelFiles } from '../src/file-source.ts';
import { type GgufTensorToWrite, type MetadataEntry, writeGguf } from './gguf-writer.ts';
import { f32Tensor, type WrittenTensor, writeSafetensors } from './safetensors-writer.ts';

export const TINY = { hidden: 32, heads: 4, kvHeads: 2, headDim: 8, intermediate: 64, vocab: 40, layers: 2 } as const;

export function tinyConfig(): Record<string, unknown> {
  return {
    model_type: 'llama',
    hidden_act: 'silu',
    hidden_size: TINY.hidden,
    intermediate_size: TINY.intermediate,
    num_hidden_layers: TINY.layers,
    num_attention_heads: TINY.heads,
    num_key_value_heads: TINY.kvHeads,
    vocab_size: TINY.vocab,
    max_position_embeddings: 128,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    tie_word_embeddings: true,
    bos_token_id: 0,
    eos_token_id: 1,
  };
}

/** Distinct numbers that f16 and bf16 hold exactly, so that every format gives the same. */
function values(count: number, salt: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => (((i * 7 + salt * 13) % 255) - 127) / 64);
}

/** Names and shapes as in a Hugging Face checkpoint. */
export function tinyTensors(): Map<string, WrittenTensor> {
  const { hidden, heads, kvHeads, headDim, intermediate, vocab, layers } = TINY;
  const shapes: [string, number[]][] = [['model.embed_tokens.weight', [vocab, hidden]]];
  for (let i = 0; i < layers; i++) {
    const at = `model.layers.${i}`;
    shapes.push(
      [`${at}.input_layernorm.weight`, [hidden]],
      [`${at}.self_attn.q_proj.weight`, [heads * headDim, hidden]],
      [`${at}.self_attn.k_proj.weight`, [kvHeads * headDim, hidden]],
      [`${at}.self_attn.v_proj.weight`, [kvHeads * headDim, hidden]],
      [`${at}.self_attn.o_proj.weight`, [hidden, heads * headDim]],
      [`${at}.post_attention_layernorm.weight`, [hidden]],
      [`${at}.mlp.gate_proj.weight`, [intermediate, hidden]],
      [`${at}.mlp.up_proj.weight`, [intermediate, hidden]],
      [`${at}.mlp.down_proj.weight`, [hidden, intermediate]],
    );
  }
  shapes.push(['model.norm.weight', [hidden]]);
  return new Map(
    shapes.map(([name, shape], i) => [
      name,
      f32Tensor(
        shape,
        values(
          shape.reduce((a, b) => a * b, 1),
          i,
        ),
      ),
    ]),
  );
}

export function filesOf(name: string, contents: Readonly<Record<string, unknown>>): ModelFiles {
  const blobs = new Map<string, Blob>();
  for (const [entry, content] of Object.entries(contents)) {
    if (content === undefined) continue;
    const part = content instanceof Uint8Array || typeof content === 'string' ? content : JSON.stringify(content);
    blobs.set(entry, new Blob([part as BlobPart]));
  }
  return blobFiles(name, blobs, Object.keys(contents).length === 1 && name.endsWith('.gguf'));
}

/** `changes` adds or replaces files; undefined leaves one out. */
export function tinyFolder(changes: Readonly<Record<string, unknown>> = {}): ModelFiles {
  return filesOf('tiny', {
    'config.json': tinyConfig(),
    'model.safetensors': writeSafetensors(tinyTensors()),
    ...changes,
  });
}

const GGUF_NAMES: readonly (readonly [string, string])[] = [
  ['model.embed_tokens', 'token_embd'],
  ['model.norm', 'output_norm'],
  ['model.layers', 'blk'],
  ['post_attention_layernorm', 'ffn_norm'],
  ['input_layernorm', 'attn_norm'],
  ['self_attn.q_proj', 'attn_q'],
  ['self_attn.k_proj', 'attn_k'],
  ['self_attn.v_proj', 'attn_v'],
  ['self_attn.o_proj', 'attn_output'],
  ['self_attn.q_norm', 'attn_q_norm'],
  ['self_attn.k_norm', 'attn_k_norm'],
  ['mlp.gate_proj', 'ffn_gate'],
  ['mlp.up_proj', 'ffn_up'],
  ['mlp.down_proj', 'ffn_down'],
];

export function ggufName(name: string): string {
  return GGUF_NAMES.reduce((text, [from, to]) => text.replace(from, to), name);
}

/** Half-split rows to interleaved ones within each head: what llama.cpp's converter does to q and k. */
export function interleave(tensor: WrittenTensor, headDim: number): WrittenTensor {
  const rows = tensor.shape[0] ?? 0;
  const rowBytes = tensor.bytes.length / rows;
  const bytes = new Uint8Array(tensor.bytes.length);
  for (let row = 0; row < rows; row++) {
    const [head, j] = [Math.floor(row / headDim), row % headDim];
    const from = head * headDim + (j % 2 === 0 ? j / 2 : headDim / 2 + (j - 1) / 2);
    bytes.set(tensor.bytes.subarray(from * rowBytes, (from + 1) * rowBytes), row * rowBytes);
  }
  return { ...tensor, bytes };
}

export function tinyGgufTensors(interleaved = true): Map<string, GgufTensorToWrite> {
  const tensors = new Map<string, GgufTensorToWrite>();
  for (const [name, tensor] of tinyTensors()) {
    const rotated = interleaved && /\.[qk]_proj\./.test(name) ? interleave(tensor, TINY.headDim) : tensor;
    tensors.set(ggufName(name), { shape: rotated.shape, kind: 0, bytes: rotated.bytes });
  }
  return tensors;
}

export function tinyGgufMetadata(architecture = 'llama'): Map<string, MetadataEntry> {
  const own: [string, MetadataEntry][] = [
    ['block_count', { type: 'u32', value: TINY.layers }],
    ['context_length', { type: 'u32', value: 128 }],
    ['embedding_length', { type: 'u32', value: TINY.hidden }],
    ['feed_forward_length', { type: 'u32', value: TINY.intermediate }],
    ['attention.head_count', { type: 'u32', value: TINY.heads }],
    ['attention.head_count_kv', { type: 'u32', value: TINY.kvHeads }],
    ['attention.layer_norm_rms_epsilon', { type: 'f32', value: 1e-5 }],
    ['rope.freq_base', { type: 'f32', value: 10000 }],
    ['rope.dimension_count', { type: 'u32', value: TINY.headDim }],
  ];
  return new Map<string, MetadataEntry>([
    ['general.architecture', { type: 'string', value: architecture }],
    ...own.map(([key, entry]): [string, MetadataEntry] => [`${architecture}.${key}`, entry]),
    ['tokenizer.ggml.bos_token_id', { type: 'u32', value: 0 }],
    ['tokenizer.ggml.eos_token_id', { type: 'u32', value: 1 }],
  ]);
}

export function tinyGguf(
  metadata: ReadonlyMap<string, MetadataEntry> = tinyGgufMetadata(),
  tensors: ReadonlyMap<string, GgufTensorToWrite> = tinyGgufTensors(),
): ModelFiles {
  return filesOf('tiny.gguf', { 'tiny.gguf': writeGguf(metadata, tensors) });
}
