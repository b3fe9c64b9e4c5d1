/**
 * Random traffic on an attention backend, held to a model of it. Everything that happens is decided by the seed and the model alone,
 * never by what ended first: steps are under way side by side, and the oldest is waited for. A backend that is another than the model in a
 * number, a block or a refusal ends it with a Mismatch.
 */
import type { AttentionStep, StepEntry } from '@glinthawk/attention';
import { CapacityError, outputRowFloats, qkvRowFloats } from '@glinthawk/core';
import { Accounts } from './accounts.ts';
import { CacheModel, type ModelSlot } from './cache-model.ts';
import { Comparison } from './comparison.ts';
import type { Counts } from './counts.ts';
import { geometries, type Phase, type Rig } from './phase.ts';
import { Random } from './random.ts';
import { idOf, refuseGap, refuseLongFork, refuseTakenSlot, refuseUnknownShard } from './refusals.ts';
import { type PlannedEntry, StepPlanner } from './step-plan.ts';
import type { Token } from './token-rows.ts';

export class Mismatch extends Error {}

interface Entry extends PlannedEntry {
  /** What the rows see, before and with them. */
  readonly tokens: readonly Token[];
}

interface PendingStep {
  readonly id: number;
  readonly entries: readonly Entry[];
  /** Layers that are run: fewer than there are where the step is given up. */
  readonly layers: number;
  readonly done: Promise<void>;
}

/** Between two of these, steps overlap. */
const ACTIONS_BETWEEN_RESTS = 60;

/** Whoever runs traffic. */
export interface TrafficWatcher {
  /** Whether to end. */
  stop(): boolean;
  /** Before its first action. */
  began?(traffic: Traffic): void;
  /** Nothing is under way. @param wasmBytes that the cache has used */
  atRest?(wasmBytes: number): void;
}

export class Traffic {
  readonly #phase: Phase;
  readonly #rig: Rig;
  readonly #model: CacheModel;
  readonly #random: Random;
  readonly #counts: Counts;
  readonly #comparison: Comparison;
  readonly #accounts: Accounts;
  readonly #planner: StepPlanner;
  readonly #pending: PendingStep[] = [];
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
    this.#model = new CacheModel(geometry, rig.backend.capacity);
    this.#random = new Random(phase.seed);
    this.#comparison = new Comparison(geometry, phase.kvDtype, phase.int8, phase.rowDtype);
    this.#accounts = new Accounts(rig, this.#model, counts);
    this.#planner = new StepPlanner(phase, this.#model, this.#random, this.#comparison.rows.tokens);
  }

  /** @throws Mismatch */
  async run(actions: number, watcher: TrafficWatcher): Promise<void> {
    watcher.began?.(this);
    try {
      for (; this.#action < actions && !watcher.stop(); this.#action++) {
        this.#counts.actions++;
        if (this.#action % ACTIONS_BETWEEN_RESTS === 0) {
          await this.#rest();
          watcher.atRest?.(this.#rig.cache.allocatedBytes());
        }
        while (this.#pending.length >= this.#mostPending) await this.#settleOldest();
        await this.#act();
        await this.#accounts.check(this.#action, this.#pending.length);
        if (this.#model.shardBlocks.every((_, shard) => this.#model.free(shard) < this.#model.groups)) {
          this.#counts.full++;
        }
      }
      await this.#rest();
      for (const slot of [...this.#model.slots.values()]) this.#free(slot);
      await this.#rest();
    } catch (error) {
      await Promise.allSettled(this.#pending.map(({ done }) => done));
      if (!(error instanceof Error)) throw error;
      throw new Mismatch(`${this.where()}: ${error.message}\n  lately:\n    ${this.#log.slice(-12).join('\n    ')}`, {
        cause: error,
      });
    }
  }

  /** How far it is, for people. */
  where(): string {
    const pending = this.#pending.map(({ id }) => id);
    return `action ${this.#action}, step ${this.#nextStep - 1}${pending.length > 0 ? ` (under way: ${pending.join(', ')})` : ''}`;
  }

  async #act(): Promise<void> {
    if (this.#phase.fill === 'full' && this.#isNearlyFull && this.#random.chance(0.25)) return this.#crowd();
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

  get #isNearlyFull(): boolean {
    return this.#model.usedBlocks > 0.9 * this.#model.blocks;
  }

  /** There is hardly any room: somebody gives way, perhaps in the midst of a step, and others take at once all that there is. */
  #crowd(): void {
    const random = this.#random;
    const slots = [...this.#model.slots.values()];
    const busy = slots.filter(({ isBusy }) => isBusy);
    const kind = random.fraction();
    if (kind < 0.35 && busy.length > 0) this.#free(random.pick(busy));
    else if (kind < 0.6) this.#free(random.pick(slots));
    else if (kind < 0.8) this.#preempt();
    if (this.#model.slots.size < 2) this.#open();
    if (random.chance(0.5)) this.#fork();
    const idle = [...this.#model.slots.values()].filter(({ isBusy }) => !isBusy);
    const plans = random.some(idle, 6).flatMap((slot) => this.#planner.planToTheBrim(slot) ?? []);
    const shards = new Set<number>();
    const one = plans.filter(({ slot }) => !shards.has(slot.shard) && shards.add(slot.shard)); // of each shard
    if (one.length > 0) this.#announceFitting(one, random.chance(0.05));
  }

  /** Some are free always. */
  get #slotIndices(): number {
    return 2 * this.#phase.mostSlots;
  }

  #unusedIndex(): number {
    const indices = this.#slotIndices;
    let index = this.#random.whole(0, indices - 1);
    while (this.#model.slots.has(index)) index = (index + 1) % indices;
    return index;
  }

  #open(index = this.#unusedIndex(), lost: readonly Token[] = []): void {
    if (this.#model.slots.size >= this.#phase.mostSlots) return;
    const slot = this.#model.open(index, this.#random.whole(0, this.#model.shardBlocks.length - 1), lost);
    this.#note(
      `open ${name(slot)} on shard ${slot.shard}${lost.length > 0 ? `, ${lost.length} tokens to write again` : ''}`,
    );
    this.#planner.begin(slot);
    this.#rig.backend.open(idOf(slot), slot.shard);
  }

  #fork(): void {
    const parents = [...this.#model.slots.values()].filter(({ valid, ended }) => valid > 0 && !ended);
    if (parents.length === 0 || this.#model.slots.size >= this.#phase.mostSlots) return;
    const random = this.#random;
    const [one, other] = [random.pick(parents), random.pick(parents)];
    const parent = one.valid > other.valid ? one : other;
    const { blockTokens } = this.#model;
    const blocks = Math.floor(parent.valid / blockTokens);
    let tokens = random.whole(1, parent.valid);
    if (random.chance(0.25)) tokens = parent.valid;
    else if (blocks > 0 && random.chance(0.4)) tokens = blockTokens * random.whole(1, blocks);
    if (!this.#model.canFork(parent, tokens)) tokens = parent.valid;
    if (!this.#model.canFork(parent, tokens)) return;
    if (this.#model.forkGrowth(tokens) > this.#model.free(parent.shard)) return;
    const slot = this.#model.fork(this.#unusedIndex(), parent, tokens);
    this.#planner.begin(slot);
    this.#note(`fork ${name(slot)} of ${tokens} tokens of ${name(parent)}${parent.isBusy ? ', which is busy' : ''}`);
    this.#counts.forks++;
    this.#accounts.forked(tokens);
    this.#rig.backend.fork(idOf(slot), idOf(parent), tokens);
    if (random.chance(0.1)) this.#free(parent); // what they had together is the child's alone
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
    const plans = random.some(idle, random.whole(1, 8)).flatMap((slot) => this.#planner.plan(slot) ?? []);
    this.#announceFitting(plans, random.chance(0.15));
  }

  /** Those that there is room for; with `overflow` all of them, and the step is refused if there is none. */
  #announceFitting(planned: readonly PlannedEntry[], overflow: boolean): void {
    const plans = [...planned].sort((a, b) => a.slot.shard - b.slot.shard);
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

  #announce(plans: readonly PlannedEntry[], fits: boolean): void {
    const id = this.#nextStep++;
    const { layers } = this.#model.geometry;
    const entries = plans.map((plan): Entry => {
      const { slot, position, count, visit, rows } = plan;
      if (!fits) return { ...plan, tokens: [] };
      if (visit) {
        if (position > slot.tokens.length) slot.ended = this.#phase.geometry === 'windows' || slot.ended;
      } else {
        this.#model.append(slot, position, rows);
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
      const rowFloats = qkvRowFloats(geometry);
      const qkv = new Float32Array(rows * rowFloats);
      let at = 0;
      for (const entry of entries) {
        for (const token of entry.rows) {
          this.#comparison.rows.write(qkv.subarray(at, at + rowFloats), token, layer, entry.query);
          at += rowFloats;
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
      else if (complete) this.#accounts.appended(count);
      if (!visit && complete) slot.valid = Math.max(valid, position + count);
    }
  }

  async #refusals(): Promise<void> {
    const slots = [...this.#model.slots.values()];
    if (this.#phase.path !== 'local' || slots.length === 0) return;
    const { backend } = this.#rig;
    const slot = this.#random.pick(slots);
    const unknown = { index: this.#slotIndices, generation: this.#action };
    this.#counts.refused++;
    switch (this.#random.whole(0, 4)) {
      case 0:
        return refuseTakenSlot(backend, slot);
      case 1:
        return backend.free({ index: slot.index, generation: slot.generation - 1 }); // ignored
      case 2:
        return refuseLongFork(backend, unknown, slot);
      case 3:
        return refuseUnknownShard(backend, unknown);
      default:
        return refuseGap(backend, slot, this.#nextStep++);
    }
  }

  async #rest(): Promise<void> {
    while (this.#pending.length > 0) await this.#settleOldest();
    await this.#accounts.checkAtRest();
    this.#mostPending = this.#random.whole(1, 6);
  }

  #note(text: string): void {
    this.#log.push(`${this.#action}: ${text}`);
    if (this.#log.length > 100) this.#log.splice(0, 50);
  }
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
