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
import { copyBlock } from './page-layout.ts';
import type { ShardPlan } from './plan-shards.ts';
import type { Shard } from './shard.ts';
import { SlotBlocks, type SlotShape } from './slot-blocks.ts';
import {
  attendStep,
  type KernelEntry,
  markEntryDead,
  type StepLayout,
  stageStep,
  stagingRowBytes,
  stepSlackBytes,
  wantLogSumExp,
  writeStep,
} from './step-layout.ts';

/** Announced and not retired, or still running. */
const MAX_STEPS = 256;

interface SlotState {
  readonly slot: Slot;
  readonly shard: Shard;
  readonly blocks: SlotBlocks;
  /** Where the latest step that names it has it. */
  place: { readonly step: AnnouncedStep; readonly part: StepPart; readonly entry: number } | null;
  /** Copies from or to its blocks that wait for what still writes there. */
  readonly copies: Set<Promise<void>>;
}

/** The neighbouring entries of a step that are in one shard. */
interface StepPart {
  readonly shard: Shard;
  readonly entries: readonly KernelEntry[];
  readonly firstRow: number;
  readonly rows: number;
  readonly staging: number; // address
  readonly layout: StepLayout;
}

interface AnnouncedStep {
  readonly id: number;
  readonly rows: number;
  readonly parts: readonly StepPart[];
  /** Why its attends fail; null when it is good. */
  readonly failure: GlinthawkError | null;
  /** What its first attend waits for. */
  readonly waits: Set<Promise<void>>;
  /** Bytes of KV that an attend of a layer of each group reads. */
  readonly readBytes: readonly number[];
  readonly appendedTokens: number;
  layersRun: number;
  running: boolean;
  retired: boolean;
  /** A later step that names one of its slots; after that it runs no layer. */
  supersededBy: number | null;
  /** Entries whose slots were freed while it ran. */
  readonly dying: { readonly part: StepPart; readonly entry: number }[];
  /** Settles with the attend under way; made when somebody asks. */
  settled: PromiseWithResolvers<void> | null;
}

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
    this.#requireStored(from, tokens);
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
    if (!step.running) unstage(step);
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

  /** @throws InputError unless the first `tokens` tokens may be forked */
  #requireStored(state: SlotState, tokens: number): void {
    const { slot, blocks, place } = state;
    const { index } = slot;
    if (!Number.isSafeInteger(tokens) || tokens < 0 || tokens > blocks.tokens) {
      throw new InputError('ATTENTION_FORK', `slot ${index} holds ${blocks.tokens} tokens: ${tokens} can't be forked`);
    }
    if (!blocks.holds(tokens, tokens)) {
      throw new InputError('ATTENTION_FORK', `slot ${index} gave back tokens that ${tokens} forked ones would see`);
    }
    if (place === null || place.step.retired || place.step.layersRun === this.geometry.layers) return;
    if (!writesBelow(state, tokens)) return;
    throw new InputError(
      'ATTENTION_FORK',
      `slot ${index}: step ${place.step.id} has yet to store some of ${tokens} tokens: fork them after its last layer`,
    );
  }

  /** @throws GlinthawkError, with no block taken */
  #announce({ id, entries }: AttentionStep): AnnouncedStep {
    const states = new Set<SlotState>();
    for (const entry of entries) states.add(this.#validEntry(entry, states));
    const parts = this.#place([...states], entries);
    try {
      return this.#fill(id, [...states], entries, parts);
    } catch (error) {
      for (const part of parts) part.shard.heap.unstage(part.staging, part.layout.bytes);
      throw error;
    }
  }

  #validEntry({ slot, position, count, visit = false }: StepEntry, others: ReadonlySet<SlotState>): SlotState {
    const { index } = slot;
    const state = this.#slot(slot);
    const { blocks } = state;
    if (!Number.isInteger(position) || position < 0 || !Number.isInteger(count) || count < 1) {
      throw new InputError(
        'ATTENTION_STEP',
        `slot ${index}: ${count} tokens at position ${position} is no run of rows`,
      );
    }
    if (others.has(state)) {
      throw new InputError('ATTENTION_STEP', `slot ${index} is in this step already: it has one entry`);
    }
    if (visit ? position < blocks.tokens - 1 : position > blocks.tokens) {
      throw new InputError(
        'ATTENTION_GAP',
        `slot ${index} holds ${blocks.tokens} tokens: ${visit ? 'a visit is at its last or later' : `the next position is ${blocks.tokens}`}, found ${position}`,
      );
    }
    if (position + count > this.geometry.maxContextTokens) {
      throw new InputError(
        'ATTENTION_CONTEXT',
        `slot ${index} would hold ${position + count} tokens: the longest context is ${this.geometry.maxContextTokens}`,
      );
    }
    if (!blocks.holds(position, blocks.tokens)) {
      throw new InputError('ATTENTION_GAP', `slot ${index} gave back tokens that a row at ${position} sees`);
    }
    if (!visit && blocks.sharesFrom(position)) {
      throw new InputError(
        'ATTENTION_SHARED',
        `slot ${index} shares its block at ${position} with a fork: nobody writes it`,
      );
    }
    return state;
  }

  /** Splits entries by shard and gives each part its staging. @throws CapacityError, with nothing taken */
  #place(states: readonly SlotState[], entries: readonly StepEntry[]): StepPart[] {
    const parts: StepPart[] = [];
    const config = { geometry: this.geometry, rowDtype: this.rowDtype, layout: this.#plan.layout };
    let firstRow = 0;
    try {
      for (let from = 0; from < states.length; ) {
        const { shard } = states[from] as SlotState;
        const own: KernelEntry[] = [];
        let rows = 0;
        for (; states[from]?.shard === shard; from++) {
          const { position, count, visit = false } = entries[from] as StepEntry;
          const { tables, tokens } = (states[from] as SlotState).blocks;
          own.push({ tables, position, count, stored: visit ? tokens : position + count, visit });
          rows += count;
        }
        const { address: staging, layout } = stageStep(shard.heap, config, own, this.#runner.workers);
        parts.push({ shard, entries: own, firstRow, rows, staging, layout });
        firstRow += rows;
      }
    } catch (error) {
      for (const { shard, staging, layout } of parts) shard.heap.unstage(staging, layout.bytes);
      throw error;
    }
    return parts;
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
    const rows = parts.reduce((sum, part) => sum + part.rows, 0);
    const step = newStep({ id, rows, parts, failure: null, readBytes: this.#readBytes(parts), appendedTokens, waits });
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

  /** By group, what an entry's rows see together counting once. */
  #readBytes(parts: readonly StepPart[]): number[] {
    const perToken = kvRowBytes(this.geometry, this.kvDtype, this.#plan.layout.paddedDim);
    return this.#shape.groups.map(({ window }) => {
      let tokens = 0;
      for (const { entries } of parts) {
        for (const { position, count, stored } of entries) {
          const first = window === 0 ? 0 : Math.max(0, position + 1 - window);
          tokens += Math.max(0, Math.min(position + count, stored) - first);
        }
      }
      return tokens * perToken;
    });
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
      if (step.retired) unstage(step);
      step.settled?.resolve();
      step.settled = null;
    }
  }
}

type NewStep = Pick<AnnouncedStep, 'id' | 'rows' | 'parts' | 'failure' | 'readBytes' | 'appendedTokens'>;

function newStep(step: NewStep & { readonly waits?: Set<Promise<void>> }): AnnouncedStep {
  const waits = step.waits ?? new Set();
  return { ...step, waits, layersRun: 0, running: false, retired: false, supersededBy: null, dying: [], settled: null };
}

function unstage({ parts }: AnnouncedStep): void {
  for (const { shard, staging, layout } of parts) shard.heap.unstage(staging, layout.bytes);
}

/** Whether the slot's latest step stores tokens before position `tokens`. */
function writesBelow({ place }: SlotState, tokens: number): boolean {
  const entry = place?.part.entries[place.entry];
  return entry !== undefined && !entry.visit && entry.position < tokens;
}

/** What may still touch the slot's blocks and tables. */
function busyWith({ place, copies }: SlotState): Promise<void>[] {
  const busy = [...copies];
  if (place === null) return busy;
  const { step } = place;
  if (!step.running) return [...busy, ...step.waits];
  step.settled ??= Promise.withResolvers();
  return [...busy, step.settled.promise];
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
