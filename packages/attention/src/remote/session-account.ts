/**
 * What an engine has opened and announced at a node, and whether its next call is one that the node takes: mistakes are thrown where
 * they are made, and the credit that WELCOME gave (slots, steps, rows) is never overdrawn, which would end the session.
 */
import { type AttentionGeometry, CapacityError, InputError, outputRowFloats, qkvRowFloats } from '@glinthawk/core';
import { type SessionLimits, stepRows } from '@glinthawk/wire';
import type { AttentionStep, Slot } from '../backend.ts';

export interface AccountedStep {
  readonly step: AttentionStep;
  readonly rows: number;
  /** The layer that is under way: a step's layers go one after the other. */
  layer: number | undefined;
}

export class SessionAccount {
  readonly #name: string;
  readonly #geometry: AttentionGeometry;
  readonly #limits: SessionLimits;
  readonly #shards: number;
  /** Generations of open slots, by index. */
  readonly #slots = new Map<number, number>();
  readonly #steps = new Map<number, AccountedStep>();
  /** Retired with a layer under way: their ids are not free yet. */
  readonly #ending = new Set<number>();

  constructor(name: string, geometry: AttentionGeometry, limits: SessionLimits, shards: number) {
    this.#name = name;
    this.#geometry = geometry;
    this.#limits = limits;
    this.#shards = shards;
  }

  get openSlots(): number {
    return this.#slots.size;
  }

  /** @throws InputError, CapacityError */
  open(slot: Slot, shard: number): void {
    if (!(shard >= 0 && shard < this.#shards)) {
      throw new InputError('BAD_SHARD', `${this.#name} has ${this.#shards} shards, not a shard ${shard}`);
    }
    this.#add(slot);
  }

  /** @throws InputError, CapacityError */
  fork(slot: Slot, parent: Slot, tokens: number): void {
    this.#require(parent);
    const { maxContextTokens } = this.#geometry;
    if (!(tokens >= 0 && tokens <= maxContextTokens)) {
      throw new InputError('CONTEXT_EXCEEDED', `a fork takes over 0 to ${maxContextTokens} tokens, not ${tokens}`);
    }
    this.#add(slot);
  }

  /** @returns whether it was open */
  free(slot: Slot): boolean {
    return this.#slots.get(slot.index) === slot.generation && this.#slots.delete(slot.index);
  }

  /** @throws InputError when it names slots that aren't open, is known, or has more rows than the node takes */
  announce(step: AttentionStep): void {
    const { maxSteps, maxStepRows } = this.#limits;
    if (this.#steps.has(step.id) || this.#ending.has(step.id)) {
      throw new InputError('STEP_EXISTS', `step ${step.id} is announced already`);
    }
    if (this.#steps.size >= maxSteps) {
      throw new InputError('TOO_MANY_STEPS', `${this.#name} takes ${maxSteps} steps that are not retired`);
    }
    const rows = stepRows(step.entries);
    if (rows === 0 || rows > maxStepRows) {
      throw new InputError('TOO_MANY_ROWS', `${this.#name} takes steps of 1 to ${maxStepRows} rows, not ${rows}`);
    }
    const { maxContextTokens } = this.#geometry;
    for (const { slot, position, count } of step.entries) {
      this.#require(slot);
      if (position + count > maxContextTokens) {
        throw new InputError('CONTEXT_EXCEEDED', `position ${position + count} is beyond ${maxContextTokens} tokens`);
      }
    }
    this.#steps.set(step.id, { step, rows, layer: undefined });
  }

  /** @returns whether it was announced */
  retire(stepId: number): boolean {
    if (this.#steps.get(stepId)?.layer !== undefined) this.#ending.add(stepId);
    return this.#steps.delete(stepId);
  }

  /** A layer of a step begins. @throws InputError */
  begin(
    stepId: number,
    layer: number,
    qkv: Float32Array,
    output: Float32Array,
    logSumExp: Float32Array | undefined,
  ): AccountedStep {
    const announced = this.#steps.get(stepId);
    if (announced === undefined) throw new InputError('UNKNOWN_STEP', `step ${stepId} is not announced`);
    const { layers, groupSize, kvHeads } = this.#geometry;
    if (!(layer >= 0 && layer < layers)) throw new InputError('BAD_LAYER', `layer ${layer} of ${layers}`);
    if (announced.layer !== undefined) {
      throw new InputError('ATTEND_PENDING', `layer ${announced.layer} of this step is under way: await it first`);
    }
    const { rows } = announced;
    requireRows('qkv', qkv, rows, qkvRowFloats(this.#geometry));
    requireRows('output', output, rows, outputRowFloats(this.#geometry));
    if (logSumExp !== undefined) requireRows('logSumExp', logSumExp, rows, groupSize * kvHeads);
    announced.layer = layer;
    return announced;
  }

  /** It has ended, one way or the other. */
  end(announced: AccountedStep): void {
    announced.layer = undefined;
    this.#ending.delete(announced.step.id);
  }

  clear(): void {
    this.#slots.clear();
    this.#steps.clear();
    this.#ending.clear();
  }

  #add({ index, generation }: Slot): void {
    const { maxSlots } = this.#limits;
    if (index >= maxSlots) {
      throw new CapacityError('TOO_MANY_SLOTS', `${this.#name} takes ${maxSlots} slots; slot ${index} was asked for`);
    }
    if (this.#slots.has(index)) throw new InputError('SLOT_IN_USE', `slot ${index} is open at ${this.#name}`);
    this.#slots.set(index, generation);
  }

  #require({ index, generation }: Slot): void {
    if (this.#slots.get(index) === generation) return;
    throw new InputError('UNKNOWN_SLOT', `slot ${index} (generation ${generation}) is not open at ${this.#name}`);
  }
}

function requireRows(what: string, found: Float32Array, rows: number, rowFloats: number): void {
  if (found.length >= rows * rowFloats) return;
  throw new InputError('BAD_LENGTH', `${what} has ${found.length} floats; ${rows} rows of ${rowFloats} were expected`);
}
