/**
 * The dense tier as the engine sees it: everything of a Transformer but attention. A backend owns the weights of its layers;
 * a DenseBatch owns the residual stream of one micro-batch in flight, which never leaves the device. Between two calls only
 * q, k, v come out and the attention output goes in. Not here: KV, scheduling, sampling.
 */
import type { DeviceError, ModelConfig, WeightSource } from '@glinthawk/core';

/** One pass of a micro-batch through all layers. A row is one token position of one sequence. */
export interface DenseStep {
  readonly tokenIds: Uint32Array; // [rows]
  readonly positions: Uint32Array; // [rows]
  /** Rows whose next token is wanted, ascending; may be empty (a prefill chunk that isn't the last). */
  readonly headRows: Uint32Array; // [headRows]
  /** 1 / temperature of each head row, for `scaledLogSumExp`; 1 where sampling is greedy. */
  readonly inverseTemperatures: Float32Array; // [headRows]
}

/** The best of one row's logits. Candidates descend by logit; equal logits ascend by id. */
export interface HeadRow {
  readonly ids: Uint32Array; // [candidates]
  readonly logits: Float32Array; // [candidates]
  /** ln Σ exp(logit) over the whole vocabulary. */
  readonly logSumExp: number;
  /** ln Σ exp(logit · inverseTemperature) over the whole vocabulary. */
  readonly scaledLogSumExp: number;
}

/** How many candidates a head returns at most (fewer when the vocabulary is smaller). */
export const HEAD_CANDIDATES = 64;

export interface DenseBatch {
  readonly maxRows: number;
  /** Filled by begin and advance, valid until the next call: row r is [q (heads · headDim) | k (kvHeads · headDim) | v], rotated. */
  readonly qkv: Float32Array; // [maxRows, (heads + 2 kvHeads) headDim]
  /** The caller writes the attention output here before advance and finish. */
  readonly attended: Float32Array; // [maxRows, heads · headDim]
  /** Embeds the rows and runs pre-attention of layer 0. @throws DeviceError */
  begin(step: DenseStep): Promise<void>;
  /** Post-attention of `layer`, then pre-attention of `layer + 1`, in one submission. @throws DeviceError */
  advance(layer: number): Promise<void>;
  /** Post-attention of the last layer, then the head for the step's head rows. @throws DeviceError */
  finish(): Promise<readonly HeadRow[]>;
  /** All logits of the i-th head row of the step that just finished; until the next begin. [vocabSize] */
  logits(index: number): Promise<Float32Array>;
  destroy(): void;
}

/** What a backend is made of. */
export interface DenseModel {
  readonly config: ModelConfig;
  /** Read while the backend is made, not after. */
  readonly weights: WeightSource;
}

export interface DenseInfo {
  readonly kind: 'webgpu' | 'wasm' | 'reference';
  /** For people: adapter or number of workers, weight dtype, kernel variants. */
  readonly description: string;
  readonly weightDtype: 'f32' | 'f16';
  readonly weightBytes: number;
}

export interface DenseBackend {
  readonly info: DenseInfo;
  readonly config: ModelConfig;
  /** How many calls of different batches may be under way at once: 1 when they would only wait for each other. */
  readonly concurrency: number;
  /** @throws CapacityError, DeviceError */
  createBatch(options: { readonly maxRows: number; readonly maxHeadRows: number }): Promise<DenseBatch>;
  /** Bytes of weights, buffers and worker memories held now; 0 after close. */
  allocatedBytes(): number;
  /** Resolves when the device or a worker is gone; never rejects. */
  readonly lost: Promise<DeviceError>;
  close(): Promise<void>;
}
