/**
 * Backends that can also give the log-sum-exp of each row and head's scores, with which partial results over different parts
 * of one context can be merged. Negotiated over the wire as the capability `log-sum-exp`.
 */
import type { AttentionBackend } from '../backend.ts';

export interface LogSumExpBackend extends AttentionBackend {
  /**
   * As attend, and fills `logSumExp` too.
   * @param logSumExp [rows, groupSize kvHeads], ln Σ exp(score), written before the promise resolves
   */
  attendWithLogSumExp(
    stepId: number,
    layer: number,
    qkv: Float32Array,
    output: Float32Array,
    logSumExp: Float32Array,
  ): Promise<void>;
}

export function hasLogSumExp(backend: AttentionBackend): backend is LogSumExpBackend {
  return typeof (backend as Partial<LogSumExpBackend>).attendWithLogSumExp === 'function';
}
