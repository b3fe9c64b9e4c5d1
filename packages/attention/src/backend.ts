/**
 * The attention tier as the engine sees it: a paged KV cache and the attention over it, in this thread, in a pool of workers,
 * or on another machine; the engine can't tell which. A backend has shards (memories; all workers work on all of them); the
 * engine decides which shard holds a slot and counts its blocks by the rule of kv-blocks.ts, the backend checks. Writing KV at
 * a position again overwrites it, so that a step that failed half-way may simply be run again.
 */
import type { AttentionGeometry, KvDtype, NodeLostError, RowDtype } from '@glinthawk/core';

/** A sequence's place. `generation` grows each time `index` is used again; what is late for an old generation is dropped. */
export interface Slot {
  readonly index: number;
  readonly generation: number;
}

export interface ShardCapacity {
  /** KV blocks in all. A block holds `blockTokens` tokens of one slot, in all KV heads of one layer group (kv-blocks.ts). */
  readonly blocks: number;
}

export interface AttentionCapacity {
  readonly blockTokens: number;
  readonly blockBytes: number;
  readonly shards: readonly ShardCapacity[];
  /** Threads that kernels run on. */
  readonly workers: number;
}

/** What may be under way at a backend at the same time. */
export interface AttentionLimits {
  /** Rows of one step. */
  readonly maxStepRows: number;
  /** Slot indices are below it. */
  readonly maxSlots: number;
  /** Announced and not retired. */
  readonly maxSteps: number;
}

/**
 * A run of rows of one slot: `count` new tokens at `position`, `position + 1`, … Decode has count 1, a prefill chunk more. A slot
 * is in one announced step at a time. What falls out of every window of the row at `position` is given back when it is announced.
 */
export interface StepEntry {
  readonly slot: Slot;
  readonly position: number;
  readonly count: number;
  /**
   * The slot holds an earlier part of the rows' context, and they come to look: each sees all of its tokens (within the layer's
   * window), nothing of theirs is stored. `position` counts from the slot's first token, and is at or beyond its last.
   */
  readonly visit?: boolean;
}

/** Rows of one micro-batch, in the order in which they lie in qkv; entries of one shard are neighbours. */
export interface AttentionStep {
  readonly id: number;
  readonly entries: readonly StepEntry[];
}

export interface AttentionStats {
  readonly usedBlocks: number;
  readonly openSlots: number;
  /** Time in which kernels ran, summed over workers. */
  readonly busyMs: number;
  /** Bytes of keys and values that attention read. */
  readonly kvBytesRead: number;
  /** Tokens stored, and tokens that forks took over from another slot instead. */
  readonly appendedTokens: number;
  readonly forkedTokens: number;
  /** Bytes sent to and received from a remote node; 0 when local. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
  /** Latest measured round trip to a remote node; 0 when local. */
  readonly roundTripMs: number;
}

export interface AttentionBackend {
  /** For people and metrics: `local`, `tcp://host:port`. */
  readonly name: string;
  readonly geometry: AttentionGeometry;
  readonly kvDtype: KvDtype;
  readonly capacity: AttentionCapacity;
  /** Absent where only memory is a limit. */
  readonly limits?: AttentionLimits;
  /** Resolves when the backend is gone (connection lost, worker died) other than by close(); never rejects. */
  readonly lost: Promise<NodeLostError>;
  /** Why the node said that it will leave: nothing new should begin there. Absent as long as it stays. */
  readonly draining?: string | undefined;

  /** Makes an empty slot on a shard. Ordered before any later step that names it. @throws CapacityError, InputError */
  open(slot: Slot, shard: number): void;
  /**
   * Makes a slot, on its parent's shard, that begins with the parent's first `tokens` tokens. Whole blocks are shared and never
   * written again; of a block that is not full it gets a copy. The parent holds them still: every block in heldBlocks of (position
   * `tokens`, `tokens`).
   * @throws CapacityError, InputError
   */
  fork(slot: Slot, parent: Slot, tokens: number): void;
  /** Gives its blocks back, in order after steps already begun; shared ones when nobody else has them. Unknown slots are ignored. */
  free(slot: Slot): void;
  /** Announces a step once; its layers then refer to it by id. */
  announce(step: AttentionStep): void;
  /**
   * Appends k and v of one layer for every row of the step, then attends: row i sees its slot's tokens up to its own position
   * (within the layer's window). May be called for different steps at once, for one step's layers in order.
   * @param qkv [rows, (groupSize + 2) kvHeads headDim], read until the promise settles
   * @param output [rows, groupSize kvHeads headDim], written before the promise resolves; zeros where a row saw nothing
   * @param logSumExp [rows, groupSize kvHeads], ln Σ exp(score), by which partial results over different parts of one context can be
   *   merged; -Infinity where a row saw nothing
   * @throws NodeLostError, CapacityError
   */
  attend(
    stepId: number,
    layer: number,
    qkv: Float32Array,
    output: Float32Array,
    logSumExp?: Float32Array,
  ): Promise<void>;
  /** Forgets an announced step, whether or not all of its layers were run. */
  retire(stepId: number): void;
  stats(): AttentionStats;
  /** Bytes of WASM memories and buffers held now; 0 after close. */
  allocatedBytes(): number;
  close(): Promise<void>;
}

/** Memory of a backend in which one step's rows lie, in the order of its entries; views to be asked for anew before each use. */
export interface StagedRows {
  /** Pieces that follow one another: rows of q, k and v as core's rows.ts says. */
  readonly qkv: readonly Uint8Array[];
  readonly output: readonly Uint8Array[];
}

/**
 * A backend whose memory takes rows as they come from a socket and gives them as they go there, in `rowDtype`; kernels convert.
 * What a node serves. attend() does the same for rows that lie elsewhere, where `rowDtype` is f32.
 */
export interface StagedAttention extends AttentionBackend {
  readonly rowDtype: RowDtype;
  /** @throws the step's failure, where announcing it failed */
  staged(stepId: number): StagedRows;
  /** As attend, on the step's staged rows. */
  attendStaged(stepId: number, layer: number, logSumExp?: Float32Array): Promise<void>;
}

/** Something that a backend can be had from, again after it was lost. */
export interface AttentionSource {
  readonly name: string;
  /** It gives one backend and can't be asked again: a tab that joined, a socket that was accepted. */
  readonly once?: boolean;
  /** @throws NodeLostError when it can't be reached, ProtocolError when it refuses. */
  connect(
    geometry: AttentionGeometry,
    options: { readonly kvDtype: KvDtype; readonly fingerprint: string; readonly signal?: AbortSignal },
  ): Promise<AttentionBackend>;
}
