/**
 * What the page and its engine worker say to each other. The worker holds the model, both tiers and the engine; the page holds
 * none of it, so that it never computes for longer than a frame. Plain data only: everything here is structured-cloned.
 */
import type { ChatMessage, KvDtype } from '@glinthawk/core';
import type { EngineStats, FinishReason } from '@glinthawk/engine';
import type { ModelDescription } from '@glinthawk/model';

/** Which model. Files come as Blobs (a folder's, or one GGUF); a stored one is read from the origin private file system. */
export type ModelChoice =
  | { readonly kind: 'example' }
  | {
      readonly kind: 'files';
      readonly name: string;
      readonly files: ReadonlyMap<string, Blob>;
      readonly single: boolean;
    }
  | { readonly kind: 'stored'; readonly id: string };

export interface RemoteNode {
  /** `ws://host:port` or `wss://host:port`. */
  readonly url: string;
  readonly token?: string;
}

/** Where things run, and how they are put together. */
export interface TierSettings {
  /**
   * one-tier: attention runs in the dense tier's own place, in turns with it, with `kvBytes` of KV. two-tiers: at `workers` of
   * this tab and at `remotes`, with `kvBytes` shared out among the workers.
   */
  readonly mode: 'one-tier' | 'two-tiers';
  readonly dense: 'wasm' | 'webgpu';
  readonly allowSoftwareGpu: boolean;
  /** `auto` is f16 on a GPU that has it. */
  readonly weightDtype: 'auto' | 'f32' | 'f16';
  /** Attention workers in this tab; 0 only with remotes. */
  readonly workers: number;
  readonly remotes: readonly RemoteNode[];
  readonly kvDtype: KvDtype;
  readonly kvBytes: number;
  readonly inFlight: number | 'auto';
  readonly microBatchRows: number | 'auto';
  /** Added to every round trip between the tiers; `latency` changes it while running. */
  readonly latencyMs: number;
}

export interface SamplingControls {
  readonly temperature: number;
  readonly topP: number;
  readonly topK: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  /** null draws one; the i-th prompt of a run uses seed + i. */
  readonly seed: bigint | null;
  readonly maxTokens: number;
  readonly stop: readonly string[];
}

export type Prompt =
  | { readonly kind: 'chat'; readonly messages: readonly ChatMessage[] }
  /** `maxTokens` instead of the sampling's. */
  | { readonly kind: 'text'; readonly text: string; readonly maxTokens?: number };

export type Command =
  /** What this browser has: answered by `probed`. */
  | { readonly type: 'probe' }
  /** Opens a model and its tiers, closing what was open: `progress`…, `described`, then `ready` or `failed`. */
  | { readonly type: 'open'; readonly model: ModelChoice; readonly tiers: TierSettings }
  /**
   * Other tiers for the model that is open; the dense tier is kept where it is the same. `ready`, with the former tiers where these
   * can't be had, after a `notice` (error) that says why; or `failed` when neither can; or nothing after a `failed`.
   */
  | { readonly type: 'retier'; readonly tiers: TierSettings }
  /** One run of one or more prompts: `tokens`…, `finished` or `requestFailed` for each, then `ended`. */
  | {
      readonly type: 'generate';
      readonly run: number;
      readonly prompts: readonly Prompt[];
      readonly sampling: SamplingControls;
    }
  /** A JSONL file of requests as `glinthawk run` takes it: `batch`…, then `ended`; results by `batchResults`. */
  | { readonly type: 'batch'; readonly run: number; readonly input: Blob; readonly skipInvalid: boolean }
  /** Ends a run; what it has so far stays. */
  | { readonly type: 'stop'; readonly run: number }
  | { readonly type: 'latency'; readonly ms: number }
  /** Closes model and tiers, giving their memory back: `closed`. */
  | { readonly type: 'close' };

/** Asks the worker itself, whatever it has open, whether it is there: `pong`. Between client.ts and worker.ts only. */
export type Ping = { readonly type: 'ping' };
export type Pong = { readonly type: 'pong' };

export interface GpuVerdict {
  readonly name: string;
  readonly software: boolean;
  readonly features: readonly string[];
  readonly limits: Readonly<Record<string, number>>;
}

/** What this browser has, for plain words. */
export interface Capabilities {
  readonly crossOriginIsolated: boolean;
  readonly secureContext: boolean;
  readonly cores: number;
  /** GiB, as coarse as browsers tell it; null where they don't. */
  readonly deviceMemoryGiB: number | null;
  readonly gpus: readonly GpuVerdict[];
  /** Why there is no GPU; null when there is one. */
  readonly gpuUnavailable: string | null;
  readonly kernels: { readonly build: string; readonly relaxedSimd: boolean; readonly sharedMemory: boolean };
}

export interface ErrorReport {
  /** Stable, as of GlinthawkError. */
  readonly code: string;
  readonly message: string;
  readonly hint: string | null;
}

export interface NodeReport {
  readonly name: string;
  readonly kind: 'inline' | 'worker' | 'remote';
}

export interface TierReport {
  readonly settings: TierSettings;
  readonly dense: {
    readonly kind: string;
    readonly description: string;
    readonly weightDtype: string;
    readonly weightBytes: number;
  };
  /** In the order of node indices in spans and residents. */
  readonly nodes: readonly NodeReport[];
  /** Longest prompt and answer together that fit here. */
  readonly contextTokens: number;
  readonly microBatchRows: number;
  readonly kvCapacityBytes: number;
  readonly kvCapacityTokens: number;
  /** What isn't as it could be, one sentence each: no shared memory, fewer workers, … */
  readonly remarks: readonly string[];
}

export interface ModelReport {
  readonly description: ModelDescription;
  /** The weights' memory once loaded, per dense tier. */
  readonly wasmWeightBytes: number;
  readonly gpuWeightBytes: number;
  readonly hasChatTemplate: boolean;
}

/** What happened since the last sample; sent five times a second while something runs, once a second else. */
export interface Sample {
  /** performance.now() of the worker, which spans are in, too; all of one worker's life. */
  readonly atMs: number;
  /** Different for each engine, in whatever worker: times, counters and spans of one engine go together, those of two don't. */
  readonly epoch: string;
  /**
   * What was going on before this time is known: atMs, or when the oldest call that is under way began. Spans are sent when they
   * have ended, and those of later samples began no earlier.
   */
  readonly completeUntilMs: number;
  readonly stats: EngineStats;
  /** Bytes of q, k, v out and o back between the tiers since the engine began, whatever carries them. */
  readonly tierBytesOut: number;
  readonly tierBytesIn: number;
  /** Records of SPAN_FIELDS numbers each; see span.ts. Transferred. */
  readonly spans: Float64Array<ArrayBuffer>;
  /** Spans left out since the last sample because there were too many. */
  readonly droppedSpans: number;
  readonly residents: readonly Resident[];
  readonly nodes: readonly NodeSample[];
}

/** A sequence's KV: how many blocks it holds, and where. */
export interface Resident {
  /** Run and index of its prompt, or the line of a batch: `3.17`. */
  readonly id: string;
  readonly node: number;
  readonly blocks: number;
  readonly tokens: number;
}

export interface NodeSample {
  readonly name: string;
  readonly connected: boolean;
  readonly usedBlocks: number;
  readonly blocks: number;
  readonly blockBytes: number;
  readonly blockTokens: number;
}

export interface BatchSummary {
  readonly requests: number;
  readonly invalid: number;
  readonly promptTokens: number;
  /** The first few, as `line 3: …`. */
  readonly errors: readonly string[];
}

export type Notice = { readonly level: 'info' | 'warn' | 'error'; readonly text: string };

export type Event =
  | { readonly type: 'probed'; readonly capabilities: Capabilities }
  | { readonly type: 'progress'; readonly stage: string; readonly done: number; readonly total: number | null }
  | { readonly type: 'described'; readonly model: ModelReport }
  | { readonly type: 'ready'; readonly model: ModelReport; readonly tiers: TierReport }
  /** Nothing is open any more (or never was). */
  | { readonly type: 'failed'; readonly error: ErrorReport }
  | { readonly type: 'closed' }
  /** Text that became certain, and the tokens so far, several prompts' in one message; sent at most 20 times a second. */
  | {
      readonly type: 'tokens';
      readonly run: number;
      readonly texts: readonly { readonly index: number; readonly text: string; readonly tokens: number }[];
    }
  | {
      readonly type: 'finished';
      readonly run: number;
      readonly index: number;
      readonly reason: FinishReason;
      readonly text: string;
      readonly tokenIds: readonly number[];
      readonly promptTokens: number;
    }
  | { readonly type: 'requestFailed'; readonly run: number; readonly index: number; readonly error: ErrorReport }
  /** After a lost device: what was written of a prompt is void and comes again from its beginning. */
  | { readonly type: 'restarted'; readonly run: number; readonly indices: readonly number[] }
  | {
      readonly type: 'batch';
      readonly run: number;
      readonly summary: BatchSummary;
      readonly succeeded: number;
      readonly failed: number;
      readonly generatedTokens: number;
    }
  /** Results (and error lines) so far or all, one JSON object a line, in the input's order. */
  | {
      readonly type: 'batchResults';
      readonly run: number;
      readonly results: Blob;
      readonly errors: Blob;
      readonly complete: boolean;
    }
  | {
      readonly type: 'ended';
      readonly run: number;
      readonly how: 'done' | 'stopped' | 'failed';
      readonly error: ErrorReport | null;
      readonly wallMs: number;
      readonly generatedTokens: number;
    }
  | { readonly type: 'sample'; readonly sample: Sample }
  | { readonly type: 'notice'; readonly notice: Notice };
