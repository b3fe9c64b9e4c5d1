/**
 * Random traffic on an attention backend, held to a model of it. Everything that happens is decided by the seed and the model alone,
 * never by what ended first: steps are under way side by side, and the oldest is waited for. A backend that is another than the model in a
 * number, a block or a refusal ends it with a Mismatch.
 */
import type { AttentionStep, StepEntry } from '@glinthawk/attention';
import { CapacityError, InputError, outputRowFloats, qkvRowFloats } from '@glinthawk/core';
import { CacheModel, type ModelSlot, type Token } from './cache-model.ts';
import { Comparison } from './comparison.ts';
import type { Phase, Rig } from './phase.ts';
import { geometries } from './phase.ts';
import { Random } from './random.ts';

export class Mismatch extends Error {}

/** What happened, for people. */
export interface Counts {
  actions: number;
  steps: number;
  rows: number;
  appended: number;
  visited: number;
  forks: number;
  frees: number;
  preempted: number;
  aborted: number;
  refused: number;
  compared: number;
  longest: number;
}

export function noCounts(): Counts {
  return {
    actions: 0,
    steps: 0,
    rows: 0,
    appended: 0,
    visited: 0,
    forks: 0,
    frees: 0,
    preempted: 0,
    aborted: 0,
    refused: 0,
    compared: 0,
    longest: 0,
  };
}

interface Entry {
  readonly slot: ModelSlot;
  readonly position: number;
  readonly count: number;
  readonly visit: boolean;
  /** Rows of q, k and v. [layers][count][(groupSize + 2) kvHeads headDim] */
  readonly rows: readonly (readonly Float32Array[])[];
  /** What the rows see, before and with them. */
  readonly tokens: readonly Token[];
  /** How much of the slot's KV was whole before. */
  readonly valid: number;
}

interface PendingStep {
  readonly id: number;
  readonly entries: readonly Entry[];
  /** Layers that are run: fewer than there are where the step is given up. */
  readonly layers: number;
  readonly done: Promise<void>;
}

const MOST_SLOTS = 24;
const SLOT_INDICES = 40;
/** Between two of these, steps overlap. */
const ACTIONS_BETWEEN_RESTS = 60;
/** Beside KV: kernels' and workers' own memory, tables, and the staging of what is under way. */
const SHARD_EXTRA_BYTES = 64 << 20;
/** A node's counts arrive with its answers. */
const SETTLE_MS = 5000;

export class Traffic {
  readonly #phase: Phase;
  readonly #rig: Rig;
  readonly #model: CacheModel;
  readonly #random: Random;
  readonly #counts: Counts;
  readonly #comparison: Comparison;
  readonly #pending: PendingStep[] = [];
  readonly #long = new WeakSet<ModelSlot>();
  #forkedTokens = 0;
  #nextStep = 1;
  #mostPending = 1;
  #action = 0;
  /** What was done last, told with a mismatch. */
  readonly #log: string[] = [];

  constructor(phase: Phase, rig: Rig, counts: Counts) {
    this.#phase = phase;
    this.#rig = rig;
    this.#counts = counts;
    const geometry = geometries[phase.geometry];
    this.#model = new CacheModel(geometry, phase.kvDtype, phase.rowDtype, rig.backend.capacity);
    this.#random = new Random(phase.seed);
    this.#comparison = new Comparison(this.#model, phase.int8);
  }

  /** @throws Mismatch */
  async run(actions: number, stop: () => boolean): Promise<void> {
    try {
      for (; this.#action < actions && !stop(); this.#action++) {
        this.#counts.actions++;
        if (this.#action % ACTIONS_BETWEEN_RESTS === 0) await this.#rest();
        while (this.#pending.length >= this.#mostPending) await this.#settleOldest();
        await this.#act();
        this.#checkCounts();
      }
      await this.#rest();
      for (const slot of [...this.#model.slots.values()]) this.#free(slot);
      await this.#rest();
    } catch (error) {
      await Promise.allSettled(this.#pending.map(({ done }) => done));
      if (!(error instanceof Error)) throw error;
      const lately = this.#log.slice(-12).join('\n    ');
      throw new Mismatch(`action ${this.#action}: ${error.message}\n  lately:\n    ${lately}`, { cause: error });
    }
  }

  async #act(): Promise<void> {
    const random = this.#random;
    const what = random.fraction();
    const slots = [...this.#model.slots.values()];
    if (what < 0.5) this.#step();
    else if (what < 0.64) this.#open();
    else if (what < 0.76) this.#fork();
    else if (what < 0.81) {
      if (slots.length > 3) this.#free(random.pick(slots));
    } else if (what < 0.85) this.#preempt();
    else if (what < 0.89) await this.#refusals();
    else if (this.#pending.length > 0) await this.#settleOldest();
  }

  #unusedIndex(): number {
    let index = this.#random.whole(0, SLOT_INDICES - 1);
    while (this.#model.slots.has(index)) index = (index + 1) % SLOT_INDICES;
    return index;
  }

  #open(index = this.#unusedIndex(), lost: readonly Token[] = []): void {
    if (this.#model.slots.size >= MOST_SLOTS) return;
    const slot = this.#model.open(index, this.#random.whole(0, this.#model.shardBlocks.length - 1), lost);
    this.#note(
      `open ${name(slot)} on shard ${slot.shard}${lost.length > 0 ? `, ${lost.length} tokens to write again` : ''}`,
    );
    if (this.#random.chance(0.2)) this.#long.add(slot);
    this.#rig.backend.open(idOf(slot), slot.shard);
  }

  #fork(): void {
    const parents = [...this.#model.slots.values()].filter(({ valid, ended }) => valid > 0 && !ended);
    if (parents.length === 0 || this.#model.slots.size >= MOST_SLOTS) return;
    const random = this.#random;
    const parent = random.pick(parents);
    const { blockTokens } = this.#model;
    const blocks = Math.floor(parent.valid / blockTokens);
    let tokens = random.whole(1, parent.valid);
    if (random.chance(0.25)) tokens = parent.valid;
    else if (blocks > 0 && random.chance(0.4)) tokens = blockTokens * random.whole(1, blocks);
    if (!this.#model.canFork(parent, tokens)) tokens = parent.valid;
    if (!this.#model.canFork(parent, tokens)) return;
    if (this.#model.forkGrowth(tokens) > this.#model.free(parent.shard)) return;
    const slot = this.#model.fork(this.#unusedIndex(), parent, tokens);
    this.#note(`fork ${name(slot)} of ${tokens} tokens of ${name(parent)}${parent.isBusy ? ', which is busy' : ''}`);
    this.#counts.forks++;
    this.#forkedTokens += tokens;
    this.#rig.backend.fork(idOf(slot), idOf(parent), tokens);
  }

  #free(slot: ModelSlot): void {
    this.#note(`free ${name(slot)}${slot.isBusy ? ', which is busy' : ''}`);
    this.#counts.frees++;
    this.#model.close(slot);
    this.#rig.backend.free(idOf(slot));
  }

  /** What an engine does that has no room: KV is dropped, and written again later, in other pieces. */
  #preempt(): void {
    const idle = [...this.#model.slots.values()].filter(({ isBusy, valid, ended }) => !isBusy && valid > 0 && !ended);
    if (idle.length === 0) return;
    const slot = this.#random.pick(idle);
    this.#free(slot);
    this.#counts.preempted++;
    const lost = [...slot.tokens.slice(0, slot.valid), ...slot.lost.slice(slot.valid)];
    this.#open(this.#random.chance(0.5) ? slot.index : this.#unusedIndex(), lost);
  }

  #step(): void {
    const random = this.#random;
    const idle = [...this.#model.slots.values()].filter(({ isBusy }) => !isBusy);
    const chosen = random.some(idle, random.whole(1, 8)).sort((a, b) => a.shard - b.shard);
    const plans = chosen.flatMap((slot) => this.#plan(slot) ?? []);
    const overflow = random.chance(0.15);
    const room = this.#model.shardBlocks.map((_, shard) => this.#model.free(shard));
    const taken = plans.filter((plan) => {
      const { slot, position, count, visit } = plan;
      const growth = this.#model.growth(slot, position, visit ? 0 : position + count);
      const left = (room[slot.shard] ?? 0) - growth;
      if (left < 0 && !overflow) return false;
      room[slot.shard] = left;
      return true;
    });
    if (taken.length === 0) return;
    // Entries of one shard give back before any of them takes; only then it is known whether there is room.
    for (const { slot, position } of taken) this.#model.leaveBehind(slot, position);
    const needed = this.#model.shardBlocks.map(() => 0);
    for (const { slot, position, count, visit } of taken) {
      if (visit) continue;
      needed[slot.shard] = (needed[slot.shard] ?? 0) + this.#model.growth(slot, position, position + count);
    }
    const fits = needed.every((blocks, shard) => blocks <= this.#model.free(shard));
    this.#announce(taken, fits);
  }

  /** Rows for one slot, or null where there is nothing to be done. */
  #plan(slot: ModelSlot): Omit<Entry, 'tokens'> | null {
    const random = this.#random;
    const { maxContextTokens } = this.#model.geometry;
    const { tokens, valid } = slot;
    const whole = tokens.length > 0 && valid === tokens.length;
    if (whole && (slot.ended || random.chance(0.15))) {
      const position = Math.max(slot.position, tokens.length - 1 + (random.chance(0.3) ? random.whole(0, 150) : 1));
      const count = random.whole(1, 6);
      if (position + count > maxContextTokens) return null;
      return { slot, position, count, visit: true, valid, rows: this.#rows(slot, position, count, true) };
    }
    if (slot.ended) return null;
    const earliest = Math.max(slot.floor, slot.position);
    const position = earliest < valid && random.chance(0.1) ? random.whole(earliest, valid) : valid;
    if (position < earliest) return null;
    const count = Math.min(this.#length(slot), maxContextTokens - position);
    if (count < 1) return null;
    return { slot, position, count, visit: false, valid, rows: this.#rows(slot, position, count, false) };
  }

  #length(slot: ModelSlot): number {
    const random = this.#random;
    if (slot.lost.length > slot.valid) return random.whole(1, slot.lost.length - slot.valid);
    if (this.#long.has(slot) && random.chance(0.4)) return random.whole(300, 900);
    const kind = random.fraction();
    if (kind < 0.6) return 1;
    if (kind < 0.9) return random.whole(2, 40);
    return random.whole(30, 130);
  }

  #rows(slot: ModelSlot, position: number, count: number, visit: boolean): Float32Array[][] {
    const { geometry } = this.#model;
    const { layers, groupSize, kvHeads, headDim } = geometry;
    const qFloats = groupSize * kvHeads * headDim;
    const queryScale = this.#random.chance(0.1) ? 4 : 1;
    return Array.from({ length: layers }, (_, layer) =>
      Array.from({ length: count }, (_, i) => {
        const row = this.#random.normal(new Float32Array(qkvRowFloats(geometry)));
        const before = visit ? undefined : slot.lost[position + i]?.rows[layer];
        if (before !== undefined) row.set(before.subarray(qFloats), qFloats);
        if (queryScale !== 1) for (let q = 0; q < qFloats; q++) row[q] = queryScale * (row[q] as number);
        return row;
      }),
    );
  }

  #announce(plans: readonly Omit<Entry, 'tokens'>[], fits: boolean): void {
    const id = this.#nextStep++;
    const { layers } = this.#model.geometry;
    const entries = plans.map((plan): Entry => {
      const { slot, position, count, visit, rows } = plan;
      if (!fits) return { ...plan, tokens: [] };
      if (visit) {
        if (position > slot.tokens.length) slot.ended = this.#phase.geometry === 'windows' || slot.ended;
      } else {
        const added = Array.from({ length: count }, (_, i) =>
          this.#model.token(rows.map((ofLayer) => ofLayer[i] as Float32Array)),
        );
        this.#model.append(slot, position, added);
        slot.valid = position;
        this.#counts.appended += count;
      }
      slot.isBusy = true;
      this.#counts.longest = Math.max(this.#counts.longest, slot.tokens.length);
      return { ...plan, tokens: slot.tokens };
    });
    const given = fits && this.#random.chance(0.06) ? this.#random.whole(0, layers - 1) : layers;
    const wantsSums = this.#random.chance(0.5);
    const step: AttentionStep = { id, entries: entries.map(entryOf) };
    this.#note(
      `step ${id}${fits ? '' : ' without room'}${given < layers ? `, given up after ${given} layers` : ''}: ${entries.map(entryText).join(', ')}`,
    );
    this.#rig.backend.announce(step);
    this.#counts.steps++;
    const done = fits ? this.#runLayers(id, entries, given, wantsSums) : this.#expectNoRoom(id, entries);
    done.catch(() => {}); // looked at when its turn has come
    this.#pending.push({ id, entries: fits ? entries : [], layers: given, done });
  }

  async #runLayers(id: number, entries: readonly Entry[], layers: number, wantsSums: boolean): Promise<void> {
    const { geometry } = this.#model;
    const rows = entries.reduce((sum, { count }) => sum + count, 0);
    const heads = geometry.groupSize * geometry.kvHeads;
    for (let layer = 0; layer < layers; layer++) {
      const qkv = new Float32Array(rows * qkvRowFloats(geometry));
      let at = 0;
      for (const entry of entries) {
        for (const row of entry.rows[layer] ?? []) {
          qkv.set(row, at);
          at += row.length;
        }
      }
      const output = new Float32Array(rows * outputRowFloats(geometry)).fill(Number.NaN);
      const sums = wantsSums ? new Float32Array(rows * heads).fill(Number.NaN) : undefined;
      await this.#rig.backend.attend(id, layer, qkv, output, sums);
      const found = this.#comparison.check(id, layer, entries, output, sums);
      this.#counts.compared += found.compared;
      if (found.failure !== null) throw new Error(`step ${id}, layer ${layer}: ${found.failure}`);
    }
  }

  async #expectNoRoom(id: number, entries: readonly Entry[]): Promise<void> {
    const { geometry } = this.#model;
    const rows = entries.reduce((sum, { count }) => sum + count, 0);
    const qkv = new Float32Array(rows * qkvRowFloats(geometry));
    try {
      await this.#rig.backend.attend(id, 0, qkv, new Float32Array(rows * outputRowFloats(geometry)));
    } catch (error) {
      this.#counts.refused++;
      if (error instanceof CapacityError) return;
      throw error;
    }
    throw new Error(`step ${id} ran, but its blocks have no room`);
  }

  async #settleOldest(): Promise<void> {
    const step = this.#pending.shift();
    if (step === undefined) return;
    await step.done;
    this.#rig.backend.retire(step.id);
    const complete = step.layers === this.#model.geometry.layers;
    if (!complete) this.#counts.aborted++;
    for (const { slot, position, count, visit, valid } of step.entries) {
      slot.isBusy = false;
      this.#counts.rows += count;
      if (visit) this.#counts.visited += count;
      else if (complete) slot.valid = Math.max(valid, position + count);
    }
  }

  /** What must be refused, with nothing changed. A node ends the connection of who breaks the rules, so only here. */
  async #refusals(): Promise<void> {
    const slots = [...this.#model.slots.values()];
    if (this.#phase.path !== 'local' || slots.length === 0) return;
    const { backend } = this.#rig;
    const slot = this.#random.pick(slots);
    const id = idOf(slot);
    this.#counts.refused++;
    switch (this.#random.whole(0, 4)) {
      case 0:
        expectRefusal('a taken slot', () => backend.open(id, slot.shard));
        return;
      case 1:
        backend.free({ index: slot.index, generation: slot.generation - 1 }); // ignored
        return;
      case 2:
        expectRefusal('a fork of more than there is', () =>
          backend.fork({ index: SLOT_INDICES, generation: this.#action }, id, slot.tokens.length + 1),
        );
        return;
      case 3:
        expectRefusal('a shard that is not there', () =>
          backend.open({ index: SLOT_INDICES, generation: this.#action }, this.#model.shardBlocks.length),
        );
        return;
      default:
        await this.#expectGap(slot);
    }
  }

  async #expectGap(slot: ModelSlot): Promise<void> {
    const { backend } = this.#rig;
    const { geometry } = this.#model;
    const id = this.#nextStep++;
    backend.announce({ id, entries: [{ slot: idOf(slot), position: slot.tokens.length + 1, count: 1 }] });
    const qkv = new Float32Array(qkvRowFloats(geometry));
    try {
      await backend.attend(id, 0, qkv, new Float32Array(outputRowFloats(geometry)));
    } catch (error) {
      if (error instanceof InputError) return;
      throw error;
    } finally {
      backend.retire(id);
    }
    throw new Error(`a row of ${name(slot)} beyond a gap ran`);
  }

  /** Nothing is under way: every count is what the model says. */
  async #rest(): Promise<void> {
    while (this.#pending.length > 0) await this.#settleOldest();
    const { backend, cache } = this.#rig;
    const wanted = {
      usedBlocks: this.#model.usedBlocks,
      openSlots: this.#model.slots.size,
      forkedTokens: this.#forkedTokens,
    };
    const until = performance.now() + SETTLE_MS;
    for (const one of new Set([backend, cache])) {
      for (;;) {
        const { usedBlocks, openSlots, forkedTokens } = one.stats();
        const found = JSON.stringify({ usedBlocks, openSlots, forkedTokens });
        if (found === JSON.stringify(wanted)) break;
        if (one === cache && backend === cache) throw new Error(`counts are ${found}, not ${JSON.stringify(wanted)}`);
        if (performance.now() > until)
          throw new Error(`${one.name} still says ${found}, not ${JSON.stringify(wanted)}`);
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
    }
    const { blockBytes, shards } = cache.capacity;
    const bound = shards.reduce((sum, { blocks }) => sum + blocks * blockBytes + SHARD_EXTRA_BYTES, 0);
    if (cache.allocatedBytes() > bound) throw new Error(`${cache.allocatedBytes()} bytes are held, ${bound} may be`);
    this.#mostPending = this.#random.whole(1, 6);
  }

  /** Here and now, with steps under way. */
  #checkCounts(): void {
    if (this.#phase.path !== 'local') return;
    const { usedBlocks, openSlots } = this.#rig.backend.stats();
    if (usedBlocks !== this.#model.usedBlocks) {
      throw new Error(`${usedBlocks} blocks are in use; by the model ${this.#model.usedBlocks}`);
    }
    if (openSlots !== this.#model.slots.size) {
      throw new Error(`${openSlots} slots are open; by the model ${this.#model.slots.size}`);
    }
  }

  #note(text: string): void {
    this.#log.push(text);
    if (this.#log.length > 100) this.#log.splice(0, 50);
  }
}

function idOf({ index, generation }: ModelSlot): { readonly index: number; readonly generation: number } {
  return { index, generation };
}

function name({ index, generation }: ModelSlot): string {
  return `${index}.${generation}`;
}

function entryOf({ slot, position, count, visit }: Entry): StepEntry {
  return { slot: idOf(slot), position, count, ...(visit ? { visit } : {}) };
}

function entryText({ slot, position, count, visit }: Entry): string {
  return `${visit ? 'visit ' : ''}${name(slot)} at ${position}${count > 1 ? ` to ${position + count - 1}` : ''}`;
}

function expectRefusal(what: string, act: () => void): void {
  try {
    act();
  } catch (error) {
    if (error instanceof InputError) return;
    throw error;
  }
  throw new Error(`${what} was not refused`);
}
