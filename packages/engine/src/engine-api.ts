/** The engine's options, statistics and public face; the implementation is engine.ts. */

import type { AttentionSource } from '@glinthawk/attention';
import type { KvDtype, Logger, ModelConfig, Tokenizer } from '@glinthawk/core';
import type { DenseBackend } from '@glinthawk/dense';
import type { GenerationEvent, GenerationRequest } from './request.ts';

export interface EngineOptions {
  readonly dense: DenseBackend;
  readonly attention: readonly AttentionSource[];
  readonly kvDtype: KvDtype;
  /** Identifies model and weights to attention nodes. */
  readonly fingerprint: string;
  /** Absent: text is empty everywhere, token ids are given, stop strings are refused. */
  readonly tokenizer?: Tokenizer;
  /** At most the model's; requests beyond it fail. */
  readonly contextTokens?: number;
  /** Rows of a micro-batch at most; `auto` sizes it from KV capacity and in-flight count. */
  readonly microBatchRows?: number | 'auto';
  /** Micro-batches in flight; `auto` adapts to measured stage times and round trips. */
  readonly inFlight?: number | 'auto';
  /** Tokens of one prompt that go through in one step, at most. */
  readonly prefillChunk?: number;
  /**
   * Prompts that begin alike share the KV of what they have in common, and KV that sequences leave stays for others as long as nobody
   * needs the room. Default: true.
   */
  readonly prefixSharing?: boolean;
  readonly policy?: 'fcfs' | 'deepest-first' | 'starvation-first';
  /** With no attention node left: wait for one to come back rather than fail. */
  readonly waitForNodes?: boolean;
  /**
   * Nodes will be attached while it runs: it begins without any, waits when none is left, and what they can't hold waits until
   * they can (see EngineStats.stranded), rather than fail.
   */
  readonly nodesMayJoin?: boolean;
  /** A node that takes longer for one layer of one step counts as lost, whatever else it answers. Default: 120,000. */
  readonly attendTimeoutMs?: number;
  /** How long an abort or close() waits for the step under way before it gives up on the nodes that hold it up. Default: 2,000. */
  readonly graceMs?: number;
  readonly logger?: Logger;
  readonly observer?: EngineObserver;
  /** Ends createEngine while it waits for nodes; generate() has a signal of its own. */
  readonly signal?: AbortSignal;
}

/** One call of the dense tier for a micro-batch. Times are performance.now(), in ms. */
export interface DenseSpan {
  readonly microBatch: number;
  readonly stepId: number;
  /** The layer that the call leads to; the number of layers for the head, one more for full logits. */
  readonly layer: number;
  readonly rows: number;
  /** Since when it waited in the tier's queue. */
  readonly queuedAtMs: number;
  readonly beganAtMs: number;
  readonly endedAtMs: number;
}

/** One node's part of a micro-batch's attention of one layer, from the engine's side: transfer and waiting at the node included. */
export interface AttentionSpan {
  readonly microBatch: number;
  readonly stepId: number;
  readonly layer: number;
  /** As in EngineStats.nodes. */
  readonly node: number;
  readonly rows: number;
  /** Σ over rows of the tokens attended to. */
  readonly kvTokens: number;
  readonly beganAtMs: number;
  readonly endedAtMs: number;
}

/** Is told what the tiers did, as it ends (what failed isn't told); for timelines and traces. Must not throw, and should be quick. */
export interface EngineObserver {
  onDense?(span: DenseSpan): void;
  onAttention?(span: AttentionSpan): void;
}

/** A part of a sequence's KV, mostly all of it: where, and how much. Parts are told one by one. */
export interface ResidentReport {
  readonly requestId: string;
  /** As in EngineStats.nodes. */
  readonly node: number;
  readonly shard: number;
  /** A block that several sequences share counts for the one of them that is listed first, so that these add up to used blocks. */
  readonly blocks: number;
  readonly tokens: number;
}

export interface EngineStats {
  readonly waiting: number;
  /** Of those waiting, how many the connected nodes can't hold, not even empty and all together, and the most tokens that one of them has. */
  readonly stranded: { readonly sequences: number; readonly tokens: number };
  readonly running: number;
  readonly finished: number;
  readonly failed: number;
  /** Of the prompts that were taken up: computed, or found as KV of a sequence that begins alike (`prefixHitTokens`). */
  readonly promptTokens: number;
  readonly prefixHitTokens: number;
  readonly generatedTokens: number;
  readonly preemptions: number;
  readonly nodesLost: number;
  readonly steps: number;
  readonly rows: number;
  readonly inFlight: number;
  readonly microBatchRows: number;
  /** Held by sequences; a block that several share counts once. */
  readonly usedBlocks: number;
  /** Held by none, and kept in case that one begins alike or goes on: they give way when there is no other room. */
  readonly cachedBlocks: number;
  readonly totalBlocks: number;
  /** Of used blocks. */
  readonly kvBytes: number;
  /** What the connected nodes can hold, as bytes and as tokens. */
  readonly kvCapacityBytes: number;
  readonly kvCapacityTokens: number;
  /** Since the first step: wall time, and the part of it in which each tier had something under way. */
  readonly wallMs: number;
  readonly denseBusyMs: number;
  readonly attentionBusyMs: number;
  /**
   * Since when the oldest call of either tier that is under way has been, in performance.now(); null when none is. What the observer
   * is yet to be told of begins no earlier.
   */
  readonly underWaySinceMs: number | null;
  readonly headMs: number;
  readonly samplingMs: number;
  /** Sums over steps, of every layer: dense and attention time as seen by one micro-batch. */
  readonly denseStageMs: number;
  readonly attentionStageMs: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  /**
   * By node index: those of `EngineOptions.attention`, then those attached. An index stays its source's, connected or not, unless
   * the source is `once`: then it is vacant when its node is lost (the name stays as a trace), and the next node that is attached
   * gets the lowest vacant one. So there are never more indices than nodes were there at the same time.
   */
  readonly nodes: readonly {
    readonly name: string;
    readonly connected: boolean;
    readonly usedBlocks: number;
    readonly cachedBlocks: number;
    readonly blocks: number;
  }[];
}

export interface EngineApi {
  readonly config: ModelConfig;
  /**
   * Longest prompt plus generated tokens that a request may have here: the model's context, or what all nodes' KV memory together can
   * hold of one sequence, where no node may join.
   */
  readonly contextTokens: number;
  /**
   * Runs requests, pulling them as there is room, and yields what happens, in order for each request. Ends when all have
   * finished or failed. Breaking out of the loop, or the signal, drops what is under way.
   * @throws NodeLostError when no attention node is left (and none is waited for), DeviceError, AbortedError
   */
  generate(
    requests: Iterable<GenerationRequest> | AsyncIterable<GenerationRequest>,
    options?: { readonly signal?: AbortSignal },
  ): AsyncIterable<GenerationEvent>;
  stats(): EngineStats;
  /** Who holds KV now. */
  residents(): readonly ResidentReport[];
  /**
   * Adds an attention node to a running engine. A source that is `once` is forgotten when its node is lost; others are tried again.
   * @returns its index in EngineStats.nodes, once it is connected
   * @throws ProtocolError, NodeLostError, AbortedError
   */
  attach(source: AttentionSource): Promise<number>;
  /** Frees every slot and micro-batch, closes attention connections; the dense backend stays its owner's. */
  close(): Promise<void>;
}
