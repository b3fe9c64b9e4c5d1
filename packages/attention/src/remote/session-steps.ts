/**
 * The announced steps of one session at a node. Each has one place for its rows, in the backend's memory: an ATTEND takes it and the
 * RESULT gives it back, when it has left and not before, since it is sent from there. A step that is retired meanwhile ends then.
 */
import { type AttentionGeometry, type GlinthawkError, ProtocolError } from '@glinthawk/core';
import { decodeStep, type Frame, type SessionLimits } from '@glinthawk/wire';
import type { AttentionBackend } from '../backend.ts';
import { refusalOf, type SessionSlots } from './session-slots.ts';

/** Entries of all announced steps together. */
const MAX_ANNOUNCED_ENTRIES = 262_144;

export interface SessionStep {
  readonly id: number;
  readonly rows: number;
  readonly entries: number;
  /** Why its ATTENDs fail. */
  refusal: GlinthawkError | undefined;
  /** Who has the place for its rows: nobody, an ATTEND that is worked on, a RESULT that has not left. */
  holder: 'nobody' | 'attend' | 'result';
  retired: boolean;
}

export class SessionSteps {
  readonly #backend: AttentionBackend;
  readonly #slots: SessionSlots;
  readonly #geometry: AttentionGeometry;
  readonly #limits: SessionLimits;
  readonly #steps = new Map<number, SessionStep>();
  #entries = 0;
  /** Of #steps, retired but not ended. */
  #retired = 0;

  constructor(backend: AttentionBackend, slots: SessionSlots, geometry: AttentionGeometry, limits: SessionLimits) {
    this.#backend = backend;
    this.#slots = slots;
    this.#geometry = geometry;
    this.#limits = limits;
  }

  /** A step that may be attended. @throws ProtocolError */
  require(id: number): SessionStep {
    const step = this.#steps.get(id);
    if (step !== undefined && !step.retired) return step;
    throw new ProtocolError('UNKNOWN_STEP', `ATTEND names step ${id}, which is not announced`);
  }

  /**
   * Judges a STEP by its header.
   * @returns whether there is room for it now, or only when a RESULT on its way has left
   * @throws ProtocolError when the engine has no credit for it
   */
  hasRoom(id: number, rows: number): boolean {
    const same = this.#steps.get(id);
    if (same !== undefined && !(same.retired && same.holder === 'result')) {
      throw new ProtocolError('STEP_EXISTS', `step ${id} is announced already, or its RESULT has not come`);
    }
    const { maxSteps, maxStepRows } = this.#limits;
    if (this.#steps.size - this.#retired >= maxSteps) {
      throw new ProtocolError('TOO_MANY_STEPS', `more than ${maxSteps} steps are announced and not retired`);
    }
    if (rows > maxStepRows) {
      throw new ProtocolError('TOO_MANY_ROWS', `a step of ${rows} rows; at most ${maxStepRows} are taken`);
    }
    return same === undefined && this.#steps.size < maxSteps;
  }

  /** @throws ProtocolError */
  announce(frame: Frame): void {
    const step = decodeStep(frame);
    let refusal: GlinthawkError | undefined;
    for (const { slot, position, count } of step.entries) {
      const open = this.#slots.require('STEP', slot);
      const { maxContextTokens } = this.#geometry;
      if (position + count > maxContextTokens) {
        throw new ProtocolError('BAD_STEP', `STEP reaches position ${position + count} of at most ${maxContextTokens}`);
      }
      refusal ??= open.refusal;
    }
    const entries = step.entries.length;
    this.#entries += entries;
    if (this.#entries > MAX_ANNOUNCED_ENTRIES) {
      throw new ProtocolError('TOO_MANY_STEPS', `the announced steps have more than ${MAX_ANNOUNCED_ENTRIES} entries`);
    }
    refusal ??= refusalOf(() => this.#backend.announce(step));
    const { id } = step;
    this.#steps.set(id, { id, rows: frame.header.rows, entries, refusal, holder: 'nobody', retired: false });
  }

  retire(id: number): void {
    const step = this.#steps.get(id);
    if (step === undefined || step.retired) return;
    step.retired = true;
    this.#retired++;
    if (step.holder === 'nobody') this.#end(step);
  }

  /** The step's rows are nobody's any more. */
  release(step: SessionStep): void {
    step.holder = 'nobody';
    if (step.retired) this.#end(step);
  }

  clear(): void {
    this.#steps.clear();
  }

  #end(step: SessionStep): void {
    if (!this.#steps.delete(step.id)) return; // the session has ended
    this.#retired--;
    this.#entries -= step.entries;
    this.#backend.retire(step.id);
  }
}
