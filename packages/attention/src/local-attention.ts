/**
 * An AttentionBackend over shards in this process: slots and their block tables, steps and their staging buffers. All
 * bookkeeping is here, in the calling thread, so open, free and announce take effect at once; kernels run wherever the
 * shards' runners are. A shard runs attends in order, so blocks of a freed slot may be given away immediately.
 */
import {
  type AttentionGeometry,
  type GlinthawkError,
  InputError,
  type KvDtype,
  NodeLostError,
  outputRowFloats,
  qkvRowFloats,
} from '@glinthawk/core';
import type {
  AttentionBackend,
  AttentionCapacity,
  AttentionLimits,
  AttentionStats,
  AttentionStep,
  Slot,
  StepEntry,
} from './backend.ts';
import type { PageLayout } from './page-layout.ts';
import {
  markEntryDead,
  type Shard,
  STAGING_SLACK_BYTES,
  type StagingLayout,
  stagingLayout,
  stagingRowBytes,
  writeStep,
} from './shard.ts';
import { RING_COMMANDS } from './shard-worker.ts';
import { type HeapBytes, roundUp, TABLE_BYTES } from './wasm-heap.ts';

/** Of TABLE_BYTES, more than the Config of any model takes. */
const CONFIG_ROOM_BYTES = 1 << 20;

interface SlotState {
  readonly slot: Slot;
  readonly shard: Shard;
  /** Address of the slot's block table in its shard's memory. u32 [blocks of the longest context] */
  readonly blockTable: number;
  readonly blocks: number[]; // addresses
  /** Tokens announced so far: a step may begin at any position up to here. */
  tokens: number;
}

/** The neighbouring entries of a step that are in one shard. */
interface StepPart {
  readonly shard: Shard;
  readonly entries: readonly (StepEntry & { readonly blockTable: number })[];
  readonly firstRow: number;
  readonly rows: number;
  readonly staging: number; // address; that of the descriptor too
  readonly layout: StagingLayout;
}

interface AnnouncedStep {
  readonly rows: number;
  readonly parts: readonly StepPart[];
  /** Why its attends fail; null when it is good. */
  readonly failure: GlinthawkError | null;
  running: boolean;
  retired: boolean;
}

export interface LocalAttentionParts {
  readonly name: string;
  readonly geometry: AttentionGeometry;
  readonly kvDtype: KvDtype;
  readonly layout: PageLayout;
  readonly heapBytes: HeapBytes;
  readonly shards: readonly Shard[];
  readonly lost: Promise<NodeLostError>;
}

export class LocalAttention implements AttentionBackend {
  readonly name: string;
  readonly geometry: AttentionGeometry;
  readonly kvDtype: KvDtype;
  readonly capacity: AttentionCapacity;
  readonly limits: AttentionLimits;
  readonly lost: Promise<NodeLostError>;
  readonly #layout: PageLayout;
  readonly #shards: readonly Shard[];
  readonly #tableBytes: number;
  readonly #qkvFloats: number;
  readonly #outputFloats: number;
  readonly #heads: number;
  readonly #slots = new Map<number, SlotState>(); // by slot index
  readonly #generations = new Map<number, number>(); // latest of each slot index
  readonly #steps = new Map<number, AnnouncedStep>();
  #closing: Promise<void> | null = null;

  constructor({ name, geometry, kvDtype, layout, heapBytes, shards, lost }: LocalAttentionParts) {
    this.name = name;
    this.geometry = geometry;
    this.kvDtype = kvDtype;
    this.lost = lost;
    this.#layout = layout;
    this.#shards = shards;
    this.#tableBytes = 4 * Math.ceil(geometry.maxContextTokens / layout.blockTokens);
    this.#qkvFloats = qkvRowFloats(geometry);
    this.#outputFloats = outputRowFloats(geometry);
    this.#heads = geometry.groupSize * geometry.kvHeads;
    this.capacity = {
      blockTokens: layout.blockTokens,
      blockBytes: layout.blockBytes,
      shards: shards.map(({ blocks }) => ({ blocks })),
      workers: shards.length,
    };
    this.limits = {
      maxStepRows: Math.floor((heapBytes.staging - STAGING_SLACK_BYTES) / stagingRowBytes(geometry)),
      maxSlots: Math.floor((TABLE_BYTES - CONFIG_ROOM_BYTES) / roundUp(this.#tableBytes)), // were they all in one shard
      maxSteps: RING_COMMANDS,
    };
  }

  open(slot: Slot, shardIndex: number): void {
    this.#requireOpen();
    const { index, generation } = slot;
    if (!Number.isSafeInteger(index) || index < 0 || !Number.isSafeInteger(generation) || generation < 0) {
      throw new InputError('ATTENTION_SLOT', `a slot has a whole index and generation, found ${index}, ${generation}`);
    }
    const shard = this.#shards[shardIndex];
    if (shard === undefined) {
      throw new InputError('ATTENTION_SLOT', `shard ${shardIndex} doesn't exist: there are ${this.#shards.length}`);
    }
    if (this.#slots.has(index)) throw new InputError('ATTENTION_SLOT', `slot ${index} is open already: free it first`);
    const latest = this.#generations.get(index) ?? -1;
    if (generation <= latest) {
      throw new InputError(
        'ATTENTION_SLOT',
        `slot ${index} was used with generation ${latest}: the next must be higher, found ${generation}`,
      );
    }
    const blockTable = shard.heap.allocate(this.#tableBytes);
    this.#generations.set(index, generation);
    this.#slots.set(index, { slot: { index, generation }, shard, blockTable, blocks: [], tokens: 0 });
  }

  fork(slot: Slot, _parent: Slot, _tokens: number): void {
    throw new InputError('ATTENTION_SLOT', `slot ${slot.index}: forks are being built`);
  }

  free(slot: Slot): void {
    const state = this.#slots.get(slot.index);
    if (state === undefined || state.slot.generation !== slot.generation) return;
    this.#slots.delete(slot.index);
    for (const { parts } of this.#steps.values()) {
      for (const { shard, entries, staging } of parts) {
        if (shard !== state.shard) continue;
        for (let i = 0; i < entries.length; i++) {
          if (entries[i]?.blockTable === state.blockTable) markEntryDead(shard.heap, staging, i);
        }
      }
    }
    for (const block of state.blocks) state.shard.giveBack(block);
    state.shard.heap.release(state.blockTable, this.#tableBytes);
  }

  announce(step: AttentionStep): void {
    this.#requireOpen();
    if (this.#steps.has(step.id)) throw new InputError('ATTENTION_STEP', `step ${step.id} is announced already`);
    const undo: (() => void)[] = [];
    let rows = 0;
    let parts: readonly StepPart[] = [];
    let failure: GlinthawkError | null = null;
    try {
      for (const entry of step.entries) {
        this.#grow(this.#validEntry(entry), entry, undo);
        rows += entry.count;
      }
      parts = this.#place(step.entries, undo);
    } catch (error) {
      // A node elsewhere couldn't throw from here either: the step's attends fail instead.
      for (const revert of undo.reverse()) revert();
      if (!(error instanceof Error && 'code' in error)) throw error;
      failure = error as GlinthawkError;
    }
    this.#steps.set(step.id, { rows, parts, failure, running: false, retired: false });
  }

  async attend(
    stepId: number,
    layer: number,
    qkv: Float32Array,
    output: Float32Array,
    logSumExp: Float32Array | null = null,
  ): Promise<void> {
    this.#requireOpen();
    const step = this.#steps.get(stepId);
    if (step === undefined) throw new InputError('ATTENTION_STEP', `step ${stepId} isn't announced`);
    if (step.failure !== null) throw step.failure;
    if (step.running) throw new InputError('ATTENTION_STEP', `step ${stepId} has a layer under way: await it first`);
    if (!Number.isInteger(layer) || layer < 0 || layer >= this.geometry.layers) {
      throw new InputError('ATTENTION_STEP', `layer ${layer} doesn't exist: there are ${this.geometry.layers}`);
    }
    requireFloats('qkv', qkv, step.rows * this.#qkvFloats);
    requireFloats('output', output, step.rows * this.#outputFloats);
    if (logSumExp !== null) requireFloats('logSumExp', logSumExp, step.rows * this.#heads);
    step.running = true;
    try {
      const [first] = step.parts;
      if (first !== undefined && step.parts.length === 1) await this.#attendPart(first, layer, qkv, output, logSumExp);
      else await allSettled(step.parts.map((part) => this.#attendPart(part, layer, qkv, output, logSumExp)));
    } finally {
      step.running = false;
      if (step.retired) this.#release(step);
    }
  }

  retire(stepId: number): void {
    const step = this.#steps.get(stepId);
    if (step === undefined) return;
    this.#steps.delete(stepId);
    step.retired = true;
    if (!step.running) this.#release(step);
  }

  stats(): AttentionStats {
    let usedBlocks = 0;
    let busyMs = 0;
    for (const shard of this.#shards) {
      usedBlocks += shard.usedBlocks;
      busyMs += shard.runner.busyMs;
    }
    const none = { bytesSent: 0, bytesReceived: 0, roundTripMs: 0, kvBytesRead: 0, appendedTokens: 0, forkedTokens: 0 };
    return { usedBlocks, openSlots: this.#slots.size, busyMs, ...none };
  }

  allocatedBytes(): number {
    if (this.#closing !== null) return 0;
    return this.#shards.reduce((bytes, { heap }) => bytes + heap.touchedBytes, 0);
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    for (const { slot } of [...this.#slots.values()]) this.free(slot);
    for (const id of [...this.#steps.keys()]) this.retire(id);
    const error = new NodeLostError(this.name, `${this.name} was closed while an attend was under way`);
    await Promise.all(this.#shards.map(({ runner }) => runner.close(error)));
  }

  #requireOpen(): void {
    if (this.#closing !== null) throw new NodeLostError(this.name, `${this.name} is closed`);
  }

  #validEntry({ slot, position, count }: StepEntry): SlotState {
    const state = this.#slots.get(slot.index);
    if (state === undefined || state.slot.generation !== slot.generation) {
      const found = state === undefined ? 'it is not open' : `generation ${state.slot.generation} is open`;
      throw new InputError('ATTENTION_SLOT', `slot ${slot.index}, generation ${slot.generation}: ${found}`);
    }
    if (!Number.isInteger(position) || position < 0 || !Number.isInteger(count) || count < 1) {
      throw new InputError(
        'ATTENTION_STEP',
        `slot ${slot.index}: ${count} tokens at position ${position} is no run of rows`,
      );
    }
    if (position > state.tokens) {
      throw new InputError(
        'ATTENTION_GAP',
        `slot ${slot.index} holds ${state.tokens} tokens: the next position is ${state.tokens}, found ${position}`,
      );
    }
    if (position + count > this.geometry.maxContextTokens) {
      throw new InputError(
        'ATTENTION_CONTEXT',
        `slot ${slot.index} would hold ${position + count} tokens: the longest context is ${this.geometry.maxContextTokens}`,
      );
    }
    return state;
  }

  /** Takes the blocks that the entry grows into. */
  #grow(state: SlotState, { position, count }: StepEntry, undo: (() => void)[]): void {
    const { shard, blocks, blockTable, tokens } = state;
    const end = position + count;
    while (blocks.length * this.#layout.blockTokens < end) {
      const block = shard.takeBlock();
      shard.heap.u32[blockTable / 4 + blocks.length] = block;
      blocks.push(block);
      undo.push(() => {
        blocks.pop();
        shard.giveBack(block);
      });
    }
    if (end > tokens) {
      state.tokens = end;
      undo.push(() => {
        state.tokens = tokens;
      });
    }
  }

  /** Splits entries by shard and gives each part its staging. */
  #place(entries: readonly StepEntry[], undo: (() => void)[]): StepPart[] {
    const parts: StepPart[] = [];
    let row = 0;
    for (let from = 0; from < entries.length; ) {
      const shard = this.#slotOf(entries[from]).shard;
      const own: (StepEntry & { readonly blockTable: number })[] = [];
      let rows = 0;
      for (let i = from; i < entries.length; i++) {
        const entry = entries[i] as StepEntry;
        const state = this.#slotOf(entry);
        if (state.shard !== shard) break;
        own.push({ ...entry, blockTable: state.blockTable });
        rows += entry.count;
      }
      const layout = stagingLayout(this.geometry, own.length, rows);
      const staging = shard.heap.stage(layout.bytes);
      undo.push(() => shard.heap.unstage(staging, layout.bytes));
      writeStep(shard.heap, staging, own);
      parts.push({ shard, entries: own, firstRow: row, rows, staging, layout });
      row += rows;
      from += own.length;
    }
    return parts;
  }

  #slotOf(entry: StepEntry | undefined): SlotState {
    return this.#slots.get(entry?.slot.index ?? -1) as SlotState; // validated before
  }

  #release(step: AnnouncedStep): void {
    for (const { shard, staging, layout } of step.parts) shard.heap.unstage(staging, layout.bytes);
  }

  async #attendPart(
    part: StepPart,
    layer: number,
    qkv: Float32Array,
    output: Float32Array,
    logSumExp: Float32Array | null,
  ): Promise<void> {
    const { shard, firstRow, rows, staging, layout } = part;
    const totals = staging + layout.totals;
    const wide = this.#qkvFloats;
    const narrow = this.#outputFloats;
    shard.heap.f32.set(qkv.subarray(firstRow * wide, (firstRow + rows) * wide), (staging + layout.qkv) / 4);
    await shard.runner.attend(
      staging,
      layer,
      staging + layout.qkv,
      staging + layout.output,
      logSumExp === null ? 0 : totals,
    );
    const { f32 } = shard.heap;
    const from = (staging + layout.output) / 4;
    output.set(f32.subarray(from, from + rows * narrow), firstRow * narrow);
    if (logSumExp === null) return;
    for (let i = 0, at = totals / 4; i < rows * this.#heads; i++, at += 2) {
      const largest = f32[at] as number;
      const sum = f32[at + 1] as number;
      logSumExp[firstRow * this.#heads + i] = (largest + Math.log2(sum)) * Math.LN2;
    }
  }
}

function requireFloats(name: string, array: Float32Array, floats: number): void {
  if (array.length < floats) {
    throw new InputError('ATTENTION_STEP', `${name} must hold ${floats} floats for this step, found ${array.length}`);
  }
}

/** As Promise.all, but fails only when all have ended: until then buffers are in use. */
async function allSettled(promises: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(promises)) if (result.status === 'rejected') throw result.reason;
}
