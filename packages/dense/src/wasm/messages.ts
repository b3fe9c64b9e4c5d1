/** What the caller's thread and the workers say to each other. Every worker gets every request, in the same order. */
import type { ModelConfig } from '@glinthawk/core';
import type { BatchShape, Sections, StageName } from './batch-memory.ts';

/** The four products of a layer; q, k, v are one matrix, and so are gate and up. `panel` matrices make the head. */
export type MatrixRole = 'qkv' | 'output' | 'gateUp' | 'down' | 'panel';
export type VectorRole = 'attnNorm' | 'qNorm' | 'kNorm' | 'mlpNorm' | 'finalNorm';

export type Request =
  | {
      readonly type: 'start';
      readonly config: ModelConfig;
      readonly worker: number;
      readonly workers: number;
      readonly barrier: SharedArrayBuffer | null;
      readonly wasmUrl: string | null;
    }
  | {
      readonly type: 'matrix';
      readonly role: MatrixRole;
      /** Layer, or panel of the vocabulary. */
      readonly index: number;
      readonly inputs: number;
      readonly outputs: number;
      readonly weights: Float32Array; // [outputs, inputs]
      readonly bias: Float32Array | null; // [outputs]
    }
  | { readonly type: 'vector'; readonly role: VectorRole; readonly index: number; readonly values: Float32Array }
  | {
      readonly type: 'open';
      readonly batch: number;
      readonly shape: BatchShape;
      /** null: the worker makes its own. */
      readonly memory: SharedArrayBuffer | null;
    }
  | {
      readonly type: 'stage';
      readonly batch: number;
      readonly stage: StageName;
      readonly rows: number;
      readonly headRows: number;
      /** The layer whose post-attention runs; −1 for begin. */
      readonly layer: number;
      readonly sections: Sections | null;
    }
  | { readonly type: 'close'; readonly batch: number };

/** start, matrix, vector and open are answered by each worker; a stage by the last one to finish it; close by none. */
export type Reply =
  | { readonly type: 'done'; readonly description: string; readonly heapBytes: number; readonly liveTensors: number }
  | { readonly type: 'stage-done'; readonly batch: number; readonly sections: Sections | null }
  | {
      readonly type: 'failed';
      readonly request: Request['type'];
      readonly kind: 'capacity' | 'device';
      readonly code: string;
      readonly message: string;
      readonly hint: string | undefined;
    };
