/** What `glinthawk run` was asked for, as its flags say. */
import type { KvDtype, RowDtype } from '@glinthawk/core';
import type { AttentionPlace } from '../arguments.ts';
import type { DenseFlag, WeightsFlag } from '../tiers.ts';
import type { TlsFlags } from '../tls.ts';
import type { TokenFlags } from '../token.ts';

export interface RunFlags extends TokenFlags, TlsFlags {
  readonly model: string;
  readonly input: string;
  readonly output: string;
  readonly errors?: string;
  readonly dense: DenseFlag;
  readonly allowSoftwareGpu?: boolean;
  readonly weights: WeightsFlag;
  readonly attention: readonly AttentionPlace[];
  readonly kv: KvDtype;
  readonly kvMemory?: number;
  readonly wire: RowDtype;
  readonly tlsCa?: string;
  readonly origin?: readonly string[];
  readonly context?: number;
  readonly microBatchRows: number | 'auto';
  readonly inFlight: number | 'auto';
  readonly prefillChunk: number;
  readonly prefixSharing: boolean;
  readonly policy: 'fcfs' | 'deepest-first' | 'starvation-first';
  readonly waitForNodes?: boolean;
  readonly generationDefaults: 'model' | 'openai';
  readonly ordered?: boolean;
  readonly skipInvalid?: boolean;
  readonly restart?: boolean;
  readonly limit?: number;
  readonly json?: boolean;
  readonly debug?: boolean;
}
