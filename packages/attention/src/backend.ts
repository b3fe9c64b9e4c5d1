/**
 * The attention tier as the engine sees it: a paged KV cache and the attention over it, in this thread, in a pool of workers,
 * or on another machine; the engine can't tell which. A backend has shards (a worker's memory each); the engine decides which
 * shard holds a slot and counts its blocks, the backend checks. Writing KV at a position again overwrites it, so that a step
 * that failed half-way may simply be run again.
 */
import type { AttentionGeometry, KvDtype, NodeLostError } from '@glinthawk/core';

/** A sequence's place. `generation` grows each time `index` is used again; what is late for an old generation is dropped. */
export interface Slot {
  readonly index: number;
  readonly generation: number;
}

export interface ShardCapacity {
  /** KV blocks in all. A block holds `blockTokens` tokens of one slot, in all layers and KV heads. */
  readonly blocks: number;
}

export interface AttentionCapacity {
  readonly blockTokens: number;
  readonly blockBytes: number;
  readonly shards: readonly ShardCapacity[];
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

/** A run of rows of one slot: `count` new tokens at `position`, `position + 1`, … Decode has count 1, a prefill chunk more. */
export interface StepEntry {
  readonly slot: Slot;
  readonly position: number;
  readonly count: number;
}

/** Rows of one micro-batch, in the order in which they lie in qkv; entries of one shard are neighbours. */
export interface AttentionStep {
  readonly id: number;
  readonly entries: readonly StepEntry[];
}

export interface AttentionStats {
  readonly usedBlocks: number;
  readonly openSlots: number;
  /** Time in which kernels ran, summed over shards. */
  readonly busyMs: number;
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

  /** Makes an empty slot on a shard. Ordered before any later step that names it. @throws CapacityError, InputError */
  open(slot: Slot, shard: number): void;
  /** Gives its blocks back, in order after steps already begun. Unknown slots are ignored. */
  free(slot: Slot): void;
  /** Announces a step once; its layers then refer to it by id. */
  announce(step: AttentionStep): void;
  /**
   * Appends k and v of one layer for every row of the step, then attends: row i sees its slot's tokens up to its own position
   * (within the layer's window). May be called for different steps at once, for one step's layers in order.
   * @param qkv [rows, (groupSize + 2) kvHeads headDim], read until the promise settles
   * @param output [rows, groupSize kvHeads headDim], written before the promise resolves
   * @throws NodeLostError, CapacityError
   */
  attend(stepId: number, layer: number, qkv: Float32Array, output: Float32Array): Promise<void>;
  /** Forgets an announced step, whether or not all of its layers were run. */
  retire(stepId: number): void;
  stats(): AttentionStats;
  /** Bytes of WASM memories and buffers held now; 0 after close. */
  allocatedBytes(): number;
  close(): Promise<void>;
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
