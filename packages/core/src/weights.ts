/**
 * Weights by their role, whatever a file calls them. Matrices are [outputs, inputs], row-major, with q and k in the half-split
 * RoPE order; norms and biases are vectors. A source reads on demand and holds nothing.
 */
export type LayerWeight =
  | 'attnNorm'
  | 'q'
  | 'k'
  | 'v'
  | 'o'
  | 'qBias'
  | 'kBias'
  | 'vBias'
  | 'oBias'
  | 'qNorm'
  | 'kNorm'
  | 'mlpNorm'
  | 'gate'
  | 'up'
  | 'down'
  | 'gateBias'
  | 'upBias'
  | 'downBias';

/** `embed` [vocab, hidden], `finalNorm` [hidden], `head` [vocab, hidden] (absent when tied), `layers.N.q` … */
export type WeightName = 'embed' | 'finalNorm' | 'head' | `layers.${number}.${LayerWeight}`;

export interface WeightInfo {
  /** Outermost first; one dimension for vectors. */
  readonly shape: readonly number[];
  /** How it is stored, in the file's own word: `F32`, `BF16`, `Q4_1` … */
  readonly stored: string;
  readonly storedBytes: number;
}

export interface RowRange {
  readonly start: number;
  /** Exclusive. */
  readonly end: number;
}

export interface WeightSource {
  has(name: WeightName): boolean;
  /** @throws ModelFormatError when the model has no such tensor. */
  info(name: WeightName): WeightInfo;
  /**
   * The tensor, or some of its rows (of its elements, for a vector), as f32, dequantised or widened exactly.
   * @throws ModelFormatError when the file is truncated or unreadable.
   */
  read(name: WeightName, rows?: RowRange): Promise<Float32Array>;
  close(): Promise<void>;
}
