/**
 * The families that this version runs: what each adds to the plain Llama layer. A family is a line of this table, never a
 * fork of the layer code; file formats translate their own words into these.
 */
import { UnsupportedError } from '@glinthawk/core';

export interface Family {
  readonly name: string;
  /** Biases of q, k, v (and of the attention output), when the model isn't free to say, else by `attention_bias`. */
  readonly attentionBias: 'none' | 'qkv' | 'configured';
  /** Whether `mlp_bias` means something. */
  readonly mlpBias: boolean;
  /** RMSNorm over each head of q and k. */
  readonly qkNorm: boolean;
  /** No windows; one for all layers when `sliding_window` is set; or by `use_sliding_window` and `layer_types`. */
  readonly windows: 'none' | 'all' | 'listed';
  /** What transformers' configuration of the family takes for keys that config.json leaves out; null there is another matter. */
  readonly absent: {
    /** `num_key_value_heads`; undefined is as many as there are heads. */
    readonly kvHeads?: number;
    /** `head_dim`; undefined is the hidden size over the heads. */
    readonly headDim?: number;
    /** `sliding_window`. */
    readonly slidingWindow?: number;
  };
  /** Whether GGUF keeps q and k rows in interleaved-RoPE order. */
  readonly ggufInterleaved: boolean;
}

const FAMILIES: ReadonlyMap<string, Family> = new Map(
  (
    [
      {
        name: 'llama',
        attentionBias: 'configured',
        mlpBias: true,
        qkNorm: false,
        windows: 'none',
        absent: {},
        ggufInterleaved: true,
      },
      {
        name: 'mistral',
        attentionBias: 'none',
        mlpBias: false,
        qkNorm: false,
        windows: 'all',
        absent: { kvHeads: 8, slidingWindow: 4096 },
        ggufInterleaved: true,
      },
      {
        name: 'qwen2',
        attentionBias: 'qkv',
        mlpBias: false,
        qkNorm: false,
        windows: 'listed',
        absent: { kvHeads: 32, slidingWindow: 4096 },
        ggufInterleaved: false,
      },
      {
        name: 'qwen3',
        attentionBias: 'configured',
        mlpBias: false,
        qkNorm: true,
        windows: 'listed',
        absent: { kvHeads: 32, headDim: 128, slidingWindow: 4096 },
        ggufInterleaved: false,
      },
    ] satisfies Family[]
  ).map((family) => [family.name, family]),
);

/** @throws UnsupportedError when there is no such family. */
export function familyOf(name: string, where: string): Family {
  const family = FAMILIES.get(name);
  if (family === undefined) {
    throw new UnsupportedError(
      'UNSUPPORTED_FAMILY',
      `${where}: models of type ${JSON.stringify(name)} are not supported`,
      {
        hint: `Supported: ${[...FAMILIES.keys()].join(', ')}.`,
      },
    );
  }
  return family;
}
