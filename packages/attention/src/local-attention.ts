/**
 * An AttentionBackend over memories of this process: slots, steps and their staging. All bookkeeping is here, in the calling
 * thread, so open, fork, free and announce take effect at once; kernels run wherever the runner has them, several attends at a
 * time. What an attend under way may touch is left alone until it settles; whoever gets such a block waits for that.
 */
import {
  type AttentionGeometry,
  CapacityError,
  GlinthawkError,
  InputError,
  type KvDtype,
  NodeLostError,
  outputRowBytes,
  qkvRowBytes,
  type RowDtype,
} from '@glinthawk/core';
import { type AnnouncedStep, newStep, type StepPart, stageParts, tokensRead, unstage } from './announced-step.ts';
import type {
  AttentionCapacity,
  AttentionLimits,
  AttentionStats,
  AttentionStep,
  Slot,
  StagedAttention,
  StagedRows,
  StepEntry,
} from './backend.ts';
import { allOf } from './block-pool.ts';
import type { KernelRunner } from './kernel-runner.ts';
import { type LayerGroup, layerGroups } from './kv-blocks.ts';
import { kvRowBytes } from './kv-token-bytes.ts';
import { copyBlock, swapBlocks } from './page-layout.ts';
import type { ShardPlan } from './plan-shards.ts';
import type { Shard } from './shard.ts';
import { SlotBlocks, type SlotShape } from './slot-blocks.ts';
import { busyWith, requireEntry, requireForkable, type SlotState, writesBelow } from './slot-state.ts';
import { attendStep, markEntryDead, stagingRowBytes, stepSlackBytes, wantLogSumExp, writeStep } from './step-layout.ts';

/** Announced and not retired, or still running. */
const MAX_STEPS = 256;
/** Moved at most when a step is announced, so that others in flight hardly wait for it: some 10 ms. At least a run is. */
const GATHER_BYTES = 64 << 20;

export interface LocalAttentionParts {
  readonly name: string;
  readonly geometry: AttentionGeometry;
  readonly kvDtype: KvDtype;
  readonly rowDtype: RowDtype;
  readonly plan: ShardPlan;
  readonly shards: readonly Shard[];
  /** On the shards' memories, in their order. */
  readonly runner: KernelRunner;
  readonly lost: Promise<NodeLostError>;
}

export class LocalAttention implements StagedAttention {
  readonly name: string;
  readonly geometry: AttentionGeometry;
  readonly kvDtype: KvDtype;
  readonly rowDtype: RowDtype;
  readonly capacity: AttentionCapacity;
  readonly limits: AttentionLimits;
  readonly lost: Promise<NodeLostError>;
  readonly #plan: ShardPlan;
  readonly #shards: readonly Shard[];
  readonly #runner: KernelRunner;
  readonly #shape: SlotShape;
  readonly #groupOfLayer: readonly number[];
  readonly #heads: number;
  readonly #slots = new Map<number, SlotState>(); // by slot index
  readonly #stateOf = new WeakMap<SlotBlocks, SlotState>();
  readonly #generations = new Map<number, number>(); // latest of each slot index
  readonly #steps = new Map<number, AnnouncedStep>();
  #kvBytesRead = 0;
  #appendedTokens = 0;
  #forkedTokens = 0;
  #closing: Promise<void> | null = null;

  constructor({ name, geometry, kvDtype, rowDtype, plan, shards, runner, lost }: LocalAttentionParts) {
    const { layout, heap, tableBlocks, maxSlots } = plan;
    this.name = name;
    this.geometry = geometry;
    this.kvDtype = kvDtype;
    this.rowDtype = rowDtype;
    this.lost = lost;
    this.#plan = plan;
    this.#shards = shards;
    this.#runner = runner;
    const groups = layerGroups(geometry);
    this.#shape = { groups, blockTokens: layout.blockTokens, tableBlocks };
    this.#groupOfLayer = groupOfLayer(geometry.layers, groups);
    this.#heads = geometry.groupSize * geometry.kvHeads;
    this.capacity = {
      blockTokens: layout.blockTokens,
      blockBytes: layout.blockBytes,
      shards: shards.map(({ pool }) => ({ blocks: pool.blocks })),
      workers: runner.workers,
    };
    const rowBytes = stagingRowBytes(geometry, rowDtype);
    this.limits = {
      maxStepRows: Math.floor((heap.stagingBytes - stepSlackBytes(geometry, runner.workers)) / rowBytes),
      maxSlots, // were they all in one shard
      maxSteps: MAX_STEPS,
    };
  }

  open(slot: Slot, shardIndex: number): void {
    this.#requireOpen();
    this.#requireNew(slot);
    const shard = this.#shards[shardIndex];
    if (shard === undefined) {
      throw new InputError('ATTENTION_SLOT', `shard ${shardIndex} doesn't exist: there are ${this.#shards.length}`);
    }
    this.#add(slot, shard, new SlotBlocks(shard, this.#shape));
  }

  fork(slot: Slot, parent: Slot, tokens: number): void {
    this.#requireOpen();
    this.#requireNew(slot);
    const from = this.#slot(parent);
    requireForkable(from, tokens, this.geometry.layers);
    const { shard, blocks } = from;
    const missing = blocks.missingForFork(tokens);
    requireFree(shard, missing);
    // A step that only appends behind `tokens` changes nothing that is copied.
    const waits = new Set(writesBelow(from, tokens) ? busyWith(from) : from.copies);
    const fork = blocks.fork(tokens, waits);
    const child = this.#add(slot, shard, fork.blocks);
    this.#forkedTokens += tokens;
    const { layout } = this.#plan;
    const copy = () => {
      for (const { source, target } of fork.copies) copyBlock(shard.heap.u8, layout, source, target);
    };
    if (waits.size === 0) {
      copy();
      return;
    }
    const copied = Promise.all(waits).then(copy);
    for (const { copies } of [from, child]) {
      copies.add(copied);
      copied.then(() => copies.delete(copied));
    }
  }

  free(slot: Slot): void {
    const state = this.#slots.get(slot.index);
    if (state === undefined || state.slot.generation !== slot.generation) return;
    this.#slots.delete(slot.index);
    const { blocks, place } = state;
    if (place !== null) {
      const { step, part, entry } = place;
      // Flags don't change under a running kernel; one that is retired has no layer after this one.
      if (step.running) step.dying.push(place);
      else if (!step.retired) markEntryDead(part.shard.heap, part.staging, part.layout, entry);
    }
    blocks.release(allOf(busyWith(state)));
  }

  announce(step: AttentionStep): void {
    this.#requireOpen();
    const { id } = step;
    if (this.#steps.has(id)) throw new InputError('ATTENTION_STEP', `step ${id} is announced already`);
    try {
      this.#steps.set(id, this.#announce(step));
    } catch (error) {
      // A node elsewhere couldn't throw from here either: the step's attends fail instead.
      if (!(error instanceof GlinthawkError)) throw error;
      this.#steps.set(id, newStep({ id, rows: 0, parts: [], failure: error, readBytes: [], appendedTokens: 0 }));
    }
  }

  async attend(
    stepId: number,
    layer: number,
    qkv: Float32Array,
    output: Float32Array,
    logSumExp?: Float32Array,
  ): Promise<void> {
    const step = this.#runnable(stepId, layer);
    const { rowDtype, geometry } = this;
    if (rowDtype !== 'f32') {
      throw new InputError('ROW_DTYPE', `attend takes f32 rows; this backend has ${rowDtype}: use attendStaged`);
    }
    const qkvFloats = qkvRowBytes(geometry, 'f32') / 4;
    const outputFloats = outputRowBytes(geometry, 'f32') / 4;
    requireFloats('qkv', qkv, step.rows * qkvFloats);
    requireFloats('output', output, step.rows * outputFloats);
    if (logSumExp !== undefined) requireFloats('logSumExp', logSumExp, step.rows * this.#heads);
    for (const { shard, firstRow, rows, staging, layout } of step.parts) {
      const own = qkv.subarray(firstRow * qkvFloats, (firstRow + rows) * qkvFloats);
      shard.heap.f32.set(own, (staging + layout.qkv) / 4);
    }
    await this.#run(step, layer, logSumExp, ({ shard, firstRow, rows, staging, layout }) => {
      const at = (staging + layout.output) / 4;
      output.set(shard.heap.f32.subarray(at, at + rows * outputFloats), firstRow * outputFloats);
    });
  }

  staged(stepId: number): StagedRows {
    const step = this.#announced(stepId);
    const views = (part: 'qkv' | 'output', rowBytes: number) =>
      step.parts.map(({ shard, rows, staging, layout }) => {
        const at = staging + layout[part];
        return shard.heap.u8.subarray(at, at + rows * rowBytes);
      });
    const { geometry, rowDtype } = this;
    return {
      qkv: views('qkv', qkvRowBytes(geometry, rowDtype)),
      output: views('output', outputRowBytes(geometry, rowDtype)),
    };
  }

  async attendStaged(stepId: number, layer: number, logSumExp?: Float32Array): Promise<void> {
    const step = this.#runnable(stepId, layer);
    if (logSumExp !== undefined) requireFloats('logSumExp', logSumExp, step.rows * this.#heads);
    await this.#run(step, layer, logSumExp, () => {});
  }

  retire(stepId: number): void {
    const step = this.#steps.get(stepId);
    if (step === undefined) return;
    this.#steps.delete(stepId);
    step.retired = true;
    if (!step.running) unstage(step.parts);
  }

  stats(): AttentionStats {
    return {
      usedBlocks: this.#shards.reduce((used, { pool }) => used + pool.used, 0),
      openSlots: this.#slots.size,
      busyMs: this.#runner.busyMs,
      kvBytesRead: this.#kvBytesRead,
      appendedTokens: this.#appendedTokens,
      forkedTokens: this.#forkedTokens,
      bytesSent: 0,
      bytesReceived: 0,
      roundTripMs: 0,
    };
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
    await this.#runner.close(new NodeLostError(this.name, `${this.name} was closed while an attend was under way`));
  }

  #requireOpen(): void {
    if (this.#closing !== null) throw new NodeLostError(this.name, `${this.name} is closed`);
  }

  #requireNew({ index, generation }: Slot): void {
    if (!Number.isSafeInteger(index) || index < 0 || !Number.isSafeInteger(generation) || generation < 0) {
      throw new InputError('ATTENTION_SLOT', `a slot has a whole index and generation, found ${index}, ${generation}`);
    }
    if (this.#slots.has(index)) throw new InputError('ATTENTION_SLOT', `slot ${index} is open already: free it first`);
    const latest = this.#generations.get(index) ?? -1;
    if (generation <= latest) {
      throw new InputError(
        'ATTENTION_SLOT',
        `slot ${index} was used with generation ${latest}: the next must be higher, found ${generation}`,
      );
    }
  }

  #add({ index, generation }: Slot, shard: Shard, blocks: SlotBlocks): SlotState {
    const state = { slot: { index, generation }, shard, blocks, place: null, copies: new Set<Promise<void>>() };
    this.#generations.set(index, generation);
    this.#slots.set(index, state);
    this.#stateOf.set(blocks, state);
    return state;
  }

  #slot(slot: Slot): SlotState {
    const state = this.#slots.get(slot.index);
    if (state === undefined || state.slot.generation !== slot.generation) {
      const found = state === undefined ? 'it is not open' : `generation ${state.slot.generation} is open`;
      throw new InputError('ATTENTION_SLOT', `slot ${slot.index}, generation ${slot.generation}: ${found}`);
    }
    return state;
  }

  /** @throws GlinthawkError, with no block taken */
  #announce({ id, entries }: AttentionStep): AnnouncedStep {
    const states = new Set<SlotState>();
    for (const entry of entries) {
      const state = this.#slot(entry.slot);
      if (states.has(state)) {
        throw new InputError('ATTENTION_STEP', `slot ${entry.slot.index} is in this step already: it has one entry`);
      }
      requireEntry(state, entry, this.geometry.maxContextTokens);
      states.add(state);
    }
    const config = { geometry: this.geometry, rowDtype: this.rowDtype, layout: this.#plan.layout };
    const parts = stageParts(config, this.#runner.workers, entries, [...states]);
    try {
      return this.#fill(id, [...states], entries, parts);
    } catch (error) {
      unstage(parts);
      throw error;
    }
  }

  /** Gives back what no row sees any more, takes what the rows need, and tells the kernels. @throws CapacityError, with no block taken */
  #fill(
    id: number,
    states: readonly SlotState[],
    entries: readonly StepEntry[],
    parts: readonly StepPart[],
  ): AnnouncedStep {
    const waits = new Set<Promise<void>>();
    const needed = new Map<Shard, number>();
    const before = states.map(({ blocks }) => blocks.tokens);
    let appendedTokens = 0;
    for (const [i, state] of states.entries()) {
      const { position, count, visit = false } = entries[i] as StepEntry;
      const busy = busyWith(state);
      for (const one of busy) waits.add(one);
      state.blocks.slide(position, allOf(busy));
      if (visit) continue;
      needed.set(state.shard, (needed.get(state.shard) ?? 0) + state.blocks.missing(position + count));
      appendedTokens += count;
    }
    for (const [shard, blocks] of needed) requireFree(shard, blocks);
    try {
      for (const [i, { blocks }] of states.entries()) {
        const { position, count, visit = false } = entries[i] as StepEntry;
        if (!visit) blocks.grow(position + count, waits);
      }
    } catch (error) {
      for (const [i, { blocks }] of states.entries()) blocks.shrink(before[i] as number, allOf(waits));
      throw error;
    }
    this.#gather(states, allOf(waits));
    const rows = parts.reduce((sum, part) => sum + part.rows, 0);
    const rowBytes = kvRowBytes(this.geometry, this.kvDtype, this.#plan.layout.paddedDim);
    const readBytes = this.#shape.groups.map(({ window }) => rowBytes * tokensRead(parts, window));
    const step = newStep({ id, rows, parts, failure: null, readBytes, appendedTokens, waits });
    let next = 0;
    for (const part of parts) {
      writeStep(part.shard.heap, part.staging, part.layout, part.entries);
      for (let entry = 0; entry < part.entries.length; entry++) {
        const state = states[next++] as SlotState;
        // Whoever announces a slot's next step is done with the last, though word of that may come later: a node learns that a
        // result has left after its engine has it.
        if (state.place !== null) state.place.step.supersededBy = id;
        state.place = { step, part, entry };
      }
    }
    return step;
  }

  /** What memory was too full to keep together is moved together where it can be. */
  #gather(states: readonly SlotState[], until: Promise<void> | null): void {
    const { layout } = this.#plan;
    let most = Math.max(layout.frameBlocks, Math.floor(GATHER_BYTES / layout.blockBytes));
    for (const state of states) {
      if (busyWith(state).length > 0) continue;
      const { heap } = state.shard;
      most -= state.blocks.gather(most, until, {
        copy: (source, target) => copyBlock(heap.u8, layout, heap.block(source), heap.block(target)),
        swap: (one, other) => swapBlocks(heap.u8, layout, heap.block(one), heap.block(other)),
        isIdle: (slot) => this.#isIdle(slot),
      });
    }
  }

  #isIdle(blocks: SlotBlocks): boolean {
    const state = this.#stateOf.get(blocks);
    return state !== undefined && busyWith(state).length === 0;
  }

  #announced(stepId: number): AnnouncedStep {
    this.#requireOpen();
    const step = this.#steps.get(stepId);
    if (step === undefined) throw new InputError('ATTENTION_STEP', `step ${stepId} isn't announced`);
    if (step.failure !== null) throw step.failure;
    return step;
  }

  #runnable(stepId: number, layer: number): AnnouncedStep {
    const step = this.#announced(stepId);
    if (step.running) throw new InputError('ATTENTION_STEP', `step ${stepId} has a layer under way: await it first`);
    if (step.supersededBy !== null) {
      throw new InputError('ATTENTION_STEP', `step ${stepId} is over: step ${step.supersededBy} has one of its slots`);
    }
    if (!Number.isInteger(layer) || layer < 0 || layer >= this.geometry.layers) {
      throw new InputError('ATTENTION_STEP', `layer ${layer} doesn't exist: there are ${this.geometry.layers}`);
    }
    return step;
  }

  async #run(
    step: AnnouncedStep,
    layer: number,
    logSumExp: Float32Array | undefined,
    take: (part: StepPart) => void,
  ): Promise<void> {
    step.running = true;
    try {
      if (step.waits.size > 0) {
        await Promise.all(step.waits);
        step.waits.clear();
        this.#requireOpen();
      }
      const run = async (part: StepPart) => {
        const { shard, staging, layout, firstRow, rows } = part;
        wantLogSumExp(shard.heap, staging, layout, logSumExp !== undefined);
        await attendStep(this.#runner, shard.index, staging, layout, layer);
        take(part);
        if (logSumExp === undefined) return;
        const at = (staging + layout.logSumExp) / 4;
        logSumExp.set(shard.heap.f32.subarray(at, at + rows * this.#heads), firstRow * this.#heads);
      };
      const [first] = step.parts;
      if (first !== undefined && step.parts.length === 1) await run(first);
      else await allSettled(step.parts.map(run));
      this.#kvBytesRead += step.readBytes[this.#groupOfLayer[layer] ?? 0] ?? 0;
      step.layersRun = Math.max(step.layersRun, layer + 1);
      if (layer === this.geometry.layers - 1) this.#appendedTokens += step.appendedTokens;
    } finally {
      step.running = false;
      for (const { part, entry } of step.dying.splice(0)) {
        markEntryDead(part.shard.heap, part.staging, part.layout, entry);
      }
      if (step.retired) unstage(step.parts);
      step.settled?.resolve();
      step.settled = null;
    }
  }
}

function groupOfLayer(layers: number, groups: readonly LayerGroup[]): number[] {
  return Array.from({ length: layers }, (_, layer) => groups.findIndex((group) => group.layers.includes(layer)));
}

function requireFree({ index, pool }: Shard, blocks: number): void {
  if (blocks <= pool.free) return;
  throw new CapacityError(
    'KV_CAPACITY',
    `shard ${index} has ${pool.blocks} KV blocks, of which ${pool.free} are free: ${blocks} are needed`,
    { hint: 'free a slot, or give the attention tier more memory' },
  );
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
