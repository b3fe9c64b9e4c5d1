/** What a peer's process is given to do and what it answers; see process.ts. */
import type { Share, Work } from '../work.ts';

export type PeerKind = 'tfjs' | 'onnx-web' | 'onnx-node' | 'onnx-node-gqa';

export interface Task {
  readonly kind: PeerKind;
  /** The part of `whole` that this process does. */
  readonly work: Work;
  readonly whole: Work;
  readonly share: Share;
  /** A run does all layers. */
  readonly layers: number;
  readonly threads: number;
}

export interface Implementation {
  readonly note?: string;
  run(): Promise<void>;
  /** Of the first layer, after a run. [sequences, chunk, kvHeads, group, headDim] */
  output(): Promise<Float32Array>;
}

export type Request = { readonly what: 'start'; readonly task: Task } | { readonly what: 'run' | 'output' };

export type Answer =
  | { readonly what: 'started'; readonly note: string }
  /** Milliseconds of the monotonic clock, which is the same in all processes. */
  | { readonly what: 'ran'; readonly begun: number; readonly ended: number }
  | { readonly what: 'output'; readonly output: Float32Array }
  | { readonly what: 'failed'; readonly reason: string };
